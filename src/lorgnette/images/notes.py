"""What is left out of pictures, each kind of it told once for all of them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorgnette.images.errors import ImageWarning


class Notes:
    """Gathers what is said of each picture; `shown` is how a file is called."""

    def __init__(self, shown: Callable[[Path], object] = str) -> None:
        self._found: dict[str, list[Path]] = {}
        self._shown = shown

    @contextmanager
    def of(self, *files: Path) -> Iterator[None]:
        """Within this context, warnings about these files are gathered; others are shown as ever."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ImageWarning)
            try:
                yield
            finally:
                others = [warning for warning in caught if not self._take(warning, files)]
        for other in others:
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)

    def _take(self, warning: warnings.WarningMessage, paths: tuple[Path, ...]) -> bool:
        for path in paths:
            text = str(warning.message)
            if text.startswith(f"{path}: "):
                files = self._found.setdefault(text.removeprefix(f"{path}: "), [])
                files.extend([path] if path not in files[-1:] else [])
                return True
        return False

    def lines(self) -> list[str]:
        """A line for each kind of what was said."""
        return [
            f"{self._shown(files[0])}{f' and {len(files) - 1} more' if len(files) > 1 else ''}: {what}"
            for what, files in self._found.items()
        ]


@contextmanager
def in_one_line() -> Iterator[None]:
    """Within this context, what is left out of a picture is shown without the line of code that said it."""
    usual = warnings.formatwarning

    def shown(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> str:
        if issubclass(category, ImageWarning):
            return f"lorgnette: {message}\n"
        return usual(message, category, *where, **more)

    warnings.formatwarning = shown
    try:
        yield
    finally:
        warnings.formatwarning = usual


@contextmanager
def told() -> Iterator[Notes]:
    """Notes that are printed at the end, whatever it is."""
    notes = Notes()
    try:
        yield notes
    finally:
        for line in notes.lines():
            print(f"lorgnette: {line}", file=sys.stderr)
