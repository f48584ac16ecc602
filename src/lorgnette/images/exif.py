"""EXIF data on its way from one file to another: orientation applied, sizes kept true."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

ORIENTATION = 0x0112
_EXIF, _GPS, _INTEROP = 0x8769, 0x8825, 0xA005
_WIDTH, _HEIGHT = 0xA002, 0xA003
_IMAGE_WIDTH, _ICC = 256, 34675
# A TIFF file keeps EXIF data among the tags of its strips and samples; these describe the picture.
_PICTURE_TAGS = {270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 18246, 18249, 33432, _EXIF, _GPS}
_PICTURE_TAGS |= set(range(40091, 40096))  # title, comment, author, keywords and subject as Windows stores them


def from_pillow(path: Path, file: PIL.Image.Image) -> tuple[int, bytes | None]:
    """Orientation (1..8, 1 is upright) and EXIF data without it, of a loaded image."""
    return _read(path, file.getexif)


def from_tiff(path: Path) -> tuple[int, bytes | None, bytes | None]:
    """Orientation, EXIF data and colour profile of a TIFF file, whatever its pixels."""
    exif = PIL.Image.Exif()
    with path.open("rb") as file:
        exif.load_from_fp(file)
        icc = exif.get(_ICC)
        return *_read(path, lambda: exif), icc


def _read(path: Path, load: Callable[[], PIL.Image.Exif]) -> tuple[int, bytes | None]:
    try:
        exif = load()
        orientation = exif.pop(ORIENTATION, 1)
        if _IMAGE_WIDTH in exif:
            for tag in set(exif) - _PICTURE_TAGS:
                del exif[tag]
        data = exif.tobytes() if len(exif) else None
    except (ValueError, TypeError, KeyError, OSError, SyntaxError, OverflowError, struct.error) as error:
        warnings.warn(f"{path}: damaged EXIF data left out ({error})", stacklevel=2)
        return 1, None
    return orientation if orientation in range(1, 9) else 1, data


def upright(samples: NDArray, orientation: int) -> NDArray:
    """Turn and mirror `(H, W, C)` as the EXIF orientation says."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return np.ascontiguousarray(samples)


def resized(data: bytes, width: int, height: int) -> bytes:
    """EXIF data for an upright image of this size."""
    exif = _parse(data)
    exif.pop(ORIENTATION, None)
    details = exif.get_ifd(_EXIF)
    details.update({tag: value for tag, value in ((_WIDTH, width), (_HEIGHT, height)) if tag in details})
    return exif.tobytes()


def tags(data: bytes) -> dict[int, Any]:
    """EXIF data as TIFF tags; the sub-directories are dictionaries."""
    exif = _parse(data)
    values = dict(exif)
    for directory in (_EXIF, _GPS):
        if directory in values:
            values[directory] = dict(exif.get_ifd(directory))
    if _INTEROP in values.get(_EXIF, {}):
        values[_EXIF][_INTEROP] = exif.get_ifd(_INTEROP)
    return values


def _parse(data: bytes) -> PIL.Image.Exif:
    """EXIF bytes as an editable object."""
    exif = PIL.Image.Exif()
    try:
        exif.load(data)
    except (SyntaxError, struct.error, ValueError) as error:
        raise ValueError(f"exif is not EXIF data ({error})") from None
    return exif
