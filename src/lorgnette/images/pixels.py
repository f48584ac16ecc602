"""From floating-point pixels to the integers of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from lorgnette.common.lazy import needed

if TYPE_CHECKING:
    from torch import Tensor

_TYPES = {8: np.uint8, 16: np.uint16, 32: np.float32}
_ROWS = 256  # converted at a time, so that no second full-size float image exists

ArrayOrTensor = TypeVar("ArrayOrTensor", NDArray, "Tensor")


def to_uint8(values: NDArray | Tensor) -> NDArray[np.uint8]:
    """Round [0, 1] to the nearest of 256 levels, clipping what lies outside; NaN becomes 0.

    Args:
        values: Array or tensor of any shape.

    Returns:
        A NumPy array of that shape. `uint8` input is returned as it is.
    """
    return _quantise(values if isinstance(values, np.ndarray) else values.detach().cpu().float().numpy(), 8)


def crop_to_multiple(x: ArrayOrTensor, multiple: int) -> ArrayOrTensor:
    """Cut rows and columns off the end of `(..., H, W)` until both are multiples of `multiple`."""
    height, width = x.shape[-2:]
    if multiple < 1 or min(height, width) < multiple:
        raise ValueError(f"cannot crop {height} x {width} pixels to a multiple of {multiple}")
    return x[..., : height - height % multiple, : width - width % multiple]


def seen_colours(pixels: NDArray, alpha: NDArray | None) -> NDArray:
    """Pixels without the colours that nobody sees, where `alpha` is 0: there is that of the nearest pixel that is seen.

    So whatever mixes neighbours, a network or a kernel, mixes in nothing that was hidden.

    Args:
        pixels: `(H, W, 3)`.
        alpha: `(H, W)`, or None.

    Returns:
        A new array; or `pixels` itself where all of them are seen, or none.
    """
    if alpha is None or not (hidden := alpha <= 0).any() or hidden.all():
        return pixels
    cv2 = needed("cv2", "opencv-python-headless", "a picture with parts that are fully transparent")
    kind = cv2.DIST_LABEL_PIXEL
    _, nearest = cv2.distanceTransformWithLabels(hidden.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=kind)
    source = np.empty(int(nearest.max()) + 1, np.int64)
    source[nearest[~hidden].astype(np.int64)] = np.flatnonzero(
        ~hidden
    )  # each pixel that is seen has a label of its own
    return pixels.reshape(-1, 3)[source[nearest.astype(np.int64)]]


def to_samples(
    pixels: NDArray, alpha: NDArray | None, grey: bool, bits: int, span: tuple[float, float] = (0.0, 1.0)
) -> NDArray:
    """Numbers `(H, W, C)` as they go into a file.

    Args:
        pixels: `(H, W, 3)` in [0, 1], or integers of that depth.
        alpha: `(H, W)` in [0, 1], the last channel of the result.
        grey: Store the mean of the three channels as one.
        bits: 8 or 16; 32 for floating point.
        span: Of floating point, what 0 and 1 of `pixels` stand for.

    Raises:
        ValueError: The arrays have other shapes or types.
    """
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.size == 0:
        raise ValueError(f"pixels must be (H, W, 3), got {pixels.shape}")
    if alpha is not None and alpha.shape != pixels.shape[:2]:
        raise ValueError(f"alpha {alpha.shape} and pixels {pixels.shape} differ in size")
    colours = 1 if grey else 3
    samples = np.empty((*pixels.shape[:2], colours + (alpha is not None)), _TYPES[bits])
    for start in range(0, len(pixels), _ROWS):
        rows = slice(start, start + _ROWS)
        colour = _one_channel(pixels[rows]) if grey else pixels[rows]
        samples[rows, :, :colours] = _spread(colour, span) if bits == 32 else _quantise(colour, bits)
        if alpha is not None:
            samples[rows, :, -1] = alpha[rows] if bits == 32 else _quantise(alpha[rows], bits)
    return samples


def _one_channel(pixels: NDArray) -> NDArray:
    return pixels[..., :1] if pixels.dtype.kind == "u" else pixels.mean(axis=-1, keepdims=True, dtype=np.float32)


def _spread(values: NDArray, span: tuple[float, float]) -> NDArray:
    return values if span == (0.0, 1.0) else span[0] + values.astype(np.float64) * (span[1] - span[0])


def _quantise(values: NDArray, bits: int) -> NDArray:
    dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
    if values.dtype == dtype:
        return values
    if values.dtype.kind != "f":
        raise ValueError(f"pixels must be floating point in [0, 1] or {dtype}, got {values.dtype}")
    peak = np.float32(np.iinfo(dtype).max)
    scaled = np.clip(values.astype(np.float32), 0, 1) * peak + np.float32(0.5)
    return np.nan_to_num(scaled, copy=False, nan=0.0).astype(dtype)
