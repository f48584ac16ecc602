"""Frames of PyAV (FFmpeg) to RGB and back. The only file that imports av.

The formulas are those of ITU-R BT.601, BT.709 and BT.2020; FFmpeg's libswscale only changes the resolution of colour.
Its own conversions are half a level off in colour of full range, and dither.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lorgnette.images.file import Image
from lorgnette.images.pixels import to_samples
from lorgnette.video.clip import FULL, LIMITED, Clip, Colour
from lorgnette.video.codecs import Encoding

try:
    import av
    from av.error import FFmpegError
    from av.video.reformatter import Interpolation
except ImportError:
    raise ValueError("clips need PyAV: pip install 'lorgnette[video]'") from None

__all__ = ["FFmpegError", "av", "to_frame", "to_image"]

_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_KR_KB = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_BT601 = (0.299, 0.114)  # under several code points


def to_image(frame: av.VideoFrame, colour: Colour, clip: Clip) -> Image:
    """The pixels of a frame of a clip, whose numbers mean `colour`; with alpha where it has that."""
    name = frame.format.name
    if frame.format.is_rgb or frame.format.has_palette:
        levels = _resampled(frame, "rgb24" if clip.bits <= 8 else "rgb48le", FULL).to_ndarray()
        pixels = levels.astype(np.float32) / (255 if levels.dtype == np.uint8 else 65535)
    elif clip.grey:
        levels = _resampled(frame, "gray16le", FULL).to_ndarray().astype(np.float32)[..., None] / 65535
        if colour.range != FULL:
            peak = 2**clip.bits - 1
            levels = (levels * peak / 2 ** (clip.bits - 8) - 16) / 219
        pixels = np.repeat(levels, 3, axis=-1)
    else:
        depth = frame.format.components[0].bits
        if name in ("yuv444p", "yuvj444p"):
            levels = cv2.merge(_planes(frame, np.uint8))
        else:
            levels = _resampled(frame, "yuv444p16le", FULL if name.startswith("yuvj") else LIMITED).to_ndarray()
            levels = levels.astype(np.float32) / 2 ** (16 - depth)
        pixels = cv2.transform(levels.astype(np.float32), _to_rgb(colour, (frame.height, frame.width), depth))
    return Image(np.clip(pixels, 0, 1), grey=clip.grey, alpha=_alpha(frame), bits=8 if clip.bits <= 8 else 16)


def _alpha(frame: av.VideoFrame) -> NDArray[np.float32] | None:
    """(H, W) in [0, 1] of a frame that has it; it is of full range whatever the colours are."""
    part = frame.format.components[-1]
    if frame.format.has_palette:
        levels, peak = _resampled(frame, "rgba", FULL).to_ndarray()[..., 3], 255
        return None if levels.min() == peak else levels.astype(np.float32) / np.float32(peak)
    if not part.is_alpha:
        return None
    if frame.format.is_planar and part.plane == len(frame.planes) - 1:
        levels, peak = _planes(frame, np.uint8 if part.bits <= 8 else np.uint16)[-1], 2**part.bits - 1
    elif part.bits <= 8:
        levels, peak = _resampled(frame, "rgba", FULL).to_ndarray()[..., 3], 255
    else:
        levels, peak = _resampled(frame, "rgba64le", FULL).to_ndarray()[..., 3], 65535
    return levels.astype(np.float32) / np.float32(peak)


def to_frame(image: Image, encoding: Encoding) -> av.VideoFrame:
    """Pixels as an encoder takes them."""
    depth, peak = encoding.depth, 2**encoding.depth - 1
    if encoding.pixel_format == "bgr0":
        return _resampled(av.VideoFrame.from_ndarray(to_samples(image.pixels, None, False, 8)), "bgr0", FULL)
    pixels = np.nan_to_num(np.clip(np.asarray(image.pixels, np.float32), 0, 1))
    height, width = pixels.shape[:2]
    if encoding.pixel_format.startswith("gbr"):
        levels, whole = pixels[..., [1, 2, 0]] * peak, encoding.pixel_format
    else:
        levels = cv2.transform(pixels, _invert(_to_rgb(encoding.colour, (height, width), depth)))
        whole = "yuv444p" if depth == 8 else f"yuv444p{depth}le"
    kind = np.uint8 if depth == 8 else np.uint16
    frame = av.VideoFrame(width, height, whole)
    for plane, channel in zip(_planes(frame, kind), cv2.split(levels), strict=True):
        plane[:] = np.clip(np.rint(channel), 0, peak).astype(kind)
    return _resampled(frame, encoding.pixel_format, LIMITED)


def _resampled(frame: av.VideoFrame, format: str, color_range: int) -> av.VideoFrame:
    """Another resolution of colour, or another depth. The matrix and range are said to be the same, so that they stay.

    In one thread: with more, libswscale (9.5) gives other pixels from time to time.
    """
    return frame.reformat(
        format=format,
        src_colorspace=1,
        dst_colorspace=1,
        src_color_range=color_range,
        dst_color_range=color_range,
        interpolation=_EXACT,
        threads=1,
    )


def _planes(frame: av.VideoFrame, kind: type) -> list[NDArray]:
    """Views of the numbers, without what pads the rows."""
    views: list[Any] = [memoryview(plane) for plane in frame.planes]  # type: ignore[arg-type]
    return [
        np.frombuffer(view, kind).reshape(plane.height, -1)[:, : plane.width]
        for view, plane in zip(views, frame.planes, strict=True)
    ]


@functools.cache
def _to_rgb(colour: Colour, size: tuple[int, int], depth: int) -> NDArray:
    """(3, 4): levels of Y, Cb and Cr, and one, to R, G and B in [0, 1]."""
    kr, kb = _KR_KB.get(colour.matrix_for(size), _BT601)
    kg = 1 - kr - kb
    red, blue = 2 * (1 - kr), 2 * (1 - kb)
    unit = 2.0 ** (depth - 8)
    if colour.range == FULL:
        black, luma, chroma = 0.0, 2.0**depth - 1, 2.0**depth - 1
    else:
        black, luma, chroma = 16 * unit, 219 * unit, 224 * unit
    by_part = np.array([[1, 0, red], [1, -kb / kg * blue, -kr / kg * red], [1, blue, 0]])
    scaled = by_part / [luma, chroma, chroma]
    return np.concatenate([scaled, scaled @ [[-black], [-128 * unit], [-128 * unit]]], axis=1)


def _invert(affine: NDArray) -> NDArray:
    inverse = np.linalg.inv(affine[:, :3])
    return np.concatenate([inverse, -inverse @ affine[:, 3:]], axis=1)
