"""Adapted layers. Each *is* its base layer: a sub-class that an existing layer is turned into in place."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig

LORA_TENSORS = ("lora_A", "lora_B")
_LORA_ATTRIBUTES = ("lora_alpha", "lora_dropout", "use_rslora", "lora_enabled")


class LoRALayer(nn.Module):
    """What every adapted layer has; to be combined with its base layer, never used alone.

    Attributes:
        lora_A: first factor, `(r, *weight.shape[1:])`, in float32 (float64 on a float64 base).
        lora_B: second factor, `(out, r)`, with trailing ones for a convolution: `(out, r, 1, 1)`.
        lora_enabled: False while `lorgnette.lora.disabled` holds.
    """

    base_class: ClassVar[type[nn.Module]]
    weight: Tensor
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_alpha: float
    lora_dropout: float
    use_rslora: bool
    lora_enabled: bool

    def attach(self, config: LoRAConfig, share: LoRALayer | None = None) -> None:
        """Add the two factors: fresh ones, or those of `share`, whose weight is tied to this one's."""
        self.lora_alpha = config.lora_alpha
        self.lora_dropout = config.lora_dropout
        self.use_rslora = config.use_rslora
        self.lora_enabled = True
        if share is not None:
            self.lora_A, self.lora_B = share.lora_A, share.lora_B
            return
        weight = self.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        for name, shape in zip(LORA_TENSORS, factor_shapes(weight, config.r), strict=True):
            setattr(self, name, nn.Parameter(torch.zeros(shape, dtype=dtype, device=weight.device)))
        with torch.no_grad():
            if config.init_lora_weights == "gaussian":
                nn.init.normal_(self.lora_A, std=1 / config.r)
            else:
                nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    @property
    def r(self) -> int:
        """Rank of the adapter."""
        return self.lora_A.shape[0]

    @property
    def scaling(self) -> float:
        """The factor before `B A x`."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def delta_weight(self) -> Tensor:
        """The update `s B A` in the shape of `weight`, in float32 (float64 on a float64 base)."""
        return self._delta(self.lora_A)

    def effective_weight(self) -> Tensor:
        """The matrix this layer applies, `weight + s B A`, in the dtype and shape of `weight`.

        For code that needs the matrix itself: `weight` is the frozen base and knows nothing of the adapter.
        Differentiable in `lora_A` and `lora_B`. While training with dropout, the dropout acts on `lora_A`.
        The sum is formed in float32 and rounded once, so that on a bfloat16 base small updates are lost here.
        """
        if not self.lora_enabled:
            return self.weight
        return self._add(F.dropout(self.lora_A, self.lora_dropout, self.training))

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """`weight + s B A` without dropout and gradient, whether the adapter is enabled or not."""
        return self._add(self.lora_A)

    def merge_weights(self) -> nn.Module:
        """A new plain layer of the base class with the update folded in; this one stays as it is."""
        merged = copy.deepcopy(self)
        merged.weight.data = self.merged_weight()
        detach_lora(merged)
        return merged

    def _delta(self, factor: Tensor) -> Tensor:
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        with _no_autocast(self.weight.device.type):
            product = self.lora_B.flatten(1).to(dtype) @ factor.flatten(1).to(dtype)
            return product.view_as(self.weight) * self.scaling

    def _add(self, factor: Tensor) -> Tensor:
        delta = self._delta(factor)
        return (self.weight.to(delta.dtype) + delta).to(self.weight.dtype)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.lora_dropout, self.training) if self.lora_dropout else x

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, r={self.r}, lora_alpha={self.lora_alpha:g}"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class of an adapted sub-class is made at run time: pickle and deepcopy make it again.
        return _empty_layer, (type(self).base_class,), self.__dict__


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
        base = super().forward(input)
        if not self.lora_enabled:
            return base
        # A and B are cast down, never x up: no second copy of x is kept for the backward pass.
        low = F.linear(self._dropped(input), self.lora_A.to(input.dtype))
        flat_BO, flat_BR = base.reshape(-1, self.out_features), low.reshape(-1, self.r)
        return torch.addmm(flat_BO, flat_BR, self.lora_B.to(low.dtype).t(), alpha=self.scaling).view(base.shape)


class LoRAConv2d(LoRALayer, nn.Conv2d):
    """`nn.Conv2d` with a low-rank update, for any stride, padding, padding mode, dilation and groups.

    The update of the kernel is `s B A` with `A: (r, in / groups, kh, kw)` and `B: (out, r, 1, 1)`. Without
    groups these are the factors PEFT stores.

    Args:
        in_channels: channels of the input, `(B, in_channels, H, W)`.
        out_channels: channels of the output.
        kernel_size: of the base; so are the further arguments of `nn.Conv2d`, given by name.
        r: rank.
        lora_alpha: strength; the update is scaled by `lora_alpha / r`.
        lora_dropout: dropout on the input of the low-rank path, in [0, 1).
        use_rslora: scale by `lora_alpha / sqrt(r)`.
        init_lora_weights: True or "gaussian", as in `LoRAConfig`.
        base_settings: stride, padding, dilation, groups, bias, padding_mode, device, dtype.
    """

    base_class = nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        r: int = 8,
        lora_alpha: float = 8,
        lora_dropout: float = 0.0,
        use_rslora: bool = False,
        init_lora_weights: bool | Literal["gaussian"] = True,
        **base_settings: Any,
    ) -> None:
        config = LoRAConfig(r, lora_alpha, lora_dropout, use_rslora=use_rslora, init_lora_weights=init_lora_weights)
        super().__init__(in_channels, out_channels, kernel_size, **base_settings)
        self.attach(config)

    def forward(self, input: Tensor) -> Tensor:
        base = super().forward(input)
        if not self.lora_enabled:
            return base
        x = self._dropped(input)
        if self.groups > 1:
            return base + self._conv_forward(x, self.delta_weight().to(x.dtype), None)
        low = self._conv_forward(x, self.lora_A.to(x.dtype), None)
        return torch.add(base, F.conv2d(low, self.lora_B.to(low.dtype)), alpha=self.scaling)


LAYERS: dict[type[nn.Module], type[LoRALayer]] = {nn.Linear: LoRALinear, nn.Conv2d: LoRAConv2d}
"""What can be adapted, and by what."""

_FORWARDS = ("forward", "_conv_forward", "__call__")


def _no_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    available = torch.amp.is_autocast_available(device)  # it is not on 'meta'
    return torch.autocast(device, enabled=False) if available else contextlib.nullcontext()


def factor_shapes(weight: Tensor, r: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of `lora_A` and `lora_B` for a weight `(out, in, ...)`."""
    return (r, *weight.shape[1:]), (weight.shape[0], r, *(1 for _ in weight.shape[2:]))


