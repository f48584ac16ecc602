"""The adapted `nn.Embedding`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.layers.base import LoRALayer
from lorgnette.lora.layers.method import Method


class LoRAEmbedding(LoRALayer, nn.Embedding):
    """`nn.Embedding` with a low-rank update of its table: row `i` becomes `weight[i] + s B[i] A`.

    `A` is `(r, embedding_dim)`, `B` is `(num_embeddings, r)`; PEFT stores both transposed, under each other's
    letter. A row of B learns only from the tokens that name it; that of `padding_idx` never does.

    Dropout acts on `A`, as there is nothing to drop in an index. `A` starts normal with deviation 1, as in PEFT and
    loralib, or with 1 / r for "gaussian".
    """

    base_class = nn.Embedding
    in_peft = True

    def forward(self, input: Tensor) -> Tensor:
        base = nn.Embedding.forward(self, input)
        if not getattr(self, "lora_enabled", False):  # as in LoRALinear
            return base
        if self.lora_method.acts_on == "weight":
            how = {"padding_idx": self.padding_idx, "scale_grad_by_freq": self.scale_grad_by_freq}
            return F.embedding(input, self.effective_weight(), **how)
        A, B = self.factors()
        low = F.embedding(input, B, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)
        factor = self._dropped(A)
        return torch.add(base, low.to(base.dtype) @ factor.to(base.dtype), alpha=self.scaling)

    @staticmethod
    def outputs(layer: nn.Module) -> int:
        return layer.get_parameter("weight").shape[1]

    @classmethod
    def why_not(cls, layer: nn.Module, method: Method) -> str | None:
        if getattr(layer, "max_norm", None) is not None:
            return "rescales its rows in place at every call (max_norm), so that an update has no fixed base"
        return super().why_not(layer, method)

    def by_output(self, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        return weight, (1,)

    def _init_lora_A(self, config: LoRAConfig) -> None:
        nn.init.normal_(self.lora_A, std=1 / config.r if config.init_lora_weights == "gaussian" else 1.0)
