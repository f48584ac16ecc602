"""TIFF files: what they say of their pictures, those of 16 bits, which Pillow cannot read in colour, and writing.

Reading goes through tifffile, and through OpenCV for what that leaves to the package imagecodecs; both are imported on
demand. Writing is done here, and so keeps the colour profile and EXIF data, which both of them would lose.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from lorgnette.common.lazy import needed
from lorgnette.images import exif as exif_data
from lorgnette.images.about import NOTHING, About, Described, xmp_orientation

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
LARGEST = 2**32 - 2**20  # bytes of a classic TIFF, with some room for its tags
_FAR = 2**31
_ROWS = 256  # in a strip, compressed at a time
_LEVEL = 4  # zlib: about the size of level 6 in half the time
_BITS, _XMP, _IPTC, _ICC = 258, 700, 33723, 34675
_PHOTOMETRIC, _DNG, _OF_SENSORS = 262, 50706, (32803, 34892)
# How the pixels are stored, which a new file does in its own way; and smaller versions of the picture.
_STORAGE = {*range(254, 267), *range(273, 282), 284, 290, 291, 292, 293, 297, 317, *range(320, 326), 330}
_STORAGE |= {332, 333, 334, 336, 338, 339, 340, 341, 347, 512, 513, 514, 529, 530, 531, 532, 559, 32997}


class UnsupportedTiff(ValueError):
    """A sound TIFF file whose pixels are neither grey nor RGB of a depth that is read here."""


def _open(path: Path) -> Any:
    tifffile = needed("tifffile", "tifffile", "a TIFF file")

    # tifffile logs what it finds wrong, which our error says already: keep it off the screen.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    return tifffile.TiffFile(path)


def pictures(path: Path) -> list[int]:
    """Numbers of the pages that are pictures: no smaller versions of others and no masks.

    A raw file of a camera is refused: what can be read of it is the small previews.
    """
    with _open(path) as file:
        if _is_raw(path, file):
            raise UnsupportedTiff("it is a raw file of a camera: develop it first, into a TIFF or a JPEG")
        return [number for number, kind in enumerate(_kinds(file)) if not kind & 0b101] or [0]


def _is_raw(path: Path, file: Any) -> bool:
    """Whether the numbers are those of a sensor, be they beside a preview (Canon's say so in their head)."""
    with path.open("rb") as stream:
        head = stream.read(10)
    first = file.pages[0]
    kinds = [page.tags.valueof(_PHOTOMETRIC, default=0) for page in (first, *(first.pages or ()))]
    return head[8:] == b"CR" or _DNG in first.tags or any(int(kind) in _OF_SENSORS for kind in kinds)


def _kinds(file: Any) -> list[int]:
    """What each page is, in bits: a smaller version of another, a page of a document, a mask."""
    return [int(page.tags.valueof(254, default=0)) for page in file.pages]


def describe(path: Path, number: int) -> Described:
    """What is said of the picture on a page."""
    with _open(path) as file, path.open("rb") as stream:
        page, big = file.pages[number], file.is_bigtiff
        lost = []
        if unknown := big and file.byteorder == ">":  # Pillow (13.0) does not read its directories
            orientation, exif = exif_data.from_values(path, {tag.code: tag.value for tag in page.tags})
            lost += ["details of its EXIF data"] if exif_data.EXIF in page.tags else []
        else:
            orientation, exif = exif_data.from_tiff(path, stream, page.offset, file.byteorder, big)

        def raw(code: int) -> bytes | None:
            if (tag := page.tags.get(code)) is None:
                return None
            stream.seek(tag.valueoffset)
            return stream.read(tag.valuebytecount)

        kept = _STORAGE | exif_data.PICTURE_TAGS | {exif_data.ORIENTATION, _XMP, _IPTC, _ICC}
        lost += [f"the tag {tag.name} ({tag.code})" for tag in page.tags if tag.code not in kept]
        if file.is_imagej and (more := int((file.imagej_metadata or {}).get("images", 1)) - len(file.pages)) > 0:
            lost.append(f"{more} more pictures of an ImageJ stack")
        if any(kind & 0b100 for kind in _kinds(file)):
            lost.append("a mask")
        about = About(exif_data.resolution(exif), raw(_XMP), raw(_IPTC), lost=tuple(lost))
        if exif_data.ORIENTATION not in page.tags:
            orientation = xmp_orientation(about.xmp)
        deep = unknown or int(np.max(page.tags.valueof(_BITS, default=1))) > 8
        return Described(orientation, exif, raw(_ICC), about.turned(orientation), deep)


def read_tiff(
    path: Path, number: int, check_size: Callable[[tuple[int, int]], None], any_range: bool = False
) -> tuple[NDArray, tuple[float, float]]:
    """`(H, W, C)` of a picture that is grey or RGB: of 8 or 16 bits, or float32 in [0, 1] of a floating-point one.

    `check_size((width, height))` may refuse it. The second result is the numbers that 0 and 1 stand for: where those of
    a floating-point picture lie elsewhere, they are brought to [0, 1] with `any_range` (but beside an alpha plane), and
    refused without.
    """
    with _open(path) as file:
        page = file.pages[number]
        check_size((page.imagewidth, page.imagelength))
        photometric, axes = int(page.photometric), page.axes
        known = page.dtype is not None and (page.dtype in (np.uint8, np.uint16) or page.dtype.kind == "f")
        if not known or photometric not in (0, 1, 2) or axes not in ("YX", "YXS", "SYX"):
            kind = f"{getattr(page.photometric, 'name', photometric)} pixels of type {page.dtype}, axes {axes}"
            raise UnsupportedTiff(
                f"{kind} are not supported: convert it to grey or RGB of 8 or 16 bits, or of floats in [0, 1]"
            )
        extra = [int(kind) for kind in page.extrasamples]
        try:
            samples = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            samples = _decode_by_opencv(path, number, page)  # LZW and the like
    span = (0.0, 1.0)
    if samples.dtype.kind == "f":
        span = _range_of(samples)
        if span != (0.0, 1.0) and (extra or not any_range):
            raise UnsupportedTiff(_elsewhere(samples))
        samples = samples.astype(np.float32) if span == (0.0, 1.0) else _brought(samples, span)
    if axes == "YX":
        samples = samples[..., None]
    elif axes == "SYX":
        samples = samples.transpose(1, 2, 0)
    peak = 1 if samples.dtype.kind == "f" else 255 if samples.dtype == np.uint8 else 65535
    if photometric == 0:  # white is zero
        samples = np.concatenate([peak - samples[..., :1], samples[..., 1:]], axis=-1)
    colours = 3 if photometric == 2 else 1
    has_alpha = samples.shape[-1] > colours and extra[:1] in ([1], [2])
    samples = samples[..., : colours + has_alpha]
    if has_alpha and extra[0] == 1:  # colours are stored multiplied by alpha
        alpha = np.maximum(samples[..., -1:], 1 / 65535 if peak == 1 else 1).astype(np.float64)
        colour = np.minimum(samples[..., :-1] * (peak / alpha), peak)
        colour = (colour if peak == 1 else colour + 0.5).astype(samples.dtype)
        samples = np.concatenate([colour, samples[..., -1:]], axis=-1)
    return samples, span


def _range_of(samples: NDArray) -> tuple[float, float]:
    """What stands for black and white: 0 and 1 where all lies between them, else the least number and the greatest, 0
    among them."""
    least, most = float(samples.min()), float(samples.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        raise UnsupportedTiff("it holds values that are no numbers (NaN or infinity): replace them first")
    return (0.0, 1.0) if least >= 0 and most <= 1 else (min(least, 0.0), max(most, 0.0))


def _brought(samples: NDArray, span: tuple[float, float]) -> NDArray[np.float32]:
    low, high = span
    return ((samples.astype(np.float64) - low) / (high - low)).astype(np.float32)


def _elsewhere(samples: NDArray) -> str:
    least, most = float(samples.min()), float(samples.max())
    shifted = f"(x - {least:g})" if least > 0 else f"(x + {-least:g})" if least < 0 else "x"
    return (
        f"its floating-point values go from {least:g} to {most:g}, and 0 to 1 is read, as black to white: "
        f"bring them there first, such as {shifted} / {max(most - least, 1e-9):g}"
    )


def _decode_by_opencv(path: Path, number: int, page: Any) -> NDArray:
    cv2 = needed("cv2", "opencv-python-headless", "a TIFF file of this kind")

    data = np.fromfile(path, np.uint8)
    if orientation := page.tags.get(exif_data.ORIENTATION):  # set to upright: OpenCV would turn it, or fail
        start = orientation.valueoffset
        data[start : start + 2] = (1, 0) if page.parent.byteorder == "<" else (0, 1)
    _, found = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED, range=(number, number + 1))
    samples = found[0] if found else None
    if samples is None or samples.shape != page.shape:
        raise UnsupportedTiff("its compression needs the package imagecodecs (pip install imagecodecs)")
    return samples if samples.ndim == 2 else samples[..., [2, 1, 0, 3][: samples.shape[-1]]]


@dataclass(frozen=True)
class Page:
    """A picture to be written: samples `(H, W, 1 | 2 | 3 | 4)` of 8 or 16 bits or float32, and what is said of it."""

    samples: NDArray
    icc: bytes | None = None
    exif: bytes | None = None
    about: About = NOTHING


def write_tiff(path: Path, pages: Iterable[Page], raw_bytes: int) -> None:
    """A TIFF file, deflated (TIFF 6.0 and its Technical Note 2); a BigTIFF where the classic one may be too small.

    Args:
        path: The file.
        pages: Its pictures; one is in memory at a time.
        raw_bytes: How large they all are, uncompressed.

    Raises:
        ValueError: They were more than that.
    """
    big = raw_bytes > LARGEST
    head = b"II+\0\x08\0\0\0" + bytes(8) if big else b"II*\0" + bytes(4)
    count_size, entry_size, offset_size = (8, 20, 8) if big else (2, 12, 4)
    with path.open("wb") as file:
        file.write(head)
        link = len(head) - offset_size  # where the place of the next directory is noted
        for page in pages:
            file.seek(0, 2)
            file.write(bytes(file.tell() % 2))  # directories begin at even places
            start = file.tell()
            strips = _strips(page.samples)
            if start > _FAR and page.exif:  # whose directories Pillow cannot place so far away
                page = replace(page, exif=None)
            tags = _tags(page, strips, head)
            file.write(tags.tobytes(start))
            file.writelines(strips)
            if not big and file.tell() > 2**32:
                raise ValueError("it is larger than 4 GB, more than was said before")
            file.seek(link)
            file.write(start.to_bytes(offset_size, "little"))
            link = start + count_size + len(tags) * entry_size


def _strips(samples: NDArray) -> list[bytes]:
    strips = []
    for start in range(0, len(samples), _ROWS):
        rows = samples[start : start + _ROWS].astype(samples.dtype.newbyteorder("<"))
        if samples.dtype.kind == "u":
            rows[:, 1:] -= rows[:, :-1].copy()  # predictor 2: differences along the row, modulo the depth
        strips.append(zlib.compress(rows.tobytes(), _LEVEL))
    return strips


def _tags(page: Page, strips: list[bytes], head: bytes) -> ImageFileDirectory_v2:
    height, width, channels = page.samples.shape
    starts = np.concatenate([[0], np.cumsum([len(strip) for strip in strips])[:-1]])
    tags = ImageFileDirectory_v2(head)
    for tag, value in exif_data.tags(page.exif).items() if page.exif else ():
        tags[tag] = value
    tags[256], tags[257] = width, height
    tags[_BITS] = (page.samples.dtype.itemsize * 8,) * channels
    tags[259] = 8  # deflate
    tags[262] = 1 if channels < 3 else 2  # black is zero, or RGB
    tags[273] = tuple(int(start) for start in starts)  # Pillow adds what lies before
    tags[277], tags[278] = channels, min(_ROWS, height)
    tags[279] = tuple(len(strip) for strip in strips)
    if head.startswith(b"II+"):
        tags.tagtype[273] = tags.tagtype[279] = 16  # of 64 bits
    if page.samples.dtype.kind == "f":
        tags[339] = (3,) * channels  # IEEE floating point
    else:
        tags[317] = 2
    if channels in (2, 4):
        tags[338] = 2  # alpha, not multiplied into the colours
    for tag, data in ((_ICC, page.icc), (_XMP, page.about.xmp), (_IPTC, page.about.iptc)):
        if data:
            tags[tag] = data
            tags.tagtype[tag] = 1 if tag == _XMP else 7  # BYTE, UNDEFINED
    return tags
