"""What a typed word means, for `argparse`; one line says what would have worked."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole(least: int = 1, most: int | None = None) -> Callable[[str], int]:
    """A type for `add_argument`: whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            works = f"a whole number of at least {least}" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} does not work; {works} does")
        return value

    return read


def factor(text: str, least: float = 1) -> float:
    """A type for `add_argument`: a factor to enlarge by, or with a `least` below 1 also to reduce by."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not least <= value <= 32:  # nan compares false
        raise argparse.ArgumentTypeError(f"{text!r} does not work; a number from {least:g} to 32 does, such as 3.3")
    return value
