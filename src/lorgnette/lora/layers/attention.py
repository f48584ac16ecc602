"""Modules that read weights directly instead of calling a layer, changed so that they read the adapted weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora.layers.base import LoRALayer, LowRank
from lorgnette.lora.layers.in_place import InPlace, has_own_forward, specialise, turn_back, turn_into
from lorgnette.lora.layers.parameter import LoRAParameter, adapters_of, effective_parameter


class _Reader(InPlace):
    goes_first = False

    def _adapts(self, parameter: str) -> bool:
        return bool(adapters_of(self, parameter))


class LoRASlicedLinear(_Reader, nn.Linear):
    """`nn.Linear` with low-rank updates of some rows of its weight, such as q and v of a fused qkv projection.

    Each slice is a child (`lora_q`, `lora_v`) with factors and a rank of its own; dropout acts on its input.
    """

    base_class = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        base = nn.Linear.forward(self, input)
        pieces, end = [], 0
        slices = [child for child in self.children() if isinstance(child, LoRAParameter) and child.lora_enabled]
        for part in sorted(slices, key=lambda part: part.rows or (0, 0)):
            start, stop = part.rows or (0, self.out_features)
            x = F.dropout(input, part.lora_dropout, self.training) if part.lora_dropout else input
            if part.lora_method.acts_on == "weight":
                update, scaling = F.linear(x, part.delta(self.weight[start:stop]).to(x.dtype)), 1.0
            else:
                A, B = part.factors()
                low = F.linear(x, A.to(x.dtype))
                update, scaling = F.linear(low, B.to(low.dtype)), part.scaling
            pieces += [base[..., end:start], torch.add(base[..., start:stop], update, alpha=scaling)]
            end = stop
        return torch.cat([*pieces, base[..., end:]], -1) if pieces else base

    def effective_weight(self) -> Tensor:
        """The matrix this layer applies; see `LoRALayer.effective_weight`."""
        return effective_parameter(self, "weight")


class LoRAMultiheadAttention(_Reader, nn.MultiheadAttention):
    """`nn.MultiheadAttention` whose projections may have adapters.

    The base's own forward runs on the effective matrices, its fused evaluation included, so that masks, biases,
    `kdim`, `vdim`, `batch_first` and returned weights mean what they mean there. Dropout of an adapter acts on
    `lora_A`. On a bfloat16 base the matrices are rounded, as by merging.
    """

    base_class = nn.MultiheadAttention

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        return nn.MultiheadAttention.forward(_View(self), *args, **kwargs)  # type: ignore[arg-type]


class LoRATransformerEncoderLayer(_Reader, nn.TransformerEncoderLayer):
    """`nn.TransformerEncoderLayer` whose fused evaluation reads the effective matrices of its children."""

    base_class = nn.TransformerEncoderLayer

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return nn.TransformerEncoderLayer.forward(_View(self), *args, **kwargs)  # type: ignore[arg-type]


class LoRATransformerEncoder(_Reader, nn.TransformerEncoder):
    """`nn.TransformerEncoder` that does not give nested tensors to layers whose adapters need gradients.

    It decides by the frozen weights; a layer with adapters takes nested tensors without gradients only.
    """

    base_class = nn.TransformerEncoder

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        nested = getattr(self, "use_nested_tensor", False) and not torch.is_grad_enabled()
        view = _View(self, use_nested_tensor=nested, layers=self.layers)
        return nn.TransformerEncoder.forward(view, *args, **kwargs)  # type: ignore[arg-type]


READERS: tuple[type[InPlace], ...] = (
    LoRASlicedLinear,
    LoRAMultiheadAttention,
    LoRATransformerEncoderLayer,
    LoRATransformerEncoder,
)
"""What a module becomes while there are adapters inside it."""


class _View:
    """A module as the forward of its base class is to see it: with effective parameters instead of raw ones."""

    def __init__(self, module: nn.Module, **instead: Any) -> None:
        self._module = module
        self._seen = instead

    def __getattr__(self, name: str) -> Any:
        if name not in self._seen:
            value = getattr(self._module, name)
            if isinstance(value, nn.Parameter):
                value = effective_parameter(self._module, name)
            elif isinstance(value, nn.Module):
                value = _View(value)
            self._seen[name] = value
        return self._seen[name]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._module(*args, **kwargs)


def reads_raw(module: nn.Module) -> bool:
    """Whether a module reads raw parameters in a way that cannot be changed: a sub-class with its own forward."""
    if isinstance(module, READERS) or not isinstance(module, nn.MultiheadAttention):
        return False
    return type(module).forward is not nn.MultiheadAttention.forward or has_own_forward(module)


def update_readers(model: nn.Module) -> None:
    """Give every module that reads raw parameters its adapted class if there are adapters inside, its own if not."""
    for module in model.modules():
        if isinstance(module, LoRALayer):
            continue
        inside = any(isinstance(other, LowRank) for other in module.modules() if other is not module)
        if isinstance(module, READERS) and not inside:
            turn_back(module)
        elif inside and not isinstance(module, READERS) and not has_own_forward(module):
            for kind in READERS:
                if isinstance(module, kind.base_class):
                    turn_into(module, specialise(kind, type(module)))
                    break
