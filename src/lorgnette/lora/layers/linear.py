"""The adapted `nn.Linear`, and the table of all layers that can be adapted.

An adapted layer *is* its base layer: a sub-class that an existing layer is turned into in place.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.kernels import fused
from lorgnette.lora.layers.base import LoRALayer, LowRank, specialise
from lorgnette.lora.layers.convolution import (
    LoRAConv1d,
    LoRAConv2d,
    LoRAConv3d,
    LoRAConvTranspose1d,
    LoRAConvTranspose2d,
    LoRAConvTranspose3d,
)
from lorgnette.lora.layers.embedding import LoRAEmbedding
from lorgnette.lora.layers.gate import gated


class LoRALinear(LoRALayer, nn.Linear):
    """`nn.Linear` with a low-rank update: `x W^T + b + s drop(x) A^T B^T`.

    Args:
        in_features: size of the last axis of the input, `(..., in_features)`.
        out_features: size of the last axis of the output, `(..., out_features)`.
        bias: whether the base has a bias.
        r: rank.
        lora_alpha: strength; the update is scaled by `lora_alpha / r`.
        lora_dropout: dropout on the input of the low-rank path, in [0, 1).
        use_rslora: scale by `lora_alpha / sqrt(r)`.
        init_lora_weights: True or "gaussian", as in `LoRAConfig`.
        device: of the base weights.
        dtype: of the base weights.
    """

    base_class = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        r: int = 8,
        lora_alpha: float = 8,
        lora_dropout: float = 0.0,
        use_rslora: bool = False,
        init_lora_weights: bool | Literal["gaussian"] = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        config = LoRAConfig(r, lora_alpha, lora_dropout, use_rslora=use_rslora, init_lora_weights=init_lora_weights)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.attach(config)

    def forward(self, input: Tensor) -> Tensor:
        if not self.lora_enabled:
            return super().forward(input)
        if self.use_dora:
            return self._through(input, F.linear)
        if self.dynamic_rank:
            low = gated(self, F.linear(self._dropped(input), self.lora_A.to(input.dtype)), -1)
            return self._plus(super().forward(input), low, self.lora_B)
        A, B = self.factors()
        if fused.fusable(input, self.weight, self.bias, self.lora_dropout * self.training):
            factors = (A, B, self.scaling, self.lora_dropout if self.training else 0.0)
            return fused.linear(input, self.weight, self.bias, *factors)
        base = super().forward(input)
        # A and B are cast down, never x up: no second copy of x is kept for the backward pass.
        return self._plus(base, F.linear(self._dropped(input), A.to(input.dtype)), B)

    def _plus(self, base: Tensor, low: Tensor, B: Tensor) -> Tensor:
        flat_BO, flat_BR = base.reshape(-1, self.out_features), low.reshape(-1, B.shape[1])
        return torch.addmm(flat_BO, flat_BR, B.to(low.dtype).t(), alpha=self.scaling).view(base.shape)


LAYERS: dict[type[nn.Module], type[LoRALayer]] = {
    nn.Linear: LoRALinear,
    nn.Embedding: LoRAEmbedding,
    nn.Conv1d: LoRAConv1d,
    nn.Conv2d: LoRAConv2d,
    nn.Conv3d: LoRAConv3d,
    nn.ConvTranspose1d: LoRAConvTranspose1d,
    nn.ConvTranspose2d: LoRAConvTranspose2d,
    nn.ConvTranspose3d: LoRAConvTranspose3d,
}
"""What can be adapted, and by what."""

_FORWARDS = ("forward", "_conv_forward", "_output_padding", "__call__")


@functools.cache
def adapted_class(base: type[nn.Module]) -> type[LoRALayer] | None:
    """The adapted form of a layer class; None where its forward is not the one that the adapter extends."""
    for kind, adapted in LAYERS.items():
        if issubclass(base, kind) and all(getattr(base, f, None) is getattr(kind, f, None) for f in _FORWARDS):
            return specialise(adapted, base)  # type: ignore[return-value]
    return None


def attach_lora(layer: nn.Module, config: LoRAConfig, share: LowRank | None = None) -> LoRALayer:
    """Turn `layer` into its adapted form in place: hooks, ties and references to it stay valid."""
    adapted = adapted_class(type(layer))
    assert adapted is not None, f"{type(layer)} was not checked before"
    layer.__class__ = adapted
    assert isinstance(layer, LoRALayer)
    layer.attach(config, share)
    return layer
