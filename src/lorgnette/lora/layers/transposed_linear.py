"""The adapted linear layer whose weight is stored the other way round: `Conv1D` of transformers (GPT-2 and others)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora.layers.base import LoRALayer
from lorgnette.lora.layers.method import Method


class LoRATransposedLinear(LoRALayer):
    """A layer `x W + b` with `W: (in, out)`, as `x W + b + s drop(x) A^T B^T`; its class is known when it is there.

    `A: (r, in)` and `B: (out, r)` are those of a linear layer, and of PEFT's files.
    """

    has_between = in_peft = True

    def forward(self, x: Tensor) -> Tensor:
        base_class: Any = getattr(self, "base_class", type(self))
        if not getattr(self, "lora_enabled", False):  # as in LoRALinear
            return base_class.forward(self, x)
        if self.lora_method.acts_on == "weight":
            return self._through_weight(x, lambda x, weight, bias: F.linear(x, weight.mT, bias))
        base, (A, B) = base_class.forward(self, x), self.factors()
        low = F.linear(self._dropped(x), A.to(x.dtype))
        if self.lora_method.acts_on == "activations":
            low = self._between(low, -1)
        return torch.add(base, F.linear(low, B.to(low.dtype)), alpha=self.scaling)

    @staticmethod
    def outputs(layer: nn.Module) -> int:
        return layer.get_parameter("weight").shape[1]

    @staticmethod
    def shapes(weight: tuple[int, ...], r: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (r, weight[0]), (weight[1], r)

    @classmethod
    def why_not(cls, layer: nn.Module, method: Method) -> str | None:
        if method.frozen:
            return f"({cls.base_class.__name__}) cannot have {method.title}: nn.Linear can"
        return super().why_not(layer, method)

    def by_output(self, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        return weight, (1,)

    def _delta(self, factor: Tensor, weight: Tensor) -> Tensor:
        return super()._delta(factor, weight.mT).mT
