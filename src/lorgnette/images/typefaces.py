"""Free typefaces that come as Python packages (extra `drawn`)."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import PIL.ImageFont

_SANS, _SERIF = "font_source_sans_pro", "font_source_serif_pro"
FILES = {
    "sans": (_SANS, "SourceSansPro-Regular.ttf"),
    "sans bold": (_SANS, "SourceSansPro-Bold.ttf"),
    "sans light": (_SANS, "SourceSansPro-Light.ttf"),
    "serif": (_SERIF, "SourceSerifPro-Regular.ttf"),
    "serif bold": (_SERIF, "SourceSerifPro-Bold.ttf"),
    "serif italic": (_SERIF, "SourceSerifPro-It.ttf"),
    "round": ("font_manrope", "Manrope-Regular.ttf"),
    "round bold": ("font_manrope", "Manrope-Bold.ttf"),
    "book": ("font_caladea", "Caladea-Regular.ttf"),
    "book italic": ("font_caladea", "Caladea-Italic.ttf"),
}
"""Package and file of each; all under the SIL Open Font License or Apache 2.0."""
FACES = tuple(FILES)


@lru_cache(1024)
def face(name: str, size: float) -> PIL.ImageFont.FreeTypeFont:
    """A typeface at a size in pixels.

    Args:
        name: one of `FACES`, or the path of a font file.
        size: of the type, above 0.

    Raises:
        ValueError: the package is not installed, in one line.
    """
    if name not in FILES:
        return PIL.ImageFont.truetype(name, size)
    package, file = FILES[name]
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ValueError("text is drawn in free typefaces that are not installed: pip install 'lorgnette[drawn]'")
    return PIL.ImageFont.truetype(str(Path(found.origin).parent / "files" / file), size)
