"""Image files: 8 and 16 bits, grey, RGB, alpha, with their colour profile and EXIF data.

Pillow reads and writes what it can in full, here; 16 bits and what TIFF files need are in `formats`.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from lorgnette.common.files import atomic_write
from lorgnette.images import exif as exif_data
from lorgnette.images.folders import SUFFIXES
from lorgnette.images.formats import png, tiff
from lorgnette.images.pixels import to_samples

MAX_PIXELS = 180_000_000  # 2.2 GB as float32 RGB; a small file can claim to be far larger
_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_WITH_ALPHA = ("PNG", "WEBP", "TIFF")

_pillow_limit = threading.Lock()


class ImageError(ValueError):
    """An image file that cannot be read or written; one line that names the file and what would work."""


@dataclass
class Image:
    """One picture.

    Attributes:
        pixels: `(H, W, 3)` RGB, float32 in [0, 1] as stored (not linear light), upright. For writing, any
            floating-point array; or integers of the written depth, which are stored as they are.
        grey: The file has one channel, here three times; it is written as one (their mean).
        alpha: `(H, W)` in [0, 1], not multiplied into the pixels; None if the file has none.
        bits: 8 or 16 bits per channel in the file.
        icc: The embedded colour profile.
        exif: EXIF data without an orientation: the pixels are upright.
    """

    pixels: NDArray
    grey: bool = False
    alpha: NDArray | None = None
    bits: int = 8
    icc: bytes | None = None
    exif: bytes | None = None


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image:
    """Read a PNG, JPEG, BMP, WebP or TIFF file of 8 or 16 bits per channel.

    Palettes become RGB; 1-bit images grey; a transparent colour becomes an alpha plane; CMYK becomes sRGB, by
    its profile where it has one. Of a file with several pictures, the first is read.

    Args:
        path: The file. Its content counts, not its suffix.
        max_pixels: Larger pictures are refused before memory is taken for them.

    Raises:
        FileNotFoundError: There is no such file.
        ImageError: (a ValueError) It is no image, is damaged, too large or of an unsupported kind.
    """
    path = Path(path)
    _require_file(path)
    with _decoding(path):
        deep = _deep_format(path)
        if deep == "TIFF":
            return _read_tiff(path, max_pixels)
        # A stream rather than a path: Pillow (13.0) garbles memory-mapped TIFFs of some orientations.
        with path.open("rb") as stream, _open(path, stream, max_pixels) as file:
            file.load()  # raises when the file is cut off, which OpenCV would pass over
            orientation, exif = exif_data.from_pillow(path, file)
            icc = file.info.get("icc_profile")
            if deep == "PNG":
                return _image(png.read_png(path), orientation, exif, icc)
            if file.mode == "CMYK":
                file, icc = _cmyk_to_srgb(file, icc), None
            return _image(np.asarray(_simple_mode(path, file)), orientation, exif, icc)


def write_image(path: str | os.PathLike[str], image: Image, quality: int = 95) -> None:
    """Write a picture, whole or not at all; the suffix chooses the format.

    16 bits are kept in PNG and TIFF, and rounded to 8 elsewhere. Values are clipped to [0, 1] and rounded to
    the nearest level. BMP keeps neither profile nor EXIF data.

    Args:
        path: Ends in one of `SUFFIXES`. Missing folders are made.
        image: The picture.
        quality: 1 to 100 for JPEG (chroma in full resolution) and WebP (100: lossless).

    Raises:
        ImageError: (a ValueError) The format cannot hold the picture, or the file cannot be written.
        ValueError: The folder cannot be written to, or the arrays do not fit together.
    """
    path = Path(path)
    format = check_output(path, alpha=image.alpha is not None)
    if image.bits not in (8, 16):
        raise ValueError(f"bits={image.bits} must be 8 or 16")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality} must be between 1 and 100")
    samples = to_samples(
        image.pixels, image.alpha, image.grey, 16 if image.bits == 16 and format in ("PNG", "TIFF") else 8
    )
    height, width = samples.shape[:2]
    exif = exif_data.resized(image.exif, width, height) if image.exif else None
    with atomic_write(path) as temporary:
        try:
            _encode(temporary, format, samples, quality, image.icc, exif)
        except (OSError, ValueError, struct.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"cannot write {path} as {format} of {width} x {height} pixels: {reason}") from None


def check_output(path: str | os.PathLike[str], alpha: bool = False) -> str:
    """Check, before the work, that a picture can be written there.

    Returns:
        The format: "PNG", "JPEG", "BMP", "WEBP" or "TIFF".

    Raises:
        ImageError: (a ValueError) The suffix is none of `SUFFIXES`, its format has no alpha plane, or `path`
            is a folder.
    """
    path = Path(path)
    format = _FORMATS.get(path.suffix.lower())
    if format is None:
        raise ImageError(f"cannot write {path}: its suffix must be one of {', '.join(SUFFIXES)}")
    if alpha and format not in _WITH_ALPHA:
        raise ImageError(f"cannot write {path}: {format} has no alpha plane; use .png, .webp or .tif")
    if path.is_dir():
        raise ImageError(f"cannot write {path}: it is a folder")
    return format


# ---------------------------------------------------------------------------------------------------- reading


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise ImageError(f"{path} is a folder, not an image file")
    if not path.exists():
        raise FileNotFoundError(f"no such image file: {path}")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes): use an intact copy")


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises at a broken file (nearly anything) into one line."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except PermissionError:
        raise ImageError(f"{path} may not be read: permission denied") from None
    except PIL.UnidentifiedImageError:
        raise ImageError(f"{path} is not a PNG, JPEG, BMP, WebP or TIFF image") from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ImageError(f"{path} is damaged or incomplete ({reason}): use an intact copy") from None


def _deep_format(path: Path) -> Literal["PNG", "TIFF"] | None:
    """Which format of 16 bits a file has; None for all that Pillow reads in full."""
    with path.open("rb") as file:
        head = file.read(26)
    if head.startswith(png.SIGNATURE):
        return "PNG" if head[24:25] == b"\x10" else None  # its header begins with width, height, bits
    return "TIFF" if head.startswith(tiff.SIGNATURES) and tiff.bits_of(path) > 8 else None


def _open(path: Path, stream: IO[bytes], max_pixels: int) -> PIL.Image.Image:
    """Read the header. Pillow's own limit of pixels is a global; ours takes its place meanwhile."""
    with _pillow_limit:
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            file = PIL.Image.open(stream, formats=sorted(set(_FORMATS.values())))
            _check_size(path, file.size, max_pixels)
            if file.format == "TIFF":
                file.load()  # asks for the limit once more
            return file
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ImageError(
            f"{path} has {size[0]} x {size[1]} pixels, more than max_pixels={max_pixels}: "
            f"raise max_pixels or cut the image"
        )


