"""TIFF files of 16 bits, which Pillow cannot read in colour, and all that are written.

Reading goes through tifffile, and through OpenCV for what that leaves to the package imagecodecs; both are imported on
demand. Writing is done here, and so keeps the colour profile and EXIF data, which both of them would lose.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from lorgnette.images import exif as exif_data

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_ROWS = 256  # in a strip, compressed at a time
_LEVEL = 4  # zlib: about the size of level 6 in half the time


class UnsupportedTiff(ValueError):
    """A sound TIFF file whose pixels are neither grey nor RGB of 8 or 16 bits."""


def bits_of(path: Path) -> int:
    """Bits of a channel of the first picture; the most, where channels differ."""
    with _tifffile().TiffFile(path) as file:
        return int(np.max(file.pages.first.tags.valueof(258, default=1)))


def _tifffile() -> Any:
    import tifffile

    # tifffile logs what it finds wrong, which our error says already: keep it off the screen.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    return tifffile


def read_tiff(path: Path, check_size: Callable[[tuple[int, int]], None]) -> NDArray[np.uint16]:
    """`(H, W, C)` of the first picture in a 16-bit TIFF; `check_size((width, height))` may refuse it."""
    with _tifffile().TiffFile(path) as file:
        page = file.pages.first
        check_size((page.imagewidth, page.imagelength))
        photometric, axes = int(page.photometric), page.axes
        if page.dtype != np.uint16 or photometric not in (0, 1, 2) or axes not in ("YX", "YXS", "SYX"):
            kind = f"{getattr(page.photometric, 'name', photometric)} pixels of type {page.dtype}, axes {axes}"
            raise UnsupportedTiff(f"{kind} are not supported: convert it to grey or RGB of 8 or 16 bits")
        extra = [int(kind) for kind in page.extrasamples]
        try:
            samples = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            samples = _decode_by_opencv(path, page)  # LZW and the like
    if axes == "YX":
        samples = samples[..., None]
    elif axes == "SYX":
        samples = samples.transpose(1, 2, 0)
    if photometric == 0:  # white is zero
        samples = np.concatenate([~samples[..., :1], samples[..., 1:]], axis=-1)
    colours = 3 if photometric == 2 else 1
    has_alpha = samples.shape[-1] > colours and extra[:1] in ([1], [2])
    samples = samples[..., : colours + has_alpha]
    if has_alpha and extra[0] == 1:  # colours are stored multiplied by alpha
        alpha = np.maximum(samples[..., -1:], 1).astype(np.float64)
        colour = np.minimum(samples[..., :-1] * (65535 / alpha) + 0.5, 65535).astype(np.uint16)
        samples = np.concatenate([colour, samples[..., -1:]], axis=-1)
    return samples


def _decode_by_opencv(path: Path, page: Any) -> NDArray:
    import cv2

    data = np.fromfile(path, np.uint8)
    if orientation := page.tags.get(exif_data.ORIENTATION):  # set to upright: OpenCV would turn it, or fail
        start = orientation.valueoffset
        data[start : start + 2] = (1, 0) if page.parent.byteorder == "<" else (0, 1)
    samples = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if samples is None or samples.shape != page.shape:
        raise UnsupportedTiff("its compression needs the package imagecodecs (pip install imagecodecs)")
    return samples if samples.ndim == 2 else samples[..., [2, 1, 0, 3][: samples.shape[-1]]]


def write_tiff(path: Path, samples: NDArray, icc: bytes | None, exif: bytes | None) -> None:
    """TIFF of `(H, W, 1 | 2 | 3 | 4)`, 8 or 16 bits, deflated (TIFF 6.0 and its Technical Note 2)."""
    height, width, channels = samples.shape
    strips = []
    for start in range(0, height, _ROWS):
        rows = samples[start : start + _ROWS].astype(samples.dtype.newbyteorder("<"))
        rows[:, 1:] -= rows[:, :-1].copy()  # predictor 2: differences along the row, modulo the depth
        strips.append(zlib.compress(rows.tobytes(), _LEVEL))
    starts = np.concatenate([[0], np.cumsum([len(strip) for strip in strips])[:-1]])
    tags = ImageFileDirectory_v2()
    for tag, value in exif_data.tags(exif).items() if exif else ():
        tags[tag] = value
    tags[256], tags[257] = width, height
    tags[258] = (samples.dtype.itemsize * 8,) * channels
    tags[259] = 8  # deflate
    tags[262] = 1 if channels < 3 else 2  # black is zero, or RGB
    tags[273] = tuple(int(start) for start in starts)  # Pillow adds what lies before
    tags[277], tags[278] = channels, min(_ROWS, height)
    tags[279] = tuple(len(strip) for strip in strips)
    tags[317] = 2
    if channels in (2, 4):
        tags[338] = 2  # alpha, not multiplied into the colours
    if icc:
        tags[34675] = icc
    with path.open("wb") as file:
        tags.save(file)
        file.writelines(strips)
