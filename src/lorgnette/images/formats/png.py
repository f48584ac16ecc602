"""What Pillow does not do for PNG files: 16 bits, and all chunks that say something of the picture.

Reading 16 bits goes through OpenCV, imported on demand. Writing is done here, and so keeps what both would lose.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import iTXt

from lorgnette.common.lazy import needed
from lorgnette.images.about import About

SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP = "XML:com.adobe.xmp"
COLOUR = (b"cICP", b"mDCV", b"cLLI", b"sRGB", b"gAMA", b"cHRM")
_HEADER = len(SIGNATURE) + 4 + 4 + 13 + 4  # with IHDR, which comes first
_METRE = 0.0254  # in an inch
# Pixels and what Pillow reads of them; and what is said of the file's own making, or helps a decoder.
_OF_THE_FILE = (b"tRNS", b"acTL", b"fcTL", b"fdAT", b"iCCP", b"eXIf", b"pHYs", b"tEXt", b"zTXt", b"iTXt")
_OF_THE_FILE += (b"sBIT", b"hIST", b"tIME", b"iDOT")
_ROWS = 256  # compressed at a time
_LEVEL = 4  # zlib: about the size of level 6 in half the time

Chunk = tuple[bytes, bytes]
"""Kind and data."""


def read_chunks(path: Path) -> tuple[tuple[Chunk, ...], tuple[str, ...]]:
    """The chunks of a sound file that say what its numbers mean, and the names of those that nothing here knows."""
    colour, unknown = [], []
    with path.open("rb") as file:
        file.seek(len(SIGNATURE))
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind in COLOUR:
                colour.append((kind, file.read(length)))
                length = 0
            elif kind[:1].islower() and kind not in _OF_THE_FILE:
                unknown.append(f"the chunk {kind.decode('latin-1')}")
            file.seek(length + 4, 1)
    return tuple(colour), tuple(dict.fromkeys(unknown))


def transparent(path: Path) -> int | None:
    """The level of a grey picture, of any depth, that stands for transparency."""
    with path.open("rb") as file:
        head = file.read(_HEADER)
        if head[25] != 0:
            return None
        while len(start := file.read(8)) == 8 and start[4:] not in (b"IDAT", b"tRNS"):
            file.seek(struct.unpack(">I", start[:4])[0] + 4, 1)
        return int.from_bytes(file.read(2)) if start[4:] == b"tRNS" else None


def read_png(path: Path) -> NDArray[np.uint16]:
    """`(H, W, 1 | 2 | 3 | 4)` of a sound 16-bit PNG: grey, grey + alpha, RGB or RGB + alpha."""
    cv2 = needed("cv2", "opencv-python-headless", "a PNG file of 16 bits")

    data = np.fromfile(path, np.uint8)
    samples = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise ValueError("OpenCV cannot decode it")
    if samples.ndim == 2:
        grey = samples[..., None]
        if (level := transparent(path)) is None:
            return grey  # type: ignore[return-value]
        return np.concatenate([grey, np.uint16(65535) * (grey != level)], axis=-1)  # type: ignore[return-value]
    if data[25] == 4:  # grey + alpha, which OpenCV gives as BGRA
        return samples[..., [0, 3]]  # type: ignore[return-value]
    return samples[..., [2, 1, 0, 3][: samples.shape[-1]]]  # type: ignore[return-value]


def chunks(icc: bytes | None, exif: bytes | None, about: About) -> list[Chunk]:
    """What is said of a picture, as chunks before its pixels (PNG specification, third edition)."""
    found = [(kind, data) for kind in COLOUR for name, data in about.colour if name == kind]
    if icc:  # beside which there may be no sRGB
        found = [(kind, data) for kind, data in found if kind != b"sRGB"]
        found.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if about.dpi:
        found.append((b"pHYs", struct.pack(">IIB", *(round(n / _METRE) for n in about.dpi), 1)))
    if exif:
        found.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    if about.xmp:
        found.append((b"iTXt", XMP.encode() + b"\0\0\0\0\0" + about.xmp))
    return found + [_text(keyword, text) for keyword, text in about.texts]


def _text(keyword: str, text: str) -> Chunk:
    name = keyword.encode("latin-1", "replace")[:79] + b"\0"
    if not isinstance(text, iTXt) and _is_latin(text):
        return b"tEXt", name + text.encode("latin-1")
    language, translated = (getattr(text, field, None) or "" for field in ("lang", "tkey"))
    language, translated = (x if isinstance(x, bytes) else x.encode() for x in (language, translated))
    return b"iTXt", name + b"\0\0" + language + b"\0" + translated + b"\0" + text.encode()


def _is_latin(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def write_png(path: Path, samples: NDArray[np.uint16], before: Sequence[Chunk] = ()) -> None:
    """16-bit PNG of `(H, W, 1 | 2 | 3 | 4)`, with some chunks before the pixels."""
    height, width, channels = samples.shape
    with path.open("wb") as file:
        file.write(SIGNATURE)
        colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
        for kind, data in before:
            _chunk(file, kind, data)
        for data in _png_stream(samples):
            _chunk(file, b"IDAT", data)
        _chunk(file, b"IEND", b"")


def write_with(path: Path, file: memoryview | bytes, before: Sequence[Chunk]) -> None:
    """A PNG file as Pillow made it, with some chunks before the pixels."""
    with path.open("wb") as out:
        out.write(file[:_HEADER])
        for kind, data in before:
            _chunk(out, kind, data)
        out.write(file[_HEADER:])


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
