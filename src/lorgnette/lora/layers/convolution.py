"""Adapted convolutions, plain and transposed, of one to three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lorgnette.lora.kernels import fused
from lorgnette.lora.kernels.convolution_products import Convolution
from lorgnette.lora.layers.base import LoRALayer

CONV: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
BASES: tuple[Any, ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TRANSPOSED: tuple[Callable[..., Tensor], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def _for_each(groups: int, kernel: Tensor) -> Tensor:
    return kernel.repeat(groups, *[1] * (kernel.dim() - 1)) if groups > 1 else kernel


class _LoRAConv(LoRALayer, _ConvNd):
    has_between = True

    def forward(self, input: Tensor) -> Tensor:
        if not getattr(self, "lora_enabled", False):  # as in LoRALinear
            return self._conv_forward(input, self.weight, self.bias)
        if self.lora_method.acts_on == "weight":
            return self._through_weight(input, self._conv_forward)
        dropout = self.lora_dropout * self.training
        if self._is_simple(input) and fused.fusable(input, self.weight, self.bias, dropout):
            return self._fused(input)
        base = self._conv_forward(input, self.weight, self.bias)
        x, acts_on = self._dropped(input), self.lora_method.acts_on
        if self.groups > 1 and acts_on == "factors":
            return base + self._conv_forward(x, self.delta_weight().to(x.dtype), None)
        A, B = self.factors()
        low = self._conv_forward(x, _for_each(self.groups, A.to(x.dtype)), None)
        if acts_on == "activations":
            low = self._between(low, low.dim() - A.dim() + 1)
        conv = CONV[A.dim() - 3]
        return torch.add(base, conv(low, B.to(low.dtype), groups=self.groups), alpha=self.scaling)

    def not_in_peft(self) -> list[str]:
        reasons = []
        if self.groups > 1:
            reasons.append("PEFT factorises a convolution with groups in another way")
        if self.padding_mode != "zeros":
            reasons.append(f"PEFT pads its low-rank path with zeros, not by {self.padding_mode!r}")
        if any(step != 1 for step in self.dilation):
            reasons.append("PEFT does not dilate its low-rank path")
        return reasons

    def _is_simple(self, x: Tensor) -> bool:
        return (
            self.groups == 1
            and self.lora_method.acts_on == "factors"
            and x.dim() == self.weight.dim()
            and x.numel() > 0  # of a batch of none the products know no size
            and not isinstance(self.padding, str)
        )

    def _fused(self, x: Tensor) -> Tensor:
        padding = self.padding
        assert isinstance(padding, tuple), "_is_simple looked"
        if self.padding_mode != "zeros":
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0,) * len(self.stride)
        products = Convolution(self.stride, padding, self.dilation)
        dropout = self.lora_dropout if self.training else 0.0
        return fused.adapted(products, x, self.weight, self.bias, *self.factors(), self.scaling, dropout)


class LoRAConv1d(_LoRAConv, nn.Conv1d):
    """`nn.Conv1d` with a low-rank update of its kernel, as `LoRAConv2d`; input `(B, in_channels, L)`."""

    base_class = nn.Conv1d


class LoRAConv2d(_LoRAConv, nn.Conv2d):
    """`nn.Conv2d` with a low-rank update, for any stride, padding, padding mode, dilation and groups.

    The input is `(B, in_channels, H, W)`. The update of the kernel is `s B A` with
    `A: (r, in_channels / groups, kh, kw)` and `B: (out_channels, r, 1, 1)`. Without groups these are the factors
    PEFT stores.
    """

    base_class = nn.Conv2d


class LoRAConv3d(_LoRAConv, nn.Conv3d):
    """`nn.Conv3d` with a low-rank update of its kernel, as `LoRAConv2d`; input `(B, in_channels, D, H, W)`."""

    base_class = nn.Conv3d


class _LoRAConvTranspose(LoRALayer, _ConvTransposeNd):
    has_between = True

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        dims = self.weight.dim() - 2
        if not getattr(self, "lora_enabled", False):  # as in LoRALinear
            return BASES[dims - 1].forward(self, input, output_size)
        assert isinstance(self.padding, tuple), "the base has no other"
        # The size of the output has been settled by the base; what it asks for is derived from it again.
        extra = self._output_padding(
            input, output_size, list(self.stride), list(self.padding), list(self.kernel_size), dims, list(self.dilation)
        )
        transposed, groups, acts_on = TRANSPOSED[dims - 1], self.groups, self.lora_method.acts_on
        place = (self.stride, self.padding, extra, groups, self.dilation)
        if acts_on == "weight":
            return self._through_weight(input, lambda x, weight, bias: transposed(x, weight, bias, *place))
        base = BASES[dims - 1].forward(self, input, output_size)
        x = self._dropped(input)
        if groups > 1 and acts_on == "factors":
            return base + transposed(x, self.delta_weight().to(x.dtype), None, *place)
        A, B = self.factors()
        down = B.to(x.dtype).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        low = CONV[dims - 1](x, down, groups=groups)
        if acts_on == "activations":
            low = self._between(low, low.dim() - A.dim() + 1)
        update = transposed(low, _for_each(groups, A.to(low.dtype)), None, *place)
        return torch.add(base, update, alpha=self.scaling)

    @staticmethod
    def outputs(layer: nn.Module) -> int:
        assert isinstance(layer, _ConvTransposeNd)
        return layer.out_channels

    def not_in_peft(self) -> list[str]:
        return ["PEFT has no transposed convolution"]

    def by_output(self, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        return weight.unflatten(0, (self.groups, -1)), (0, 2)  # (groups, in / groups, out / groups, *kernel)


class LoRAConvTranspose1d(_LoRAConvTranspose, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` with a low-rank update of its kernel, as `LoRAConvTranspose2d`."""

    base_class = nn.ConvTranspose1d


class LoRAConvTranspose2d(_LoRAConvTranspose, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with a low-rank update, for any stride, padding, output padding, dilation and groups.

    The kernel of a transposed convolution is `(in_channels, out_channels / groups, kh, kw)`, and so the update
    `s B A` has `A: (r, out_channels / groups, kh, kw)` and `B: (in_channels, r, 1, 1)`: the input meets B first.
    """

    base_class = nn.ConvTranspose2d


class LoRAConvTranspose3d(_LoRAConvTranspose, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d` with a low-rank update of its kernel, as `LoRAConvTranspose2d`."""

    base_class = nn.ConvTranspose3d
