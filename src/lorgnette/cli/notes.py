"""What is left out of pictures, each kind of it told once for all of them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Notes:
    """Gathers what is said of each picture."""

    def __init__(self) -> None:
        self._found: dict[str, list[Path]] = {}

    @contextmanager
    def of(self, source: Path, target: Path) -> Iterator[None]:
        """Within this context, warnings about the two files are gathered; others are shown as ever."""
        from lorgnette.images.errors import ImageWarning

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ImageWarning)
            try:
                yield
            finally:
                others = [warning for warning in caught if not self._take(warning, source, target)]
        for other in others:
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)

    def _take(self, warning: warnings.WarningMessage, source: Path, target: Path) -> bool:
        for path in (source, target):
            text = str(warning.message)
            if text.startswith(f"{path}: "):
                files = self._found.setdefault(text.removeprefix(f"{path}: "), [])
                files.extend([path] if path not in files[-1:] else [])
                return True
        return False

    def lines(self) -> list[str]:
        """A line for each kind of what was said."""
        return [
            f"{files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}: {what}"
            for what, files in self._found.items()
        ]


@contextmanager
def told() -> Iterator[Notes]:
    """Notes that are printed at the end, whatever it is."""
    notes = Notes()
    try:
        yield notes
    finally:
        for line in notes.lines():
            print(f"lorgnette: {line}", file=sys.stderr)
