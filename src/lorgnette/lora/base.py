"""What every adapter consists of and can do, whatever it is the adapter of."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig

LORA_TENSORS = ("lora_A", "lora_B")


class InPlace(nn.Module):
    """A module class that existing modules are turned into; to be combined with their class, never used alone."""

    base_class: ClassVar[type[nn.Module]]
    """What the module was before, and becomes again."""
    _general: ClassVar[type[InPlace] | None] = None
    """Of a class made at run time: the class it was made from."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class of an adapted sub-class is made at run time: pickle and deepcopy make it again.
        kind = type(self)
        return _empty, (kind._general or kind, kind.base_class), self.__dict__


class LowRank(nn.Module):
    """An adapter: the two factors of an update `s B A`, and their settings.

    Attributes:
        lora_A: first factor, in float32 (float64 on a float64 base).
        lora_B: second factor; zero at the start.
        lora_enabled: False while `lorgnette.lora.disabled` holds.
    """

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_alpha: float
    lora_dropout: float
    use_rslora: bool
    lora_enabled: bool
    held: ClassVar[tuple[str, ...]] = (*LORA_TENSORS, "lora_alpha", "lora_dropout", "use_rslora", "lora_enabled")
    """Names of everything that an adapter adds to a layer."""

    @property
    def r(self) -> int:
        """Rank of the adapter."""
        return self.lora_A.shape[0]

    @property
    def scaling(self) -> float:
        """The factor before `B A`."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def attach_to(
        self,
        weight: Tensor,
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
        config: LoRAConfig,
        share: LowRank | None = None,
    ) -> None:
        """Add the two factors for a weight: fresh ones of these shapes, or those of `share`, whose weight is tied."""
        self.lora_alpha = config.lora_alpha
        self.lora_dropout = config.lora_dropout
        self.use_rslora = config.use_rslora
        self.lora_enabled = True
        if share is not None:
            self.lora_A, self.lora_B = share.lora_A, share.lora_B
            return
        dtype = torch.promote_types(weight.dtype, torch.float32)
        if config.lora_dtype is not None:
            dtype = getattr(torch, config.lora_dtype)
        for name, shape in zip(LORA_TENSORS, shapes, strict=True):
            setattr(self, name, nn.Parameter(torch.zeros(shape, dtype=dtype, device=weight.device)))
        with torch.no_grad():
            self._init_lora_A(config)

    def add_to(self, weight: Tensor) -> Tensor:
        """`weight + s B A` in the dtype of `weight`, or `weight` itself while the adapter is disabled.

        Differentiable in both factors. While training with dropout, the dropout acts on `lora_A`. The sum is
        formed in float32 and rounded once, so that on a bfloat16 base small updates are lost here.
        """
        if not self.lora_enabled:
            return weight
        return self._add(weight, F.dropout(self.lora_A, self.lora_dropout, self.training))

    @torch.no_grad()
    def merged_into(self, weight: Tensor) -> Tensor:
        """`weight + s B A` without dropout and gradient, whether the adapter is enabled or not."""
        return self._add(weight, self.lora_A)

    def _init_lora_A(self, config: LoRAConfig) -> None:
        if config.init_lora_weights == "gaussian":
            nn.init.normal_(self.lora_A, std=1 / config.r)
        else:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def _product(self, factor: Tensor, weight: Tensor) -> Tensor:
        return (self.lora_B.flatten(1).to(factor.dtype) @ factor.flatten(1)).view_as(weight)

    def _delta(self, factor: Tensor, weight: Tensor) -> Tensor:
        with no_autocast(weight.device.type):
            return self._product(factor.to(torch.promote_types(weight.dtype, torch.float32)), weight) * self.scaling

    def _add(self, weight: Tensor, factor: Tensor) -> Tensor:
        delta = self._delta(factor, weight)
        return (weight.to(delta.dtype) + delta).to(weight.dtype)


class LoRALayer(LowRank, InPlace):
    """What every adapted layer has.

    Attributes:
        lora_A: first factor, `(r, *weight.shape[1:])`.
        lora_B: second factor, `(weight.shape[0], r)`, with trailing ones for a convolution: `(out, r, 1, 1)`.
    """

    weight: Tensor

    def attach(self, config: LoRAConfig, share: LowRank | None = None) -> None:
        """Add the two factors: fresh ones, or those of `share`, whose weight is tied to this one's."""
        self.attach_to(self.weight, factor_shapes(self.weight.shape, config.r), config, share)

    def delta_weight(self) -> Tensor:
        """The update `s B A` in the shape of `weight`, in float32 (float64 on a float64 base)."""
        return self._delta(self.lora_A, self.weight)

    def effective_weight(self) -> Tensor:
        """The matrix this layer applies, `weight + s B A`, in the dtype and shape of `weight`.

        For code that needs the matrix itself: `weight` is the frozen base and knows nothing of the adapter.
        Differentiable in `lora_A` and `lora_B`. While training with dropout, the dropout acts on `lora_A`.
        The sum is formed in float32 and rounded once, so that on a bfloat16 base small updates are lost here.
        """
        return self.add_to(self.weight)

    def merged_weight(self) -> Tensor:
        """`weight + s B A` without dropout and gradient, whether the adapter is enabled or not."""
        return self.merged_into(self.weight)

    def merge_weights(self) -> nn.Module:
        """A new plain layer of the base class with the update folded in; this one stays as it is."""
        merged = copy.deepcopy(self)
        merged.weight.data = self.merged_weight()
        detach_lora(merged)
        return merged

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.lora_dropout, self.training) if self.lora_dropout else x

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, r={self.r}, lora_alpha={self.lora_alpha:g}"


def factor_shapes(weight: tuple[int, ...], r: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of `lora_A` and `lora_B` for a layer's weight of this shape, `(out, in, ...)`."""
    return (r, *weight[1:]), (weight[0], r, *(1 for _ in weight[2:]))


def turn_back(module: InPlace) -> None:
    """Give a module its own class again, in place."""
    module.__class__ = type(module).base_class  # type: ignore[assignment]


def detach_lora(layer: LoRALayer) -> None:
    """Turn `layer` back into its base class in place; `weight` is left as it is."""
    for name in layer.held:
        delattr(layer, name)
    turn_back(layer)


@functools.cache
def specialise(adapted: type[InPlace], base: type[nn.Module]) -> type[InPlace]:
    """The adapted form of a layer class or of a sub-class of it."""
    if adapted.base_class is base:
        return adapted
    members = {"base_class": base, "_general": adapted, "__module__": base.__module__}
    # A layer's forward goes first. A module that only reads its children raw comes after its sub-class, whose own
    # forward then reaches the adapted one by super().
    bases = (adapted, base) if issubclass(adapted, LowRank) else (base, adapted)
    return type(f"LoRA{base.__name__}", bases, members)


def adapted_layers(model: nn.Module) -> dict[str, LowRank]:
    """Every adapter, by its (first) name in the model: an adapted layer, or the adapter of a raw parameter."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LowRank)}


def is_adapted(model: nn.Module) -> bool:
    """Whether any layer of the model has an adapter."""
    return any(isinstance(module, LowRank) for module in model.modules())


def no_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """A context without autocast on this type of device."""
    available = torch.amp.is_autocast_available(device)  # it is not on 'meta'
    return torch.autocast(device, enabled=False) if available else contextlib.nullcontext()


def _empty(adapted: type[InPlace], base: type[nn.Module]) -> nn.Module:
    kind = specialise(adapted, base)
    return kind.__new__(kind)
