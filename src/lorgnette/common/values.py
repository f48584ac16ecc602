"""What a typed word means, for `argparse`, and which words a setting takes; one line says what would have worked."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lorgnette.common.text import nearest


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


def factor(text: str, least: float = 1, most: float = 32) -> float:
    """A type for `add_argument`: a number, such as a factor to enlarge by, or with a `least` below 1 to reduce by."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not least <= value <= most:  # nan compares false
        raise argparse.ArgumentTypeError(
            f"{text!r} does not work; a number from {least:g} to {most:g} does, such as 3.3"
        )
    return value


def check_choices(settings: Any, group: str) -> None:
    """Refuse a word that a setting does not take, which only a type checker would have noticed.

    Args:
        settings: a dataclass; looked at are its fields of type `Literal`.
        group: what stands before their names in the error, such as 'train.'.

    Raises:
        ValueError: a field holds another word than its type names.
    """
    kinds = get_type_hints(type(settings))
    for name in (field.name for field in fields(settings)):
        works, value = [repr(word) for word in get_args(kinds[name])], getattr(settings, name)
        if get_origin(kinds[name]) is Literal and repr(value) not in works:
            hint = nearest(str(value), get_args(kinds[name]))
            raise ValueError(f"{group}{name}: {value!r} does not work{hint}; {' or '.join(works)} does")
