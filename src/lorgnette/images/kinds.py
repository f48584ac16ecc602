"""Names of the kinds of damage that `lorgnette.images.damage` makes. Imports nothing."""

from __future__ import annotations

from typing import Literal, cast, get_args

Kind = Literal["", "photo", "phone", "camera", "web", "sharpened", "film", "scan", "counts", "screen", "art"]
"""A key of `lorgnette.images.damage.DAMAGES`, or '': none."""

DAMAGE_HELP = "a kind of damage as in data.damage, or none; unset: none, of restore that of the adapter"

PEERS_HELP = (
    "of superres and restore: a row for each other program that is installed, or for those named, such as DAT-light; "
    "some take minutes"
)


def kind(word: str) -> Kind:
    """A word of the command line as a kind of damage; 'none' is none."""
    if word not in ("none", *get_args(Kind)):
        raise ValueError(f"damage: {word!r} is not known; none, {', '.join(get_args(Kind)[1:])} are")
    return cast(Kind, "" if word == "none" else word)
