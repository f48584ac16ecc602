"""Numbers in one byte: symmetric int8 with a scale for each row of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 127


def scale_count(shape: tuple[int, ...], axis: int | None) -> int:
    """How many scales a tensor of this shape has; see `quantise`."""
    count = 1
    for i, size in enumerate(shape):
        count *= 1 if axis is None or i == axis % len(shape) else size
    return 1 if axis is None else count


def quantise(values: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """Whole numbers in [-127, 127] as int8, and the float32 scales that they are multiples of.

    Args:
        values: floats, finite.
        axis: values along it share a scale, the largest of their sizes / 127; None: all of the tensor do.

    Returns:
        int8 of the same shape, and scales (n,) float32.
    """
    largest = values.abs().amax() if axis is None else values.abs().amax(axis, keepdim=True)
    scale = (largest.float() / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
    whole = (values.float() / scale).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    return whole, torch.where(largest > 0, scale, 0).float().reshape(-1)


def dequantise(whole: Tensor, scales: Tensor, axis: int | None) -> Tensor:
    """The float32 values that `quantise` made whole numbers of."""
    if axis is None:
        return whole.float() * scales.reshape(())
    shape = list(whole.shape)
    shape[axis] = 1
    return whole.float() * scales.reshape(shape)
