"""EXIF data on its way from one file to another: orientation applied, sizes kept true."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from lorgnette.images.about import CENTIMETRES
from lorgnette.images.errors import ImageWarning

ORIENTATION = 0x0112
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
EXIF, _GPS, _INTEROP = 0x8769, 0x8825, 0xA005
_WIDTH, _HEIGHT = 0xA002, 0xA003
_IMAGE_WIDTH, _DESCRIPTION = 256, 270
# A TIFF file keeps EXIF data among the tags of its strips and samples; these describe the picture.
PICTURE_TAGS = {270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 18246, 18249, 33432, EXIF, _GPS}
PICTURE_TAGS |= set(range(40091, 40096))  # title, comment, author, keywords and subject as Windows stores them


# What programs of microscopes write there for themselves; of another size and number of pictures it is false.
_OF_THE_PIXELS = re.compile(r'\s*(\{"shape"|ImageJ=|SCIFIO=|<\?xml.*<OME\b)', re.DOTALL)


def from_pillow(path: Path, file: PIL.Image.Image) -> tuple[int, bytes | None]:
    """Orientation (1..8, 1 is upright) and EXIF data without it, of a loaded image."""
    return _read(path, file.getexif)


def from_tiff(path: Path, stream: IO[bytes], offset: int, byteorder: str, big: bool) -> tuple[int, bytes | None]:
    """Orientation and EXIF data of the picture of a TIFF file whose directory is at `offset`, whatever its pixels."""
    exif = PIL.Image.Exif()
    exif.endian, exif.bigtiff = byteorder, big

    def load() -> PIL.Image.Exif:
        exif.load_from_fp(stream, offset)
        return exif

    return _read(path, load)


def from_values(path: Path, values: Mapping[int, Any]) -> tuple[int, bytes | None]:
    """Orientation and EXIF data from the values of a directory, without the directories in it."""
    exif = PIL.Image.Exif()
    for tag, value in values.items():
        if tag in (*PICTURE_TAGS, ORIENTATION) and tag not in (EXIF, _GPS):
            fraction = tag in (_X_RESOLUTION, _Y_RESOLUTION)
            exif[tag] = value[0] / value[1] if fraction and isinstance(value, tuple) else value
    return _read(path, lambda: exif)


def _read(path: Path, load: Callable[[], PIL.Image.Exif]) -> tuple[int, bytes | None]:
    try:
        exif = load()
        _keep_letters(exif)
        orientation = exif.pop(ORIENTATION, 1)
        if _IMAGE_WIDTH in exif:
            for tag in set(exif) - PICTURE_TAGS:
                del exif[tag]
            if _OF_THE_PIXELS.match(str(exif.get(_DESCRIPTION, ""))):
                del exif[_DESCRIPTION]
        exif.bigtiff = False  # as it is written from here on
        data = exif.tobytes() if len(exif) else None
    except (ValueError, TypeError, KeyError, OSError, SyntaxError, OverflowError, struct.error) as error:
        warnings.warn(f"{path}: damaged EXIF data left out ({error})", ImageWarning, stacklevel=2)
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


def resolution(data: bytes | None) -> tuple[float, float] | None:
    """Pixels per inch, (x, y), as EXIF data says; None where it does not."""
    values = tags(data) if data else {}
    try:
        found = float(values[_X_RESOLUTION]), float(values.get(_Y_RESOLUTION, values[_X_RESOLUTION]))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    factor = {2: 1.0, 3: CENTIMETRES}.get(values.get(_RESOLUTION_UNIT, 2))
    # Not one of 1, which a writer that knows none puts there.
    return (found[0] * factor, found[1] * factor) if factor and min(found) > 1 and max(found) < 1e6 else None


def resized(
    data: bytes | None, width: int, height: int, dpi: tuple[float, float] | None = None, add: bool = False
) -> bytes | None:
    """EXIF data for an upright image of this size; with `add`, the resolution is put there if it was not before."""
    if not data and not (dpi and add):
        return data
    exif = _parse(data) if data else PIL.Image.Exif()
    exif.pop(ORIENTATION, None)
    if dpi and (add or _X_RESOLUTION in exif):
        exif[_X_RESOLUTION], exif[_Y_RESOLUTION], exif[_RESOLUTION_UNIT] = *dpi, 2
    if data:
        details = exif.get_ifd(EXIF)
        details.update({tag: value for tag, value in ((_WIDTH, width), (_HEIGHT, height)) if tag in details})
    return exif.tobytes()


def tags(data: bytes) -> dict[int, Any]:
    """EXIF data as TIFF tags; the sub-directories are dictionaries."""
    exif = _parse(data)
    values = dict(exif)
    for directory in (EXIF, _GPS):
        if directory in values:
            values[directory] = dict(exif.get_ifd(directory))
    if _INTEROP in values.get(EXIF, {}):
        values[EXIF][_INTEROP] = exif.get_ifd(_INTEROP)
    return values


def _parse(data: bytes) -> PIL.Image.Exif:
    """EXIF bytes as an editable object."""
    exif = PIL.Image.Exif()
    try:
        exif.load(data)
        _keep_letters(exif)
    except (SyntaxError, struct.error, ValueError) as error:
        raise ValueError(f"exif is not EXIF data ({error})") from None
    return exif


def _keep_letters(exif: PIL.Image.Exif) -> None:
    """Text as the bytes it was read from: Pillow (13.0) would write a question mark for each beyond ASCII."""
    for values in (exif, *(exif.get_ifd(directory) for directory in (EXIF, _GPS) if directory in exif)):
        for tag, value in list(values.items()):
            if isinstance(value, str) and not value.isascii():
                values[tag] = value.encode("latin-1", "replace")
