"""Picture files of any format: which it is, how many pictures it holds, and one of them as it is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from lorgnette.images.about import Described
from lorgnette.images.errors import ImageError
from lorgnette.images.formats import pillow, png, tiff
from lorgnette.images.formats.table import titles


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise ImageError(f"{path} is a folder, not an image file")
    if not path.exists():
        raise FileNotFoundError(f"no such image file: {path}")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes): use an intact copy")


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Refuse what is no file, and turn whatever a decoder raises at a broken file (nearly anything) into one line."""
    _require_file(path)
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except tiff.UnsupportedTiff as error:
        raise ImageError(f"{path}: {error}") from None
    except PermissionError:
        raise ImageError(f"{path} may not be read: permission denied") from None
    except PIL.UnidentifiedImageError:
        raise ImageError(f"{path} is not a {titles()} image") from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ImageError(f"{path} is damaged or incomplete ({reason}): use an intact copy") from None


def _kind(path: Path) -> Literal["PNG", "TIFF"] | None:
    """Which of the formats that have code of their own a file has: a PNG of 16 bits, or a TIFF."""
    with path.open("rb") as file:
        head = file.read(26)
    if head.startswith(png.SIGNATURE):
        return "PNG" if head[24:25] == b"\x10" else None  # its header begins with width, height, bits
    return "TIFF" if head.startswith(tiff.SIGNATURES) else None


def named(path: Path) -> str:
    """The format of a file, as Pillow calls it; that of a phone's JPEG with more pictures after the first is JPEG."""
    if _kind(path):
        return str(_kind(path))
    with path.open("rb") as stream, pillow.open_file(path, stream, lambda size: None) as file:
        return {"MPO": "JPEG"}.get(str(file.format), str(file.format))


def count_of(path: Path, max_pixels: int) -> int:
    """How many pictures a file holds; smaller versions within a TIFF and its masks do not count."""
    if _kind(path) == "TIFF":
        return len(tiff.pictures(path))
    with path.open("rb") as stream, pillow.open_file(path, stream, _size_check(path, max_pixels)) as file:
        return _frames(file)


def _frames(file: PIL.Image.Image) -> int:
    return getattr(file, "n_frames", 1)


def read(path: Path, max_pixels: int, number: int | None, any_range: bool = False) -> tuple[NDArray, Described, int]:
    """A picture as it is stored, what is said of it, and how many there are.

    Its shape is `(H, W)` or `(H, W, C)`, of integers or floats in [0, 1]; see `tiff.read_tiff` for `any_range`.
    """
    kind, check_size = _kind(path), _size_check(path, max_pixels)
    said, pages = None, []
    if kind == "TIFF":
        pages = tiff.pictures(path)
        number = pages[number or 0]
        said = tiff.describe(path, number)
        if said.deep:
            samples, span = tiff.read_tiff(path, number, check_size, any_range)
            return samples, replace(said, span=span), len(pages)
        said = replace(said, orientation=1)  # Pillow turns it
    # A stream rather than a path: Pillow (13.0) garbles memory-mapped TIFFs of some orientations.
    with path.open("rb") as stream, pillow.open_file(path, stream, check_size, number) as file:
        count = len(pages) or _frames(file)
        file.load()  # raises when the file is cut off, which OpenCV would pass over
        said = said or pillow.describe(path, file)
        if kind == "PNG" and not number:  # the first of an animation; Pillow reads 8 bits of the others
            return png.read_png(path), said, count
        if file.mode == "CMYK":
            file, said = pillow.cmyk_to_srgb(file, said.icc), replace(said, icc=None)
        return np.asarray(pillow.simple(path, file)), said, count


def _size_check(path: Path, max_pixels: int) -> pillow.CheckSize:
    def check(size: tuple[int, int]) -> None:
        if size[0] * size[1] > max_pixels:
            raise ImageError(
                f"{path} has {size[0]} x {size[1]} pixels, more than max_pixels={max_pixels}: "
                f"raise max_pixels or cut the image"
            )

    return check
