"""The products that the fused pass of a convolution is made of, in their quickest order."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorgnette.lora.kernels import narrow


class Convolution(NamedTuple):
    """As `fused.Matrix`, of a convolution. `x: (B, in, *)`, `y: (B, out, *)`, `h: (B, r, *)`."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return torch.convolution(x, weight, bias, *self._geometry())

    def lower(self, x: Tensor, A: Tensor) -> Tensor:
        if narrow.rows_pay(x, A, self.stride):
            return narrow.lower_by_rows(x, A, self.padding, self.dilation)
        return self.apply(x, A)

    def rows(self, x: Tensor) -> int:
        return x.numel() // max(1, x.shape[1] * math.prod(self.stride))

    def input_grad(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        mask = (True, False, False)
        return torch.ops.aten.convolution_backward(grad, x, weight, None, *self._geometry(), mask)[0]

    def add_input_grad(self, to: Tensor, grad: Tensor, factor: Tensor) -> Tensor:
        if narrow.taps_pay(to, factor, self.stride):
            return narrow.add_input_grad_by_taps(to, grad, factor, self.padding, self.dilation)
        return to.add_(self.input_grad(grad, to, factor))

    def weight_grad(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        if narrow.taps_pay(x, weight, self.stride):
            return narrow.weight_grad_by_taps(grad, x, weight, self.padding, self.dilation)
        if narrow.rows_pay(x, weight, self.stride):
            return narrow.weight_grad_by_rows(grad, x, weight, self.padding, self.dilation)
        mask = (False, True, False)
        return torch.ops.aten.convolution_backward(grad, x, weight, None, *self._geometry(), mask)[1]

    def add_up(self, y: Tensor, h: Tensor, B: Tensor, scale: float) -> Tensor:
        wide = B.flatten(1).expand(y.shape[0], -1, -1)
        y.view(*y.shape[:2], -1).baddbmm_(wide, h.flatten(2), alpha=scale)
        return y  # itself: the strides of a view may hide that it is channels last

    def down(self, grad: Tensor, B: Tensor) -> Tensor:
        narrow = B.flatten(1).mT.expand(grad.shape[0], -1, -1)
        return torch.bmm(narrow, grad.flatten(2)).unflatten(2, grad.shape[2:])

    def outer(self, grad: Tensor, h: Tensor) -> Tensor:
        return torch.bmm(h.flatten(2), grad.flatten(2).mT).sum(0).mT

    def _geometry(self) -> tuple[Any, ...]:
        zeros = [0] * len(self.stride)
        return list(self.stride), list(self.padding), list(self.dilation), False, zeros, 1
