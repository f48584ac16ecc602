"""What of that which a picture says of itself goes into a file of a format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lorgnette.images import exif as exif_data
from lorgnette.images.about import About, xmp_for
from lorgnette.images.formats import pillow
from lorgnette.images.formats.table import Format

_RESOLUTION_IN_EXIF = ("TIFF", "WEBP", "AVIF", "HEIF", "JXL")  # which have no other place for it

Kept = tuple[bytes | None, bytes | None, About, list[str]]
"""Profile, EXIF data and the rest as they go into the file; and what does not, in words."""


def kept_by(format: Format, size: tuple[int, int], icc: bytes | None, exif: bytes | None, about: About) -> Kept:
    """What is said of a picture, for a file of this format and of `size` (H, W)."""
    height, width = size
    if about.xmp:
        about = replace(about, xmp=xmp_for(about.xmp, width, height, about.dpi))
    exif = exif_data.resized(exif, width, height, about.dpi, add=format.name in _RESOLUTION_IN_EXIF)
    keeps = format.keeps.difference(pillow.too_long(format, exif, about))
    lost = [name for kind, name in said(icc, exif, about) if kind not in keeps]
    kept = replace(
        about,
        dpi=about.dpi if "dpi" in keeps else None,
        xmp=about.xmp if "xmp" in keeps else None,
        iptc=about.iptc if "iptc" in keeps else None,
        texts=tuple(pair for pair in about.texts if ("comment" if pair[0] == "Comment" else "texts") in keeps),
    )
    return icc if "icc" in keeps else None, exif if "exif" in keeps else None, kept, [*lost, *about.lost]


def said(icc: bytes | None, exif: bytes | None, about: About) -> Iterator[tuple[str, str]]:
    """What there is: the kind, as `Format.keeps` has it, and how it is named."""
    found = {"icc": (icc, "colour profile"), "exif": (exif, "EXIF data"), "xmp": (about.xmp, "XMP data")}
    found |= {"iptc": (about.iptc, "IPTC data"), "dpi": (about.dpi, "resolution (dpi)")}
    yield from ((kind, name) for kind, (data, name) in found.items() if data)
    if about.comment:
        yield "comment", "comment"
    if texts := [keyword for keyword, _ in about.texts if keyword != "Comment"]:
        yield "texts", f"texts ({', '.join(texts)})"
    if not about.is_plain and (icc is None or b"cICP" in dict(about.colour)):
        yield "colour", f"what it says of its colours ({', '.join(kind.decode() for kind, _ in about.colour)})"
