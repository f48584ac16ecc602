"""Cubic resizing with antialiasing, as MATLAB's `imresize` does it.

The super-resolution literature makes its low-resolution images, and its "bicubic" rows, with MATLAB's
`imresize(image, scale, "bicubic")`. It differs from most other bicubic functions: the kernel has a = -0.5, it
is widened when shrinking (antialiasing), and the border is mirrored with the edge pixel repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")

_BLOCK = 256  # pixels of the longer side of one weight matrix: dense enough for BLAS, small enough to stay banded


def imresize(x: Array, scale: float | Sequence[float] | None = None, size: Sequence[int] | None = None) -> Array:
    """Resize the last two axes with an antialiased cubic kernel (MATLAB's convention).

    Values are not clipped or rounded: the cubic kernel overshoots at edges. Differentiable.

    Args:
        x: `(..., H, W)`, floating point, any range; a tensor or an array.
        scale: Factor for both axes or `(y, x)`; the result has `ceil(H * y)` rows and `ceil(W * x)` columns.
        size: `(H', W')` of the result, instead of `scale`.

    Returns:
        `(..., H', W')` of the dtype of `x`.

    Raises:
        ValueError: Neither or both of `scale` and `size` given, or one that is not positive and finite.
    """
    if (scale is None) == (size is None):
        raise ValueError("imresize: give either scale or size")
    floating = x.dtype.kind == "f" if isinstance(x, np.ndarray) else x.is_floating_point()
    if not floating or x.ndim < 2 or 0 in x.shape:
        raise ValueError(
            f"imresize: needs a non-empty floating-point (..., H, W) tensor, got {x.dtype} {tuple(x.shape)}"
        )
    height, width = x.shape[-2:]
    if size is not None:
        if len(size) != 2 or any(int(n) != n or n < 1 for n in size):
            raise ValueError(f"imresize: size={size!r} must be two whole numbers >= 1")
        out_y, out_x = int(size[0]), int(size[1])
        scale_y, scale_x = out_y / height, out_x / width
    else:
        scale_y, scale_x = _pair(scale)
        # The small amount keeps 100 * 1.1 = 110.00000000000001 at 110.
        out_y, out_x = math.ceil(height * scale_y - 1e-9), math.ceil(width * scale_x - 1e-9)

    if isinstance(x, np.ndarray):
        return _resized(x, (out_y, out_x), (scale_y, scale_x))
    import torch

    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return _resized(wide, (out_y, out_x), (scale_y, scale_x)).to(x.dtype)


def _pair(scale: float | Sequence[float] | None) -> tuple[float, float]:
    pair = tuple(scale) if isinstance(scale, Sequence) else (scale, scale)
    if len(pair) != 2 or not all(isinstance(s, (int, float)) and math.isfinite(s) and s > 0 for s in pair):
        raise ValueError(f"imresize: scale={scale!r} must be a positive number or two of them (y, x)")
    return float(pair[0]), float(pair[1])  # type: ignore[arg-type]


def _resized(x: Any, size: tuple[int, int], scale: tuple[float, float]) -> Any:
    if scale[0] <= scale[1]:  # the axis that shrinks more goes first: less work for the other
        return _resize_columns(_resize_rows(x, size[0], scale[0]), size[1], scale[1])
    return _resize_rows(_resize_columns(x, size[1], scale[1]), size[0], scale[0])


def _resize_rows(x: Any, n_out: int, scale: float) -> Any:
    out = _empty(x, (*x.shape[:-2], n_out, x.shape[-1]))
    for rows, source, weights in _bands(x.shape[-2], n_out, scale):
        out[..., rows, :] = _like(x, weights) @ x[..., source, :]
    return out


def _resize_columns(x: Any, n_out: int, scale: float) -> Any:
    out = _empty(x, (*x.shape[:-1], n_out))
    for columns, source, weights in _bands(x.shape[-1], n_out, scale):
        out[..., columns] = x[..., source] @ _like(x, weights).T
    return out


def _empty(x: Any, shape: tuple[int, ...]) -> Any:
    return np.empty(shape, x.dtype) if isinstance(x, np.ndarray) else x.new_empty(shape)


def _like(x: Any, weights: np.ndarray) -> Any:
    return weights.astype(x.dtype) if isinstance(x, np.ndarray) else x.new_tensor(weights)


@lru_cache(maxsize=32)
def _bands(n_in: int, n_out: int, scale: float) -> tuple[tuple[slice, slice, np.ndarray], ...]:
    """The resizing matrix `(n_out, n_in)`, in blocks of rows without the zeros on either side."""
    index, weight = _taps(n_in, n_out, scale)
    step = max(1, round(_BLOCK * min(1.0, scale)))
    bands = []
    for start in range(0, n_out, step):
        rows = slice(start, min(start + step, n_out))
        first, last = int(index[rows].min()), int(index[rows].max())
        matrix = np.zeros((rows.stop - start, last + 1 - first))
        np.add.at(matrix, (np.arange(len(matrix))[:, None], index[rows] - first), weight[rows])
        bands.append((rows, slice(first, last + 1), matrix))
    return tuple(bands)


def _taps(n_in: int, n_out: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Input indices and weights `(n_out, taps)` of every output pixel along one axis."""
    shrink = min(1.0, scale)  # below 1, the kernel is widened so that it also filters
    centre = (np.arange(n_out) + 0.5) / scale - 0.5
    reach = 2.0 / shrink
    index = np.floor(centre - reach)[:, None].astype(np.int64) + np.arange(math.ceil(2 * reach) + 2)
    weight = _cubic((centre[:, None] - index) * shrink)
    weight /= weight.sum(axis=1, keepdims=True)
    index %= 2 * n_in  # mirrored at the borders, edge pixel repeated: period 2n
    return np.minimum(index, 2 * n_in - 1 - index), weight


def _cubic(x: np.ndarray) -> np.ndarray:
    """Cubic convolution kernel, a = -0.5 (Keys, "Cubic convolution interpolation", 1981)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
