"""The adapted `nn.Linear`. An adapted layer *is* its base layer: an existing one is turned into it in place."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.kernels import fused
from lorgnette.lora.layers.base import LoRALayer
from lorgnette.lora.layers.method import PLAIN


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
        self.attach(config, PLAIN)

    def forward(self, input: Tensor) -> Tensor:
        if not self.lora_enabled:
            return super().forward(input)
        acts_on, dropout = self.method.acts_on, self.lora_dropout if self.training else 0.0
        if acts_on == "weight":
            return self._through_weight(input, F.linear)
        A, B = self.factors()
        if acts_on == "factors" and fused.fusable(input, self.weight, self.bias, dropout):
            return fused.linear(input, self.weight, self.bias, A, B, self.scaling, dropout)
        base = super().forward(input)
        # A and B are cast down, never x up: no second copy of x is kept for the backward pass.
        low = F.linear(self._dropped(input), A.to(input.dtype))
        if acts_on == "activations":
            low = self._between(low, -1)
        flat_BO, flat_BR = base.reshape(-1, self.out_features), low.reshape(-1, B.shape[1])
        return torch.addmm(flat_BO, flat_BR, B.to(low.dtype).t(), alpha=self.scaling).view(base.shape)

    def not_in_peft(self) -> list[str]:
        return []