@functools.cache
def adapted_class(base: type[nn.Module]) -> type[LoRALayer] | None:
    """The adapted form of a layer class; None where its forward is not the one that the adapter extends."""
    for kind, adapted in LAYERS.items():
        if base is kind:
            return adapted
        if issubclass(base, kind) and all(getattr(base, f, None) is getattr(kind, f, None) for f in _FORWARDS):
            return type(f"LoRA{base.__name__}", (adapted, base), {"base_class": base, "__module__": base.__module__})
    return None


def attach_lora(layer: nn.Module, config: LoRAConfig, share: LoRALayer | None = None) -> LoRALayer:
    """Turn `layer` into its adapted form in place: hooks, ties and references to it stay valid."""
    adapted = adapted_class(type(layer))
    assert adapted is not None, f"{type(layer)} was not checked before"
    layer.__class__ = adapted
    assert isinstance(layer, LoRALayer)
    layer.attach(config, share)
    return layer


def detach_lora(layer: LoRALayer) -> None:
    """Turn `layer` back into its base class in place; `weight` is left as it is."""
    for name in (*LORA_TENSORS, *_LORA_ATTRIBUTES):
        delattr(layer, name)
    layer.__class__ = type(layer).base_class  # type: ignore[assignment]


def adapted_layers(model: nn.Module) -> dict[str, LoRALayer]:
    """Every layer with an adapter, by its (first) name in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALayer)}


def is_adapted(model: nn.Module) -> bool:
    """Whether any layer of the model has an adapter."""
    return any(isinstance(module, LoRALayer) for module in model.modules())


def _empty_layer(base: type[nn.Module]) -> nn.Module:
    adapted = adapted_class(base)
    assert adapted is not None
    return adapted.__new__(adapted)
