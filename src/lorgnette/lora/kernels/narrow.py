"""Convolutions between many channels and the few of a low rank, on a processor, without wasted lanes.

A processor's convolution works on blocks of 16 channels: one with 8 costs nearly as much as one with 16. Here taps of
the kernel become further channels, so that fewer lanes stay empty; which way is quicker was measured.

Names: `x: (B, C, *size)`; `h: (B, r, *size)`, the narrow side, or its gradient; `A: (r, C, *kernel)`. The stride is 1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LANES = 16
_WORTH_IT = 2**17  # elements of x: below, what it takes to start the further operations is more than they save


def rows_pay(x: Tensor, A: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether `lower_by_rows` and `weight_grad_by_rows` are quicker."""
    return _suits(x, A, stride) and x.dtype == torch.float32 and A.shape[2] > 1 and A[0, 0].numel() <= 27


def taps_pay(x: Tensor, A: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether `weight_grad_by_taps` and `add_input_grad_by_taps` are quicker."""
    return _suits(x, A, stride) and x.dtype == torch.bfloat16 and A[0, 0].numel() <= 9


def lower_by_rows(x: Tensor, A: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """`h = A x`: each row of the kernel gives channels of its own, which are shifted and summed afterwards."""
    r, C, rows, *rest = A.shape
    kernel = A.movedim(2, 0).reshape(rows * r, C, 1, *rest)
    parts = torch.convolution(x, kernel, None, *_row_geometry(padding, dilation)).unflatten(1, (rows, r))
    height = x.shape[2] + 2 * padding[0] - dilation[0] * (rows - 1)
    h = parts.new_zeros(x.shape[0], r, height, *parts.shape[4:])
    for row in range(rows):
        shift = row * dilation[0] - padding[0]  # row `y` of the output meets row `y + shift` of the input
        start, stop = max(0, -shift), min(height, x.shape[2] - shift)
        if start < stop:
            h[:, :, start:stop] += parts[:, row, :, start + shift : stop + shift]
    return h


def weight_grad_by_rows(h: Tensor, x: Tensor, A: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """Gradient of `A` from that of `h`: shifted copies of it side by side stand for the rows of the kernel."""
    r, C, rows, *rest = A.shape
    shifted = torch.cat(_shifted(h, 0, x.shape[2], rows, padding[0], dilation[0]), 1)
    like, mask = A.new_empty(rows * r, C, 1, *rest), (False, True, False)
    grad = torch.ops.aten.convolution_backward(shifted, x, like, None, *_row_geometry(padding, dilation), mask)[1]
    return grad.unflatten(0, (rows, r)).movedim(0, 2).squeeze(3)


def weight_grad_by_taps(h: Tensor, x: Tensor, A: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """Gradient of `A` from that of `h`, as one product of matrices for each image."""
    grad = torch.bmm(_taps(h, x, A, padding, dilation), x.flatten(2).mT).sum(0, dtype=torch.float32)
    return grad.view(-1, *A.shape[:2]).permute(1, 2, 0).reshape(A.shape)


def add_input_grad_by_taps(
    to: Tensor, h: Tensor, A: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...]
) -> Tensor:
    """Add the gradient of `x` from that of `h`, in place, as one product of matrices for each image."""
    wide = A.flatten(2).permute(1, 2, 0).flatten(1)
    to.flatten(2).baddbmm_(wide.expand(len(to), -1, -1), _taps(h, to, A, padding, dilation))
    return to


def _suits(x: Tensor, A: Tensor, stride: tuple[int, ...]) -> bool:
    if x.device.type != "cpu" or not x.is_contiguous() or x.numel() < _WORTH_IT:
        return False
    return 2 * A.shape[0] <= min(_LANES, A.shape[1]) and all(step == 1 for step in stride)


def _taps(h: Tensor, x: Tensor, A: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """What each element of `x` meets of `h` through each tap of the kernel: `(B, taps * r, elements)`."""
    parts = [h]
    for axis, place in enumerate(zip(x.shape[2:], A.shape[2:], padding, dilation, strict=True)):
        parts = [shifted for part in parts for shifted in _shifted(part, axis, *place)]
    return torch.cat(parts, 1).flatten(2)


def _shifted(h: Tensor, axis: int, size: int, taps: int, padding: int, dilation: int) -> list[Tensor]:
    """`h` as an axis of `x` of this size meets it through each tap of the kernel."""
    reach = dilation * (taps - 1) - padding
    wide = F.pad(h, [*[0, 0] * (h.dim() - 3 - axis), reach, reach])
    return [wide.narrow(2 + axis, (taps - 1 - tap) * dilation, size) for tap in range(taps)]


def _row_geometry(padding: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[Any, ...]:
    """Of a convolution whose kernel is one row high."""
    zeros = [0] * len(padding)
    return [1] * len(padding), [0, *padding[1:]], [1, *dilation[1:]], False, zeros, 1
