"""The table of docs/what-is-kept.md, from real files: what of a picture is in the new file, as other programs read it.

Run as a program it writes the table into the page: python -m tests.images.kept_table
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
from tests.images import files

from lorgnette.images import Image, ImageError, read_image, read_images, write_images
from lorgnette.images.formats.table import FORMATS, Format

PAGE = Path(__file__).parents[2] / "docs" / "what-is-kept.md"
BEGIN, END = "<!-- pictures: python -m tests.images.kept_table -->", "<!-- end -->"


def columns() -> list[Format]:
    """The formats that are written here; some need packages of their own."""
    found = []
    for format in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                write_images(Path(folder) / f"a{format.suffixes[0]}", [Image(files.scene())])
                found.append(format)
            except ImageError:
                pass
    return found


def png16(path: Path) -> None:
    files.png(path, files.scene().astype(np.uint16) * 257, 16, 2, files.GAMMA)


def unknown(path: Path) -> None:
    files.png(path, files.scene(), 8, 2, (b"bKGD", bytes(6)))


def see_through(path: Path) -> None:
    PIL.Image.fromarray(np.dstack([files.scene(), files.scene()[..., 0]])).save(path)


def pages(path: Path) -> None:
    PIL.Image.fromarray(files.scene()).save(path, save_all=True, append_images=[PIL.Image.fromarray(files.scene())])


def frames(file: Path) -> int:
    with PIL.Image.open(file) as picture:
        return getattr(picture, "n_frames", 1)


def bits(file: Path) -> int:
    return 16 if read_image(file).bits == 16 else 8


# A row of the table: the file that has it, how it is made, and whether the new file has it.
Row = tuple[str, Callable[[Path], object], Callable[[Path, dict], object]]
ROWS: dict[str, Row] = {
    "transparency": ("a.png", see_through, lambda file, said: read_image(file).alpha is not None),
    "16 bits": ("a.png", png16, lambda file, said: bits(file) == 16),
    "all pages or frames": ("a.tif", pages, lambda file, said: frames(file) == 2),
    "colour profile": ("a.png", files.described, lambda file, said: said["icc"] == files.ICC),
    "EXIF data": ("a.png", files.described, lambda file, said: said["artist"] == "A. Painter"),
    "XMP data": ("a.png", files.described, lambda file, said: b'xmp:Rating="5"' in (said["xmp"] or b"")),
    "IPTC data": ("a.jpg", files.described, lambda file, said: said["iptc"] == files.IPTC),
    "resolution": ("a.png", files.described, lambda file, said: said["dpi"] and round(said["dpi"][0]) == 300),
    "texts of a PNG": ("a.png", files.described, lambda file, said: said["texts"].get("Title") == "a sea"),
    "comment": ("a.jpg", files.described, lambda file, said: said["comment"] == b"by hand"),
    "gAMA, cHRM, cICP of a PNG": ("a.png", png16, lambda file, said: said["gamma"] == 1.0),
    "what nothing here knows": ("a.png", unknown, lambda file, said: b"bKGD" in file.read_bytes()),
}


def cell(name: str, format: Format, folder: Path) -> str:
    """'kept', 'named' as lost, 'refused', or 'lost'."""
    source, make, has = ROWS[name]
    make(folder / source)
    target = folder / f"new{format.suffixes[0]}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        several = name == "all pages or frames" and format.name == "TIFF"
        images = list(read_images(folder / source)) if several else [read_image(folder / source)]
        try:
            write_images(target, images)
        except ImageError:
            return "refused"
        if name == "16 bits":
            return "kept" if has(target, {}) else "8 bits"
    said = files.said(target) | ({"xmp": read_image(target).about.xmp} if format.name == "JXL" else {})
    return "kept" if has(target, said) else "named" if caught else "lost"


def table() -> dict[str, dict[str, str]]:
    """Row -> title of a format -> cell."""
    found: dict[str, dict[str, str]] = {}
    for format in columns():
        for name in ROWS:
            with tempfile.TemporaryDirectory() as folder:
                found.setdefault(name, {})[str(format)] = cell(name, format, Path(folder))
    return found


def markdown(found: dict[str, dict[str, str]]) -> str:
    """The table as it stands in the page."""
    titles = list(next(iter(found.values())))
    lines = [f"| | {' | '.join(titles)} |", f"|---|{'---|' * len(titles)}"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(row.values())} |" for name, row in found.items())])


def of_page() -> dict[str, dict[str, str]]:
    """The table that stands in the page."""
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in text.strip().splitlines()]
    return {name: dict(zip(rows[0][1:], cells, strict=True)) for name, *cells in rows[2:]}


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{markdown(table())}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    sys.exit()