def _read_tiff(path: Path, max_pixels: int) -> Image:
    try:
        samples = tiff.read_tiff(path, lambda size: _check_size(path, size, max_pixels))
    except tiff.UnsupportedTiff as error:
        raise ImageError(f"{path}: {error}") from None
    return _image(samples, *exif_data.from_tiff(path))


def _simple_mode(path: Path, file: PIL.Image.Image) -> PIL.Image.Image:
    """The same picture as L, LA, RGB or RGBA."""
    if file.mode in ("1", "L", "LA", "La"):
        return file.convert("LA" if file.has_transparency_data else "L")
    if file.mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        return file.convert("RGBA" if file.has_transparency_data else "RGB")
    raise ImageError(f"{path} has {file.mode} pixels: convert it to grey or RGB of 8 or 16 bits")


def _cmyk_to_srgb(file: PIL.Image.Image, icc: bytes | None) -> PIL.Image.Image:
    if icc:
        import io

        from PIL import ImageCms

        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            converted = ImageCms.profileToProfile(
                file,
                ImageCms.ImageCmsProfile(io.BytesIO(icc)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
            if converted is not None:
                return converted
    return file.convert("RGB")


def _image(samples: NDArray, orientation: int, exif: bytes | None, icc: bytes | None) -> Image:
    """From integers `(H, W)` or `(H, W, C)`: grey, grey + alpha, RGB or RGB + alpha."""
    samples = exif_data.upright(samples if samples.ndim == 3 else samples[..., None], orientation)
    values = samples.astype(np.float32)
    values /= np.iinfo(samples.dtype).max
    channels = samples.shape[-1]
    pixels = np.repeat(values[..., :1], 3, axis=-1) if channels < 3 else np.ascontiguousarray(values[..., :3])
    alpha = np.ascontiguousarray(values[..., -1]) if channels in (2, 4) else None
    return Image(pixels, channels < 3, alpha, 16 if samples.dtype == np.uint16 else 8, icc, exif)


# ---------------------------------------------------------------------------------------------------- writing


def _encode(path: Path, format: str, samples: NDArray, quality: int, icc: bytes | None, exif: bytes | None) -> None:
    if format == "TIFF":
        tiff.write_tiff(path, samples, icc, exif)
    elif samples.dtype == np.uint16:
        png.write_png(path, samples, icc, exif)
    else:
        settings: dict[str, Any] = {name: data for name, data in (("icc_profile", icc), ("exif", exif)) if data}
        if format == "JPEG":
            settings |= {"quality": quality, "subsampling": 0}
        elif format == "WEBP":
            settings |= {"quality": quality, "lossless": quality == 100, "exact": True}
        flat = samples.squeeze(-1) if samples.shape[-1] == 1 else samples
        PIL.Image.fromarray(flat).save(path, format=format, **settings)
