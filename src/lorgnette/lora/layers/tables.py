"""The layers that can be adapted and the methods that there are. A new one is a file of its own and a line here."""

from __future__ import annotations

import functools
import sys

from torch import nn

from lorgnette.common.text import nearest
from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.layers.base import LORA_TENSORS, LoRALayer, LowRank
from lorgnette.lora.layers.convolution import (
    LoRAConv1d,
    LoRAConv2d,
    LoRAConv3d,
    LoRAConvTranspose1d,
    LoRAConvTranspose2d,
    LoRAConvTranspose3d,
)
from lorgnette.lora.layers.dora import DoRA
from lorgnette.lora.layers.embedding import LoRAEmbedding
from lorgnette.lora.layers.from_base import OLoRA, PiSSA
from lorgnette.lora.layers.gate import Gate
from lorgnette.lora.layers.in_place import specialise, turn_into
from lorgnette.lora.layers.linear import LoRALinear
from lorgnette.lora.layers.method import PLAIN, Method
from lorgnette.lora.layers.transposed_linear import LoRATransposedLinear

LAYERS: dict[type[nn.Module], type[LoRALayer]] = {
    nn.Linear: LoRALinear,
    nn.Embedding: LoRAEmbedding,
    nn.Conv1d: LoRAConv1d,
    nn.Conv2d: LoRAConv2d,
    nn.Conv3d: LoRAConv3d,
    nn.ConvTranspose1d: LoRAConvTranspose1d,
    nn.ConvTranspose2d: LoRAConvTranspose2d,
    nn.ConvTranspose3d: LoRAConvTranspose3d,
}
"""Layer type -> its adapted form."""

OF_OTHERS: dict[tuple[str, str], type[LoRALayer]] = {
    ("transformers.pytorch_utils", "Conv1D"): LoRATransposedLinear,
}
"""Layers of other libraries, by module and name: they are known once the library has been imported."""

METHODS: dict[str, Method] = {
    PLAIN.name: PLAIN,
    DoRA.name: DoRA(),
    Gate.name: Gate(),
    PiSSA.name: PiSSA(),
    OLoRA.name: OLoRA(),
}
"""Name -> method. An adapter has one. What goes with each of them is none: rsLoRA (another factor before `B A`),
LoRA-FA (which factor learns), and how `lora_A` is drawn (`init_lora_weights`, `initialise_eva`)."""

_FORWARDS = ("forward", "_conv_forward", "_output_padding", "__call__")


def method_of(config: LoRAConfig) -> Method:
    """The method that the settings ask for.

    Raises:
        ValueError: `lora.method` names none.
    """
    if config.method is not None and config.method not in METHODS:
        known = ", ".join(map(repr, METHODS))
        raise ValueError(f"lora.method: {config.method!r} is not known{nearest(config.method, METHODS)}; {known} are")
    return next(filter(None, (method.asked_by(config) for method in METHODS.values())), PLAIN)


def adapter_tensors() -> set[str]:
    """Names of all tensors that an adapter may have, by whatever method."""
    return {*LORA_TENSORS, *(name for method in METHODS.values() for name in method.tensors)}


def layer_types() -> tuple[type[nn.Module], ...]:
    """What `lora.target_modules` may name: layers, and attentions, whose projections get the adapters."""
    return (*all_layers(), nn.MultiheadAttention)


def linear_types() -> tuple[type[nn.Module], ...]:
    """What 'all-linear' means."""
    return (nn.Linear, *(kind for kind, adapted in all_layers().items() if adapted is LoRATransposedLinear))


def all_layers() -> dict[type[nn.Module], type[LoRALayer]]:
    """`LAYERS`, and those of other libraries that are there."""
    found = {getattr(sys.modules.get(place), name, None): adapted for (place, name), adapted in OF_OTHERS.items()}
    return LAYERS | {kind: adapted for kind, adapted in found.items() if kind is not None}


@functools.cache
def adapted_class(base: type[nn.Module]) -> type[LoRALayer] | None:
    """The adapted form of a layer class; None where its forward is not the one that the adapter extends."""
    for kind, adapted in all_layers().items():
        if issubclass(base, kind) and all(getattr(base, f, None) is getattr(kind, f, None) for f in _FORWARDS):
            return specialise(adapted, base)  # type: ignore[return-value]
    return None


def attach_lora(layer: nn.Module, config: LoRAConfig, share: LowRank | None = None) -> LoRALayer:
    """Turn `layer` into its adapted form in place: hooks, ties and references to it stay valid."""
    adapted = adapted_class(type(layer))
    assert adapted is not None, f"{type(layer)} was not checked before"
    turn_into(layer, adapted)
    assert isinstance(layer, LoRALayer)
    layer.attach(config, method_of(config), share)
    return layer
