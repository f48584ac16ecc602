"""Image files: 8 and 16 bits, grey, RGB, alpha, with what they say of themselves.

What Pillow reads and writes in full goes through `formats.pillow`; 16 bits and TIFF files through their own.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorgnette.common.files import atomic_write
from lorgnette.images import exif as exif_data
from lorgnette.images.about import NOTHING, About, Described
from lorgnette.images.errors import ImageError, ImageWarning
from lorgnette.images.formats import pillow, png, tiff
from lorgnette.images.formats.kept import kept_by
from lorgnette.images.formats.reading import count_of, decoding, named, read
from lorgnette.images.formats.table import BY_NAME, BY_SUFFIX, WRITABLE, Format
from lorgnette.images.limits import check_fits
from lorgnette.images.pixels import to_samples

MAX_PIXELS = 180_000_000  # 2.2 GB as float32 RGB; a small file can claim to be far larger


@dataclass
class Image:
    """One picture.

    Attributes:
        pixels: `(H, W, 3)` RGB, float32 in [0, 1] as stored (not linear light), upright. For writing, any
            floating-point array; or integers of the written depth, which are stored as they are.
        grey: The file has one channel, here three times; it is written as one (their mean).
        alpha: `(H, W)` in [0, 1], not multiplied into the pixels; None if the file has none.
        bits: 8 or 16 bits per channel in the file; 32 for floating point, which TIFF holds.
        span: Of a floating-point file, the numbers that 0 and 1 of `pixels` stand for.
        icc: The embedded colour profile.
        exif: EXIF data without an orientation: the pixels are upright.
        about: Resolution, XMP, IPTC, texts and colour chunks.
    """

    pixels: NDArray
    grey: bool = False
    alpha: NDArray | None = None
    bits: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    about: About = NOTHING
    span: tuple[float, float] = (0.0, 1.0)


def read_image(
    path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, number: int | None = None, any_range: bool = False
) -> Image:
    """Read a PNG, JPEG, BMP, WebP, TIFF, AVIF or GIF file; HEIC and JPEG XL with the extra `formats`.

    Palettes become RGB; 1-bit images grey; a transparent colour becomes an alpha plane; CMYK becomes sRGB, by
    its profile where it has one. Floating-point TIFF files are read where their values lie in [0, 1].

    Args:
        path: The file. Its content counts, not its suffix.
        max_pixels: Larger pictures are refused before memory is taken for them.
        number: Which picture of several, from 0. Unset: the first (of a HEIC file the main one), and an
            `ImageWarning` says so where there are more.
        any_range: Read floating-point values of any range: brought to [0, 1], `span` says from where. Pictures that are
            compared, or learnt from, must not each have a range of their own.

    Raises:
        FileNotFoundError: There is no such file.
        ImageError: (a ValueError) It is no image, is damaged, too large or of an unsupported kind, or has no such
            picture.
    """
    path = Path(path)
    with decoding(path):
        if number is not None and number not in range(there := count_of(path, max_pixels)):
            raise ImageError(f"{path} has no picture of number {number}: it holds {there}, from 0 on")
        samples, said, count = read(path, max_pixels, number, any_range)
        image = _image(samples, said)
    if number is None and count > 1:
        warnings.warn(f"{path}: only the first of its {count} pictures is read", ImageWarning, stacklevel=2)
    return image


def read_images(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, any_range: bool = False) -> Iterator[Image]:
    """All pictures of a file, one after the other: pages of a TIFF, frames of an animation. See `read_image`."""
    for number in range(count_images(path, max_pixels)):
        yield read_image(path, max_pixels, number, any_range)


def count_images(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> int:
    """How many pictures a file holds; smaller versions within a TIFF and its masks do not count.

    Raises:
        FileNotFoundError: There is no such file.
        ImageError: (a ValueError) It is no image, or too large.
    """
    path = Path(path)
    with decoding(path):
        return count_of(path, max_pixels)


def format_of(path: str | os.PathLike[str]) -> str:
    """The format of an image file by its content, named as by `check_output`; "GIF" where it is one.

    Raises:
        FileNotFoundError: There is no such file.
        ImageError: (a ValueError) It is no image.
    """
    path = Path(path)
    with decoding(path):
        return named(path)


def write_image(path: str | os.PathLike[str], image: Image, quality: int = 95) -> None:
    """Write a picture, whole or not at all; the suffix chooses the format.

    16 bits are kept in PNG and TIFF, and rounded to 8 elsewhere; TIFF keeps floating point, in the range of `span`.
    Other values are clipped to [0, 1] and rounded to the nearest level. What the picture says of itself and the format
    cannot hold is named in an `ImageWarning`.

    Args:
        path: Ends in one of `lorgnette.images.formats.table.WRITABLE`. Missing folders are made.
        image: The picture.
        quality: 1 to 100 for JPEG (chroma in full resolution), WebP and JPEG XL (100: lossless), AVIF and HEIC.

    Raises:
        ImageError: (a ValueError) The format cannot hold the picture, or the file cannot be written.
        ValueError: The folder cannot be written to, or the arrays do not fit together.
    """
    write_images(path, [image], quality)


def write_images(
    path: str | os.PathLike[str], images: Iterable[Image], quality: int = 95, count: int | None = None
) -> None:
    """Write pictures into one file, whole or not at all: several as the pages of a TIFF. See `write_image`.

    Args:
        path: Ends in .tif or .tiff where there are several.
        images: At least one; of an iterator, one is in memory at a time.
        quality: See `write_image`.
        count: Of an iterator: how many there are, by which a file of more than 4 GB becomes a BigTIFF.

    Raises:
        ImageError: (a ValueError) As for `write_image`; or there are several, and it is no TIFF.
    """
    path = Path(path)
    count = count or (len(images) if isinstance(images, Sequence) else 1)
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality} must be between 1 and 100")
    remaining = iter(images)
    if (first := next(remaining, None)) is None:
        raise ValueError(f"images: none; {path} needs one at least")
    format = _writable(path, first)
    if count > 1 and format.name != "TIFF":
        raise ImageError(f"cannot write {path}: {format} holds one picture here, and there are {count}; use .tif")
    with atomic_write(path) as temporary:
        try:
            if format.name == "TIFF":
                raw = first.pixels.size * first.bits // 8 * count
                pages = (_page(path, format, image) for image in chain([first], remaining))
                tiff.write_tiff(temporary, pages, raw)
            else:
                _save(temporary, _page(path, format, first), format, quality)
        except ImageError:
            raise
        except (OSError, ValueError, struct.error) as error:
            reason = getattr(error, "strerror", None) or error
            height, width = first.pixels.shape[:2]
            raise ImageError(f"cannot write {path} as {format} of {width} x {height} pixels: {reason}") from None


def check_output(
    path: str | os.PathLike[str], alpha: bool = False, size: tuple[int, int] | None = None, bits: int = 8
) -> str:
    """Check, before the work, that a picture can be written there.

    Args:
        path: The file to be.
        alpha: The picture has an alpha plane.
        size: Its (H, W), where that is known: it must fit the format and the disk.
        bits: 8, 16, or 32 for floating point.

    Returns:
        The format, as Pillow calls it: "PNG", "JPEG", "BMP", "WEBP", "TIFF", "AVIF", "HEIF" or "JXL".

    Raises:
        ImageError: (a ValueError) The suffix is that of no format which is written, its format has no alpha plane or is
            too small, the disk has no room, or `path` is a folder.
    """
    path = Path(path)
    format = BY_SUFFIX.get(path.suffix.lower())
    if format is None or not format.written:
        raise ImageError(f"cannot write {path}: its suffix must be one of {', '.join(WRITABLE)}")
    if format.module:
        pillow.learn(path, format, "write")
    if alpha and not format.alpha:
        raise ImageError(f"cannot write {path}: {format} has no alpha plane; use .png, .webp or .tif")
    if path.is_dir():
        raise ImageError(f"cannot write {path}: it is a folder")
    if size is not None:
        check_fits(path, format, size, 3 + alpha, bits)
    return format.name


# ---------------------------------------------------------------------------------------------------- reading


def _image(samples: NDArray, said: Described) -> Image:
    """From integers or floats `(H, W)` or `(H, W, C)`: grey, grey + alpha, RGB or RGB + alpha."""
    samples = exif_data.upright(samples if samples.ndim == 3 else samples[..., None], said.orientation)
    values = samples.astype(np.float32)
    if samples.dtype.kind == "u":
        values /= np.iinfo(samples.dtype).max
    channels = samples.shape[-1]
    pixels = np.repeat(values[..., :1], 3, axis=-1) if channels < 3 else np.ascontiguousarray(values[..., :3])
    alpha = np.ascontiguousarray(values[..., -1]) if channels in (2, 4) else None
    bits = {1: 8, 2: 16, 4: 32}[samples.dtype.itemsize]
    return Image(pixels, channels < 3, alpha, bits, said.icc, said.exif, said.about, said.span)


# ---------------------------------------------------------------------------------------------------- writing


def _writable(path: Path, image: Image) -> Format:
    if image.bits not in (8, 16, 32):
        raise ValueError(f"bits={image.bits} must be 8 or 16, or 32 for floating point")
    size = (image.pixels.shape[0], image.pixels.shape[1]) if image.pixels.ndim == 3 else None
    return BY_NAME[check_output(path, image.alpha is not None, size, image.bits)]


def _page(path: Path, format: Format, image: Image) -> tiff.Page:
    """What goes into the file; what does not is named."""
    _writable(path, image)
    bits = format.bits(image.bits)
    samples = to_samples(image.pixels, image.alpha, image.grey, bits, image.span)
    size = (samples.shape[0], samples.shape[1])
    icc, exif, about, lost = kept_by(format, size, image.icc, image.exif, image.about)
    low, high = image.span
    if image.bits == 32 != bits and (low, high) != (0, 1):
        lost.append(f"floating-point numbers, of which {low:g} to {high:g} become 0 to {2**bits - 1}")
    if lost:
        warnings.warn(f"{path}: without {', '.join(lost)}", ImageWarning, stacklevel=2)
    return tiff.Page(samples, icc, exif, about)


def _save(path: Path, page: tiff.Page, format: Format, quality: int) -> None:
    if page.samples.dtype == np.uint16:
        png.write_png(path, page.samples, png.chunks(page.icc, page.exif, page.about))
    else:
        pillow.save(path, format, page.samples, quality, page.icc, page.exif, page.about)
