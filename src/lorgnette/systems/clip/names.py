"""When two names mean one class. Imports no torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable


def spoken(folder: str) -> str:
    """A folder's name as a person says it; accents in one form, whichever the disk or the archive it came in uses."""
    return unicodedata.normalize("NFC", folder).replace("_", " ")


def class_key(name: str) -> str:
    """What two names of one class have in common: capitals, spaces, _ and forms of Unicode make no difference."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(plain.replace("_", " ").split())


def check_different(names: Iterable[str], called: Callable[[str], str] = str, what: str = "data.classes:") -> None:
    """Refuse classes that come to the same.

    Args:
        names: as the error shows them.
        called: what a class is called, by the name that is shown.
        what: what they are, in the error.

    Raises:
        ValueError: two of them do; one line names both.
    """
    seen: dict[str, str] = {}
    for name in names:
        key = class_key(called(name))
        if key in seen:
            raise ValueError(
                f"{what} {seen[key]!r} and {name!r} are one class but for capitals, spaces, _ or the form of accents:"
                " rename one, or make them one"
            )
        seen[key] = name
