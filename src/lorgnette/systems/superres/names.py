"""What methods and encoders are called. Imports no torch."""

from __future__ import annotations

from lorgnette.common.text import nearest

METHODS = ("lm-lte", "lm-liif", "lm-ciaosr", "lte", "liif")
ALIASES = {"edsr-b": "edsr-baseline", "rdn-b": "rdn"}  # as documents and file names have them


def method_name(name: str) -> str:
    """The one of `METHODS` that is meant, as 'LMLTE' or 'lm_lte'; a one-line ValueError where there is none."""
    plain = "".join(filter(str.isalnum, name.lower()))
    for known in METHODS:
        if plain == known.replace("-", ""):
            return known
    raise ValueError(f"model.method: {name!r} is not known{nearest(name, METHODS)}; there is {', '.join(METHODS)}")


def encoder_name(name: str) -> str:
    """The published spelling of an encoder's name, known or not."""
    spelled = name.lower().replace("_", "-")
    return ALIASES.get(spelled, spelled)
