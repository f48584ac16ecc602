"""Put adapters into a model, take them out, fold them in, count them."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.layers import LORA_TENSORS, LoRALayer, adapted_layers, attach_lora, detach_lora
from lorgnette.lora.selection import Chooser, saved_modules, select_layers
from lorgnette.lora.state import forget_trained, mark_trained, own_tensors

Model = TypeVar("Model", bound=nn.Module)


class ParameterCount(NamedTuple):
    """Numbers of scalars; each shared parameter counts once."""

    total: int
    """All parameters, adapters included."""
    trainable: int
    """Those that require a gradient."""
    lora: int
    """Those of adapters."""


def inject_lora(
    model: Model,
    config: LoRAConfig | None = None,
    *,
    target_modules: list[str] | str | Chooser | None = None,
    rank: int | None = None,
    alpha: float | None = None,
    dropout: float | None = None,
) -> Model:
    """Give the chosen layers adapters, in place, and freeze everything else.

    The output stays the same bit for bit until the adapters are trained. Layers that share one weight share
    one adapter. A model may be injected again for further layers; a layer that has an adapter is refused.

    Args:
        model: any module.
        config: the settings; or give the main ones directly:
        target_modules: as in `LoRAConfig`, or a callable (name, layer) -> bool | None | LoRAConfig.
        rank: `r`.
        alpha: `lora_alpha`.
        dropout: `lora_dropout`.

    Returns:
        The same model.

    Raises:
        ValueError: a pattern matches nothing, or a chosen layer cannot be adapted; nothing was changed.
    """
    config, choose = _settings(config, target_modules, rank, alpha, dropout)
    chosen = select_layers(model, config, choose)
    saved = saved_modules(model, config)
    _check_ties(model, chosen)

    tied: dict[object, LoRALayer] = {}
    for name, settings in chosen.items():
        layer = model.get_submodule(name)
        place = _place(layer.get_parameter("weight"))
        tied.setdefault(place, attach_lora(layer, settings, tied.get(place)))
    freeze_base_params(model)
    for module in saved.values():
        for part in module.modules():
            mark_trained(part, own_tensors(part))
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    return model


def freeze_base_params(model: nn.Module) -> None:
    """Stop the gradient of every parameter that is not an adapter's.

    Running statistics of batch normalisation are no parameters: keep such layers in `eval()` while training.
    """
    adapters = {id(parameter) for parameter in get_lora_params(model)}
    for parameter in model.parameters():
        if id(parameter) not in adapters:
            parameter.requires_grad_(False)


def get_lora_params(model: nn.Module) -> list[nn.Parameter]:
    """The adapters' parameters, for an optimiser; each once."""
    parameters = [p for layer in adapted_layers(model).values() for p in (layer.lora_A, layer.lora_B)]
    return list({id(p): p for p in parameters}.values())


def count_parameters(model: nn.Module) -> ParameterCount:
    """How many parameters there are, are trained, and are adapters."""
    parameters = list(model.parameters())
    return ParameterCount(
        total=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        lora=sum(p.numel() for p in get_lora_params(model)),
    )


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within this context the adapters have no effect.

    Base tensors that were trained (`modules_to_save`) keep their trained values.
    """
    before = {layer: layer.lora_enabled for layer in adapted_layers(model).values()}
    try:
        for layer in before:
            layer.lora_enabled = False
        yield
    finally:
        for layer, enabled in before.items():
            layer.lora_enabled = enabled


def merge_lora_weights(model: Model, inplace: bool = True) -> Model:
    """Fold every adapter into its weight; what remains is a model of plain layers that gives the same output.

    The sum is formed in float32 and rounded once to the dtype of the weight. A weight that the model also
    uses where there is no adapter is replaced by a new one at the adapted layer.

    Args:
        model: with adapters; without any, it is returned as it is.
        inplace: False leaves `model` alone and returns a copy that shares every untouched tensor.
    """
    if not inplace:
        model = _share_copy(model)
    layers = adapted_layers(model)
    uses = Counter(_place(weight) for weight in _weight_uses(model))
    adapters: dict[object, list[LoRALayer]] = {}
    for layer in layers.values():
        adapters.setdefault((_place(layer.weight), id(layer.lora_A)), []).append(layer)
    for (place, _), group in adapters.items():  # type: ignore[misc]
        merged = group[0].merged_weight()
        if uses[place] == len(group):
            group[0].weight.data.copy_(merged)
        else:
            weight = nn.Parameter(merged, requires_grad=group[0].weight.requires_grad)
            for layer in group:
                layer.weight = weight
    for layer in layers.values():
        detach_lora(layer)
    forget_trained(model)
    return model


def unload_lora(model: Model) -> Model:
    """Take every adapter out, in place; layers get their classes back, and weights were never touched.

    Base tensors that were trained (`modules_to_save`) keep their trained values; what was frozen stays so.
    """
    for layer in adapted_layers(model).values():
        detach_lora(layer)
    forget_trained(model)
    return model


def _settings(
    config: LoRAConfig | None,
    target_modules: list[str] | str | Chooser | None,
    rank: int | None,
    alpha: float | None,
    dropout: float | None,
) -> tuple[LoRAConfig, Chooser | None]:
    given = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout}
    given = {name: value for name, value in given.items() if value is not None}
    if config is not None and not isinstance(config, LoRAConfig):
        raise ValueError(f"inject_lora: config is a {type(config).__name__}; layers are named by target_modules=")
    if config is not None and given:
        raise ValueError(f"inject_lora: {', '.join(given)} stand in the config already; give one or the other")
    config = config or LoRAConfig(**given)  # type: ignore[arg-type]
    if callable(target_modules):
        return config, target_modules
    return (replace(config, target_modules=target_modules) if target_modules is not None else config), None


def _check_ties(model: nn.Module, chosen: dict[str, LoRAConfig]) -> None:
    first: dict[object, str] = {}
    for name, settings in chosen.items():
        other = first.setdefault(_place(model.get_submodule(name).get_parameter("weight")), name)
        if settings != chosen[other]:
            raise ValueError(f"lora.rank_pattern: {other!r} and {name!r} share one weight but not their settings")


def _place(weight: Tensor) -> object:
    """Equal for tensors that are the same memory."""
    address = weight.data_ptr() if weight.numel() and not weight.is_meta else 0
    return (address, weight.shape, weight.stride()) if address else id(weight)


def _weight_uses(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        yield from (p for name, p in module._parameters.items() if p is not None and name not in LORA_TENSORS)


def _share_copy(model: Model) -> Model:
    merged = {id(layer.weight) for layer in adapted_layers(model).values()}
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors if id(tensor) not in merged})
