"""The adapted `nn.Linear`. An adapted layer *is* its base layer: an existing one is turned into it in place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora.kernels import fused
from lorgnette.lora.layers.base import LoRALayer


class LoRALinear(LoRALayer, nn.Linear):
    """`nn.Linear` with a low-rank update: `x W^T + b + s drop(x) A^T B^T`."""

    base_class = nn.Linear
    has_between = in_peft = True

    def forward(self, input: Tensor) -> Tensor:
        # Others may have stored this method and call it still when the adapter is merged or taken out.
        if not getattr(self, "lora_enabled", False):
            return nn.Linear.forward(self, input)
        acts_on, dropout = self.lora_method.acts_on, self.lora_dropout if self.training else 0.0
        if acts_on == "weight":
            return self._through_weight(input, F.linear)
        A, B = self.factors()
        if acts_on == "factors" and fused.fusable(input, self.weight, self.bias, dropout):
            return fused.adapted(fused.Matrix(), input, self.weight, self.bias, A, B, self.scaling, dropout)
        base = nn.Linear.forward(self, input)
        # A and B are cast down, never x up: no second copy of x is kept for the backward pass.
        low = F.linear(self._dropped(input), A.to(input.dtype))
        if acts_on == "activations":
            low = self._between(low, -1)
        flat_BO, flat_BR = base.reshape(-1, self.out_features), low.reshape(-1, B.shape[1])
        return torch.addmm(flat_BO, flat_BR, B.to(low.dtype).t(), alpha=self.scaling).view(base.shape)
