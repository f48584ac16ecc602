"""Which formats of pictures there are, and what each can hold. Imports neither torch nor Pillow."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Format:
    """A format of picture files."""

    name: str
    """As Pillow calls it."""
    suffixes: tuple[str, ...]
    keeps: frozenset[str] = frozenset()
    """What goes into its files beside pixels: of 'icc', 'exif', 'xmp', 'iptc', 'dpi', 'texts', 'comment', 'colour'."""
    alpha: bool = False
    deep: bool = False
    """Whether 16 bits are written; 8 otherwise."""
    floats: bool = False
    """Whether floating-point numbers are written."""
    side: int = 2**31 - 1
    """Most pixels of a side that programs read."""
    share: float = 0.25
    """A file that is unusually small for a photograph, as a share of its pixels' bytes."""
    written: bool = True
    module: str = ""
    """What teaches Pillow to read it, where Pillow cannot: a package of the extra 'formats'."""
    title: str = ""
    """As people call it; unset: the name."""

    @property
    def is_written_here(self) -> bool:
        """Whether it is written, and what that needs is installed."""
        return self.written and (not self.module or find_spec(self.module) is not None)

    def bits(self, wanted: int) -> int:
        """8, 16 or 32 (floating point): what of it is written."""
        return 32 if wanted == 32 and self.floats else 16 if wanted >= 16 and self.deep else 8

    def __str__(self) -> str:
        return self.title or self.name


_DESCRIBED = frozenset(("icc", "exif", "xmp", "dpi"))

FORMATS = (
    Format("PNG", (".png",), _DESCRIBED | {"texts", "comment", "colour"}, alpha=True, deep=True),
    # libjpeg ends at 65500, short of the 65535 of the standard.
    Format("JPEG", (".jpg", ".jpeg", ".jfif"), _DESCRIBED | {"iptc", "comment"}, side=65500, share=0.02),
    Format("BMP", (".bmp",), frozenset(("dpi",)), share=1.0),
    Format("WEBP", (".webp",), _DESCRIBED, alpha=True, side=16383, share=0.01, title="WebP"),
    Format("TIFF", (".tif", ".tiff"), _DESCRIBED | {"iptc"}, alpha=True, deep=True, floats=True),
    Format("AVIF", (".avif",), _DESCRIBED, alpha=True, side=32768, share=0.005),
    Format("HEIF", (".heic", ".heif"), _DESCRIBED, True, side=32768, share=0.005, module="pillow_heif", title="HEIC"),
    Format("JXL", (".jxl",), _DESCRIBED - {"icc"}, True, side=2**30, share=0.005, module="pillow_jxl", title="JPEG XL"),
    Format("GIF", (".gif",), written=False),
)
BY_SUFFIX = {suffix: format for format in FORMATS for suffix in format.suffixes}
BY_NAME = {format.name: format for format in FORMATS}
READABLE = tuple(BY_SUFFIX)
WRITABLE = tuple(suffix for suffix, format in BY_SUFFIX.items() if format.written)


def titles(formats: tuple[Format, ...] = FORMATS) -> str:
    """'PNG, JPEG or GIF'."""
    *most, last = map(str, formats)
    return f"{', '.join(most)} or {last}"
