"""PNG and TIFF files where Pillow falls short: it reads 16-bit colour as 8 bits, and cannot write it.

Reading goes through OpenCV and tifffile, imported on demand. Writing is short enough to be done here, and so
keeps the colour profile and EXIF data, which both of them would lose.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from lorgnette.images import exif as exif_data

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_ROWS = 256  # compressed at a time
_LEVEL = 4  # zlib: about the size of level 6 in half the time


class UnsupportedTiff(ValueError):
    """A sound TIFF file whose pixels are neither grey nor RGB of 8 or 16 bits."""


def probe(path: Path) -> Literal["png", "tiff"] | None:
    """Which of the two readers here a file needs; None where Pillow reads it in full."""
    with path.open("rb") as file:
        head = file.read(26)
    if head.startswith(_PNG):
        return "png" if len(head) == 26 and head[24] == 16 else None
    if head.startswith(_TIFF):
        with _tifffile().TiffFile(path) as file:
            return "tiff" if np.max(file.pages.first.tags.valueof(258, default=1)) > 8 else None
    return None


def _tifffile() -> Any:
    import tifffile

    # It logs what it finds wrong; the error says so, too. This keeps unconfigured logging from printing it.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    return tifffile


def read_png(path: Path) -> NDArray[np.uint16]:
    """`(H, W, 1 | 2 | 3 | 4)` of a sound 16-bit PNG: grey, grey + alpha, RGB or RGB + alpha."""
    import cv2

    data = np.fromfile(path, np.uint8)
    samples = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise ValueError("OpenCV cannot decode it")
    if samples.ndim == 2:
        return samples[..., None]  # type: ignore[return-value]
    if data[25] == 4:  # grey + alpha, which OpenCV gives as BGRA
        return samples[..., [0, 3]]  # type: ignore[return-value]
    return samples[..., [2, 1, 0, 3][: samples.shape[-1]]]  # type: ignore[return-value]


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


def write_png(path: Path, samples: NDArray[np.uint16], icc: bytes | None, exif: bytes | None) -> None:
    """16-bit PNG of `(H, W, 1 | 2 | 3 | 4)` (PNG specification, third edition, chunks IHDR, iCCP, eXIf)."""
    height, width, channels = samples.shape
    with path.open("wb") as file:
        file.write(_PNG)
        colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
        if icc:
            _chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
        if exif:
            _chunk(file, b"eXIf", exif.removeprefix(b"Exif\0\0"))
        for data in _png_stream(samples):
            _chunk(file, b"IDAT", data)
        _chunk(file, b"IEND", b"")


def _png_stream(samples: NDArray[np.uint16]) -> Iterator[bytes]:
    """The compressed rows, each stored as its difference from the row above (filter type 2)."""
    height, width, channels = samples.shape
    packer = zlib.compressobj(_LEVEL)
    above = np.zeros((1, width * channels * 2), np.uint8)
    for start in range(0, height, _ROWS):
        rows = samples[start : start + _ROWS].astype(">u2").view(np.uint8).reshape(-1, width * channels * 2)
        filtered = np.full((len(rows), 1 + rows.shape[1]), 2, np.uint8)
        np.subtract(rows, np.concatenate([above, rows[:-1]]), out=filtered[:, 1:])
        above = rows[-1:]
        if data := packer.compress(filtered.tobytes()):
            yield data
    yield packer.flush()


def _chunk(file: IO[bytes], kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


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
