"""What a picture says of itself beside its profile and EXIF data, on its way from one file to another."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace

CENTIMETRES = 2.54  # of an inch
_PROPERTY = rb"(%s(?:\s*=\s*[\"']|\s*>\s*))([\d./]+)"
_SRGB_GAMMA, _SRGB_PRIMARIES = (45454, 45455), (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


@dataclass(frozen=True)
class About:
    """What a picture says of itself.

    Attributes:
        dpi: Pixels per inch, (x, y); for an enlarged picture multiplied by the factor, so that it prints as large.
        xmp: XMP data: ratings, titles, how it was edited.
        iptc: IPTC-IIM data: keywords, captions, credits.
        texts: (keyword, text) of a PNG; a comment of a JPEG or GIF has the keyword "Comment".
        colour: (kind, data) of the chunks of a PNG that say what its numbers mean: gAMA, cHRM, sRGB, cICP, mDCV, cLLI.
        lost: What else the file holds, in words, which no file that is written of this picture will hold.
    """

    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    colour: tuple[tuple[bytes, bytes], ...] = ()
    lost: tuple[str, ...] = ()

    def resized(self, before: tuple[int, int], after: tuple[int, int]) -> About:
        """The same for a picture of `after` (H, W) instead of `before` pixels that is to print as large."""
        if self.dpi is None:
            return self
        return replace(self, dpi=(self.dpi[0] * after[1] / before[1], self.dpi[1] * after[0] / before[0]))

    def turned(self, orientation: int) -> About:
        """The same for the upright picture of one that is stored in this orientation."""
        return replace(self, dpi=self.dpi[::-1]) if self.dpi and orientation in (5, 6, 7, 8) else self

    @property
    def comment(self) -> str | None:
        """The text of keyword "Comment"."""
        return dict(self.texts).get("Comment")

    @property
    def is_plain(self) -> bool:
        """Whether the colours are those that every program assumes where nothing is said: sRGB."""
        kinds = dict(self.colour)
        if b"cICP" in kinds:
            return kinds[b"cICP"][:2] == b"\x01\x0d"
        gamma, primaries = kinds.get(b"gAMA"), kinds.get(b"cHRM")
        known = (gamma is None or int.from_bytes(gamma) in _SRGB_GAMMA) and (
            primaries is None or primaries == struct.pack(">8I", *_SRGB_PRIMARIES)
        )
        return known or b"sRGB" in kinds


NOTHING = About()


@dataclass(frozen=True)
class Described:
    """What a file says of a picture.

    Attributes:
        orientation: How its pixels are stored, 1 to 8; see `lorgnette.images.exif.upright`.
        exif: Without an orientation.
        icc: The colour profile.
        about: Of the upright picture.
        deep: Whether Pillow does not read its pixels, or not in full.
        span: Of floating-point pixels, the numbers that stand for black and white.
    """

    orientation: int
    exif: bytes | None
    icc: bytes | None
    about: About
    deep: bool = False
    span: tuple[float, float] = (0.0, 1.0)


def xmp_for(xmp: bytes, width: int, height: int, dpi: tuple[float, float] | None) -> bytes:
    """XMP data for an upright picture of this size: what it says of orientation, size and resolution is put right."""
    values: dict[bytes, object] = {rb"tiff:Orientation": 1}
    values |= dict.fromkeys((rb"tiff:ImageWidth", rb"exif:PixelXDimension"), width)
    values |= dict.fromkeys((rb"tiff:ImageLength", rb"exif:PixelYDimension"), height)
    if dpi:
        values |= {rb"tiff:XResolution": f"{dpi[0] * 100:.0f}/100", rb"tiff:YResolution": f"{dpi[1] * 100:.0f}/100"}
        values[rb"tiff:ResolutionUnit"] = 2
    for name, value in values.items():
        xmp = re.sub(_PROPERTY % name, rb"\g<1>" + str(value).encode(), xmp)
    return xmp


def xmp_orientation(xmp: bytes | None) -> int:
    """The orientation that XMP data tells, 1 to 8."""
    found = re.search(_PROPERTY % rb"tiff:Orientation", xmp or b"")
    return int(found[2]) if found and found[2] in b"12345678" else 1
