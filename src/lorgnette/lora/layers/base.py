"""What all adapters have in common, whatever they adapt and by whatever method."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.kernels.fused import no_autocast
from lorgnette.lora.layers.in_place import InPlace, turn_back
from lorgnette.lora.layers.method import PLAIN, Method
from lorgnette.lora.layers.offloaded import home, shield, shielded, unshield

LORA_TENSORS = ("lora_A", "lora_B")


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
    lora_method: Method
    rank_axes: ClassVar[tuple[int, int]] = (0, 1)
    """The axes of the two factors that have the rank as their size."""
    _settings: ClassVar[tuple[str, ...]] = ("lora_alpha", "lora_dropout", "use_rslora", "lora_enabled", "lora_method")

    @property
    def lora_tensors(self) -> dict[str, nn.Parameter]:
        """The tensors that this adapter consists of, by name."""
        return {name: self.get_parameter(name) for name in (*LORA_TENSORS, *self.lora_method.tensors)}

    @property
    def held(self) -> tuple[str, ...]:
        """Names of everything that the adapter adds to the layer."""
        return (*self.lora_tensors, *self._settings)

    def factors(self) -> tuple[Tensor, Tensor]:
        """The factors that are applied: `lora_A` and `lora_B`, or what the method makes of them."""
        A, B = self.lora_A, self.lora_B
        return self.lora_method.factors(self, A, B) if self.lora_method.tensors else (A, B)

    @property
    def r(self) -> int:
        """Rank of the adapter."""
        return self.lora_A.shape[0]

    @property
    def scaling(self) -> float:
        """The factor before `B A`; setting it sets `lora_alpha`."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @scaling.setter
    def scaling(self, value: float) -> None:
        self.lora_alpha = value * (self.r**0.5 if self.use_rslora else self.r)

    def attach_to(
        self,
        weight: Tensor,
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
        config: LoRAConfig,
        method: Method,
        share: LowRank | None = None,
    ) -> None:
        """Add the tensors for a weight: fresh factors of these shapes, or those of `share`, whose weight is tied."""
        self.lora_alpha = config.lora_alpha
        self.lora_dropout = config.lora_dropout
        self.use_rslora = config.use_rslora
        self.lora_enabled = True
        self.lora_method = method
        if share is not None:
            for name, tensor in share.lora_tensors.items():
                setattr(self, name, tensor)
            return
        dtype = torch.promote_types(weight.dtype, torch.float32)
        if config.lora_dtype is not None:
            dtype = getattr(torch, config.lora_dtype)
        for name, shape in zip(LORA_TENSORS, shapes, strict=True):
            setattr(self, name, nn.Parameter(torch.zeros(shape, dtype=dtype, device=home(self, weight))))
        with torch.no_grad():
            self._init_lora_A(config)
            method.start(self, weight, config)
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
        if self.lora_method.acts_on == "weight":
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

    def matrices(self, tensor: Tensor) -> Tensor:
        """A weight or a factor as a matrix, or as a stack of them."""
        return tensor.flatten(1)

    def by_output(self, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """A weight, reshaped where need be, and its axes that together count the outputs."""
        return weight, (0,)

    def _delta(self, factor: Tensor, weight: Tensor) -> Tensor:
        if not self.lora_method.merges:
            raise ValueError(f"{self.lora_method.title}: the update depends on the input, so that no weight holds it")
        with no_autocast(weight.device.type):
            wide = factor.to(torch.promote_types(weight.dtype, torch.float32))
            return self.lora_method.product(self, wide, self.lora_B).view_as(weight) * self.scaling

    def _add(self, weight: Tensor, factor: Tensor) -> Tensor:
        delta = self._delta(factor, weight)
        total = weight.to(delta.dtype) + delta
        if self.lora_method.acts_on == "weight":
            undropped = total if factor is self.lora_A else weight.to(delta.dtype) + self._delta(self.lora_A, weight)
            total = self.lora_method.weight(self, total, undropped)
        return total.to(weight.dtype)


class LoRALayer(LowRank, InPlace):
    """What every adapted layer has.

    Attributes:
        lora_A: first factor, `(r, *weight.shape[1:])`.
        lora_B: second factor, `(weight.shape[0], r)`, with trailing ones for a convolution: `(out, r, 1, 1)`.

    Made directly, it is frozen but for the adapter, as `inject_lora` leaves it.

    Args:
        base: the arguments of the base class, by place or by name.
        r: rank; so are `lora_alpha`, `lora_dropout`, `use_rslora` and `init_lora_weights` as in `LoRAConfig`.
    """

    weight: Tensor
    has_between: ClassVar[bool] = False
    """Whether its forward pass lets a method act between the factors, by `_between`."""
    in_peft: ClassVar[bool] = False
    """Whether PEFT has an adapter of it."""

    def __init__(
        self,
        *base: Any,
        r: int = 8,
        lora_alpha: float = 8,
        lora_dropout: float = 0.0,
        use_rslora: bool = False,
        init_lora_weights: bool | Literal["gaussian"] = True,
        **named: Any,
    ) -> None:
        config = LoRAConfig(r, lora_alpha, lora_dropout, use_rslora=use_rslora, init_lora_weights=init_lora_weights)
        super().__init__(*base, **named)
        self.attach(config, PLAIN)
        for parameter in (self.weight, getattr(self, "bias", None)):  # the base is frozen, as by inject_lora
            if isinstance(parameter, nn.Parameter):
                parameter.requires_grad_(False)

    @staticmethod
    def outputs(layer: nn.Module) -> int:
        """How many outputs a layer of this type has, adapted or not."""
        return layer.get_parameter("weight").shape[0]

    @staticmethod
    def shapes(weight: tuple[int, ...], r: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of `lora_A` and `lora_B` for a weight of this shape, `(out, in, ...)`."""
        return (r, *weight[1:]), (weight[0], r, *(1 for _ in weight[2:]))

    @classmethod
    def why_not(cls, layer: nn.Module, method: Method) -> str | None:
        """Why a layer of this type cannot be adapted by a method, or None."""
        if method.merges or cls.has_between:
            return None
        return f"({cls.base_class.__name__}) cannot have {method.title}: Linear layers and convolutions can"

    def not_in_peft(self) -> list[str]:
        """Why PEFT cannot apply an adapter of this layer; empty where it can."""
        return [] if self.in_peft else [f"PEFT has no adapter of {self.base_class.__name__}"]

    def _hooked(self, hook: Any) -> Any:
        return shielded(self, hook, self.lora_tensors) if "lora_A" in self._parameters else hook

    def _adapts(self, parameter: str) -> bool:
        return parameter == "weight" and "lora_A" in self._parameters

    def attach(self, config: LoRAConfig, method: Method, share: LowRank | None = None) -> None:
        """Add the adapter's tensors: fresh ones, or those of `share`, whose weight is tied to this one's."""
        self.attach_to(self.weight, self.shapes(self.weight.shape, config.r), config, method, share)
        shield(self, self.lora_tensors)

    def delta_weight(self) -> Tensor:
        """The update `s B A` in the shape of `weight`, in float32 (float64 on a float64 base).

        With a method that acts on the weight (DoRA) it is the whole difference from `weight`.
        """
        return self.delta(self.weight)

    def effective_weight(self) -> Tensor:
        """The matrix this layer applies: see `LowRank.add_to`.

        For code that needs the matrix itself: `weight` is the frozen base and knows nothing of the adapter.
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

    def _through_weight(self, x: Tensor, apply: Callable[..., Tensor]) -> Tensor:
        """The output by the effective weight, `apply(x, weight, bias)` being the base's.

        Dropout acts on the input of what the adapter adds.
        """
        bias: Tensor | None = getattr(self, "bias", None)
        if self.training and self.lora_dropout:
            return apply(x, self.weight, bias) + apply(
                self._dropped(x), self.delta_weight().to(self.weight.dtype), None
            )
        return apply(x, self.effective_weight(), bias)

    def _between(self, h: Tensor, axis: int) -> Tensor:
        """What the method makes of `h = A x`: its directions lie along `axis`, once for each group of a convolution."""
        groups = getattr(self, "groups", 1)
        if groups > 1:
            h, axis = h.unflatten(axis, (groups, -1)), axis + 1
        h = self.lora_method.between(self, h.movedim(axis, -1)).movedim(-1, axis)
        return h.flatten(axis - 1, axis) if groups > 1 else h

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.lora_dropout, self.training) if self.lora_dropout else x

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, r={self.r}, lora_alpha={self.lora_alpha:g}"


def detach_lora(layer: LoRALayer) -> None:
    """Turn `layer` back into its base class in place; `weight` is left as it is."""
    unshield(layer)
    for name in layer.held:
        delattr(layer, name)
    turn_back(layer)


def adapted_layers(model: nn.Module) -> dict[str, LowRank]:
    """Every adapter, by its (first) name in the model: an adapted layer, or the adapter of a raw parameter."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LowRank)}


def is_adapted(model: nn.Module) -> bool:
    """Whether any layer of the model has an adapter."""
    return any(isinstance(module, LowRank) for module in model.modules())
