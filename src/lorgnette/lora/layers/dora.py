"""DoRA: the length and the direction of each output's weights are learnt apart (Liu et al., arXiv 2402.09353).

The layer applies `m (W + s B A) / |W + s B A|`, with one length `m` for each output channel (each column of an
embedding, as PEFT has it). As in the paper's section 4.3 the norm counts as a constant in the backward pass. `m`
starts as the norm that it is divided by, computed by the same expression: their ratio is exactly 1, and the
output at the start is the base's bit for bit.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.layers.base import LowRank
from lorgnette.lora.layers.method import Method, Sizes


class DoRA(Method):
    name = "dora"
    acts_on = "weight"
    tensors = ("lora_magnitude",)
    peft = MappingProxyType({"use_dora": True})
    peft_names = MappingProxyType({"lora_magnitude": "lora_magnitude_vector"})

    def settings(self) -> dict[str, Any]:
        return {"use_dora": True}

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        return {"lora_magnitude": (sizes.outputs,)}

    def start(self, adapter: LowRank, weight: Tensor, config: LoRAConfig) -> None:
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        adapter.lora_magnitude = nn.Parameter(lengths(adapter, wide))

    def weight(self, adapter: LowRank, total: Tensor, undropped: Tensor) -> Tensor:
        norm = lengths(adapter, undropped)
        magnitude = adapter.get_parameter("lora_magnitude").to(total.dtype)
        # An output whose weights are all zero has no direction to rescale.
        ratio = torch.where(norm == 0, torch.ones_like(norm), magnitude / torch.where(norm == 0, 1, norm))
        grouped, axes = adapter.by_output(total)
        shape = [size if dim in axes else 1 for dim, size in enumerate(grouped.shape)]
        return (grouped * ratio.view(shape)).view_as(total)


def lengths(adapter: LowRank, weight: Tensor) -> Tensor:
    """Norm of the weights of each output, `(outputs,)`, without gradient."""
    grouped, axes = adapter.by_output(weight.detach())
    others = [dim for dim in range(grouped.dim()) if dim not in axes]
    return torch.linalg.vector_norm(grouped, dim=others).flatten()
