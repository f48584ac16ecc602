"""PNG files of 16 bits, which Pillow reads as 8 bits and cannot write.

Reading goes through OpenCV, imported on demand. Writing is done here, and so keeps the colour profile and EXIF data,
which OpenCV would lose.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ROWS = 256  # compressed at a time
_LEVEL = 4  # zlib: about the size of level 6 in half the time


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


def write_png(path: Path, samples: NDArray[np.uint16], icc: bytes | None, exif: bytes | None) -> None:
    """16-bit PNG of `(H, W, 1 | 2 | 3 | 4)` (PNG specification, third edition, chunks IHDR, iCCP, eXIf)."""
    height, width, channels = samples.shape
    with path.open("wb") as file:
        file.write(SIGNATURE)
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
