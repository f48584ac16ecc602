"""What every adapter consists of and can do, whatever it is the adapter of."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig, starts_from_base
from lorgnette.lora.kernels.fused import no_autocast
from lorgnette.lora.layers import dora
from lorgnette.lora.layers.initial import start_from_base

LORA_TENSORS = ("lora_A", "lora_B")
STARTS = ("lora_A0", "lora_B0")
GATE = ("lora_gate", "lora_gate_bias")
METHOD_TENSORS = (*STARTS, "lora_magnitude", *GATE)
"""Further tensors that some methods add: factors at the start (PiSSA, OLoRA), lengths (DoRA), a gate."""
ADAPTER_TENSORS = (*LORA_TENSORS, *METHOD_TENSORS)


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
    lora_init: bool | str
    lora_watch: list[Tensor] | None = None
    """Where `lorgnette.lora.watch_gates` collects the gates."""
    rank_axes: ClassVar[tuple[int, int]] = (0, 1)
    """The axes of the two factors that have the rank as their size."""
    _settings: ClassVar[tuple[str, ...]] = ("lora_alpha", "lora_dropout", "use_rslora", "lora_enabled", "lora_init")

    @property
    def lora_tensors(self) -> dict[str, nn.Parameter]:
        """The tensors that this adapter consists of, by name."""
        found = {name: self._parameters.get(name) for name in ADAPTER_TENSORS}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def held(self) -> tuple[str, ...]:
        """Names of everything that the adapter adds to the layer."""
        return (*self.lora_tensors, *self._settings)

    @property
    def use_dora(self) -> bool:
        """Whether the update is weight-decomposed: see `lorgnette.lora.layers.dora`."""
        return "lora_magnitude" in self._parameters

    @property
    def dynamic_rank(self) -> bool:
        """Whether the rank depends on the input: then no weight holds the update; see `lorgnette.lora.layers.gate`."""
        return GATE[0] in self._parameters

    def factors(self) -> tuple[Tensor, Tensor]:
        """The factors whose product is the update: with a start that is taken off, those of both side by side."""
        if "lora_A0" not in self._parameters:
            return self.lora_A, self.lora_B
        A0, B0 = (self.get_parameter(name) for name in STARTS)
        down, up = self.rank_axes
        return torch.cat([self.lora_A, A0], down), torch.cat([self.lora_B, -B0], up)

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
        self.lora_init = config.init_lora_weights if starts_from_base(config.init_lora_weights) else True
        if share is not None:
            for name, tensor in share.lora_tensors.items():
                setattr(self, name, tensor)
            return
        dtype = torch.promote_types(weight.dtype, torch.float32)
        if config.lora_dtype is not None:
            dtype = getattr(torch, config.lora_dtype)
        gate = gate_shapes(config.r) if config.dynamic_rank else {}
        for name, shape in (*zip(LORA_TENSORS, shapes, strict=True), *gate.items()):
            setattr(self, name, nn.Parameter(torch.zeros(shape, dtype=dtype, device=weight.device)))
        with torch.no_grad():
            self._init_lora_A(config)
            if self.lora_init is not True:
                start_from_base(self, self._matrices(weight), config)
            if config.use_dora:
                self.lora_magnitude = nn.Parameter(
                    dora.lengths(self, weight.to(torch.promote_types(weight.dtype, torch.float32)))
                )
        self.lora_A.requires_grad_(not config.freeze_lora_A)

    def add_to(self, weight: Tensor) -> Tensor:
        """`weight + s B A` in the dtype of `weight`, or `weight` itself while the adapter is disabled.

        Differentiable in both factors. While training with dropout, the dropout acts on `lora_A`. The sum is
        formed in float32 and rounded once, so that on a bfloat16 base small updates are lost here.
        """
        if not self.lora_enabled:
            return weight
        return self._add(weight, F.dropout(self.lora_A, self.lora_dropout, self.training))

    def delta(self, weight: Tensor) -> Tensor:
        """What the adapter adds to a weight, or to its rows of one, in float32 (float64 for a float64 weight)."""
        if self.use_dora:
            wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
            return LowRank._add(self, wide, self.lora_A) - wide  # not a sub-class's, which would cut out rows
        return self._delta(self.lora_A, weight)

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
        product = self._matrices(self.lora_B).to(factor.dtype) @ self._matrices(factor)
        if "lora_A0" in self._parameters:
            A0, B0 = (self._matrices(self.get_parameter(name)).to(factor.dtype) for name in STARTS)
            product = product - B0 @ A0
        return product.view_as(weight)

    def _matrices(self, tensor: Tensor) -> Tensor:
        """A weight or a factor as a matrix, or as a stack of them."""
        return tensor.flatten(1)

    def _delta(self, factor: Tensor, weight: Tensor) -> Tensor:
        if self.dynamic_rank:
            raise ValueError("lora.dynamic_rank: the update depends on the input, so that no weight holds it")
        with no_autocast(weight.device.type):
            return self._product(factor.to(torch.promote_types(weight.dtype, torch.float32)), weight) * self.scaling

    def _add(self, weight: Tensor, factor: Tensor) -> Tensor:
        delta = self._delta(factor, weight)
        total = weight.to(delta.dtype) + delta
        if self.use_dora:
            plain = total if factor is self.lora_A else weight.to(delta.dtype) + self._delta(self.lora_A, weight)
            total = dora.rescaled(self, total, plain)
        return total.to(weight.dtype)


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
        """The update `s B A` in the shape of `weight`, in float32 (float64 on a float64 base).

        With DoRA it is the whole difference from `weight`.
        """
        return self.delta(self.weight)

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

    def _through(self, x: Tensor, apply: Callable[..., Tensor]) -> Tensor:
        """DoRA's output, `apply(x, weight, bias)` being the base's: dropout acts on the input of the difference."""
        bias: Tensor | None = getattr(self, "bias", None)
        if self.training and self.lora_dropout:
            return apply(x, self.weight, bias) + apply(
                self._dropped(x), self.delta_weight().to(self.weight.dtype), None
            )
        return apply(x, self.effective_weight(), bias)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.lora_dropout, self.training) if self.lora_dropout else x

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, r={self.r}, lora_alpha={self.lora_alpha:g}"


def factor_shapes(weight: tuple[int, ...], r: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of `lora_A` and `lora_B` for a layer's weight of this shape, `(out, in, ...)`."""
    return (r, *weight[1:]), (weight[0], r, *(1 for _ in weight[2:]))


def gate_shapes(r: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a gate, by name."""
    return dict(zip(GATE, ((r, r), (r,)), strict=True))


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


def _empty(adapted: type[InPlace], base: type[nn.Module]) -> nn.Module:
    kind = specialise(adapted, base)
    return kind.__new__(kind)
