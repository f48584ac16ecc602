"""Put adapters into a model, take them out, fold them in, count them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from torch import Tensor, nn

from lorgnette.lora.config import SHORT, LoRAConfig
from lorgnette.lora.layers.attention import update_readers
from lorgnette.lora.layers.base import LoRALayer, LowRank, adapted_layers, detach_lora
from lorgnette.lora.layers.in_place import turn_into
from lorgnette.lora.layers.offloaded import home, shield
from lorgnette.lora.layers.parameter import LoRAParameter, sites
from lorgnette.lora.layers.part import parts_of
from lorgnette.lora.layers.tables import adapted_class
from lorgnette.lora.record import remembered
from lorgnette.lora.resting import update_rest
from lorgnette.lora.selection import Chooser, saved_modules, select_layers
from lorgnette.lora.state import forget_trained, mark_trained, own_tensors, remember_base
from lorgnette.lora.targets import Target, attach
from lorgnette.lora.wrappers import on_unwrapped

Targets: TypeAlias = list[str] | str | Chooser | type[nn.Module] | tuple[type[nn.Module], ...] | None
Places: TypeAlias = dict[str, LowRank]
"""Adapters that lie aside, by the name of each place: what the layer would hold, or the adapter of a parameter."""
Trainable = Literal["as it is", "as before", "all", "none"]
Model = TypeVar("Model", bound=nn.Module)


class ParameterCount(NamedTuple):
    """Numbers of scalars; each shared parameter counts once."""

    total: int
    """All parameters, adapters included."""
    trainable: int
    """Those that require a gradient."""
    lora: int
    """Those of adapters, and of parts that are adapters by themselves."""


@on_unwrapped
def inject_lora(
    model: Model,
    config: LoRAConfig | None = None,
    *,
    target_modules: Targets = None,
    rank: int | None = None,
    alpha: float | None = None,
    dropout: float | None = None,
    **named: Any,
) -> Model:
    """Give the chosen layers adapters, in place, and freeze everything else.

    The output stays the same bit for bit until the adapters are trained. Layers that share one weight share
    one adapter. A model may be injected again for further layers; a layer that has an adapter is refused. Parts of the
    model that are adapters by themselves (`lorgnette.lora.layers.part`) are trained and kept with the others.

    Args:
        model: any module.
        config: the settings; or give the main ones directly:
        target_modules: as in `LoRAConfig`; or a class of layers, or a tuple of classes; or a callable
            (name, layer) -> bool | None | LoRAConfig.
        rank: `r`.
        alpha: `lora_alpha`.
        dropout: `lora_dropout`.
        named: any setting of `LoRAConfig`, under its own name.

    Returns:
        The same model.

    Raises:
        ValueError: a pattern matches nothing, or a chosen layer cannot be adapted; nothing was changed.
    """
    config, choose = settings_and_choice(config, target_modules, rank=rank, alpha=alpha, dropout=dropout, **named)
    targets = select_layers(model, config, choose)
    saved = saved_modules(model, config)
    if off := [name for name, target in targets.items() if not target.settings.lora_alpha]:
        warnings.warn(f"lora.lora_alpha: 0 switches the adapter of {off[0]!r} off: nothing is learnt", stacklevel=3)
    attach_targets(model, targets)
    freeze_base_params(model)
    for module, name in _biases(model, config, set(targets)):
        mark_trained(module, [name])
        module.get_parameter(name).requires_grad_(True)
    for module in (*saved.values(), *parts_of(model).values()):
        for part in module.modules():
            mark_trained(part, own_tensors(part))
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    return model


def attach_targets(model: nn.Module, targets: Mapping[str, Target]) -> None:
    """Make these adapters, which were checked before; those of one weight share their factors.

    Raises:
        ValueError: adapters of one weight have different settings; nothing was changed.
    """
    owners = {name: model.get_submodule(target.owner) for name, target in targets.items()}
    places = {
        name: (place_of(owners[name].get_parameter(t.parameter or "weight")), t.rows) for name, t in targets.items()
    }
    first: dict[object, str] = {}
    for name, target in targets.items():
        other = first.setdefault(places[name], name)
        if target.settings != targets[other].settings:
            raise ValueError(f"lora.rank_pattern: {other!r} and {name!r} share one weight but not their settings")
    remember_base(model)
    made: dict[object, LowRank] = {}
    for name, target in targets.items():
        made.setdefault(places[name], attach(name, target, owners[name], made.get(places[name])))
    _update_others(model)


def freeze_base_params(model: nn.Module) -> None:
    """Stop the gradient of every parameter that is not an adapter's.

    Running statistics of frozen layers (batch normalisation, spectral norm) rest as long as there are adapters.
    """
    adapters = {id(parameter) for parameter in get_lora_params(model)}
    for parameter in model.parameters():
        if id(parameter) not in adapters:
            parameter.requires_grad = False  # the method is refused where a layer is not made yet


def get_lora_params(model: nn.Module) -> list[nn.Parameter]:
    """The adapters' parameters, for an optimiser; each once."""
    parameters = [
        parameter
        for layer in adapted_layers(model).values()
        for name, parameter in layer.lora_tensors.items()
        if name not in layer.lora_method.frozen
    ]
    parameters += [parameter for part in parts_of(model).values() for parameter in part.parameters()]
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
    before = {layer: layer.lora_enabled for layer in (*adapted_layers(model).values(), *parts_of(model).values())}
    try:
        for layer in before:
            layer.lora_enabled = False
        yield
    finally:
        for layer, enabled in before.items():
            layer.lora_enabled = enabled


@on_unwrapped
def unload_lora(model: Model, trainable: Trainable = "as it is") -> Model:
    """Take every adapter out, in place; layers get their classes back, and weights were never touched.

    Parts that are adapters by themselves go back to their start, without effect. Base tensors that were trained
    (`modules_to_save`, biases) keep their trained values.

    Args:
        model: with adapters; without any, it stays as it is.
        trainable: which parameters ask for gradients afterwards. 'as it is': those that do now, so that what
            `inject_lora` froze stays frozen; 'as before': those that did before the first injection; 'all'; 'none'.

    Raises:
        ValueError: `trainable` is none of these.
    """
    if trainable not in get_args(Trainable):
        raise ValueError(f"trainable: {trainable!r} is not known; {', '.join(map(repr, get_args(Trainable)))} are")
    record = remembered(model)
    take_out(model)
    for part in parts_of(model).values():
        part.reset()
    forget_trained(model)
    if trainable != "as it is" and (record is not None or trainable != "as before"):
        for name, parameter in model.named_parameters():
            asks = name in record.asked if record is not None and trainable == "as before" else trainable == "all"
            parameter.requires_grad = asks and (parameter.is_floating_point() or parameter.is_complex())
    return model


def take_out(model: nn.Module, stay: Collection[str] = ()) -> Places:
    """The adapters of a model, which it does not have any more; those named in `stay` it keeps."""
    places: Places = {}
    for name, (adapter, owner, _) in sites(model).items():
        if name in stay:
            continue
        places[name] = adapter
        if isinstance(adapter, LoRALayer):
            places[name] = LowRank()
            for key in adapter.held:
                setattr(places[name], key, getattr(adapter, key))
            detach_lora(adapter)
        else:
            delattr(owner, name.rpartition(".")[2])
    _update_others(model)
    return places


def put_in(model: nn.Module, places: Places) -> None:
    """Give a model adapters that were taken out."""
    for name, adapter in places.items():
        owner, _, own = name.rpartition(".")
        if isinstance(adapter, LoRAParameter):
            parent = model.get_submodule(owner)
            adapter.to(parent.get_parameter(adapter.parameter).device).train(parent.training)
            parent.add_module(own, adapter)
            continue
        layer = model.get_submodule(name)
        adapted = adapted_class(type(layer))
        assert adapted is not None, "it was adapted before"
        adapter.to(home(layer, layer.get_parameter("weight")))
        turn_into(layer, adapted)
        for key in adapter.held:
            setattr(layer, key, getattr(adapter, key))
        shield(layer, adapter.lora_tensors)
    _update_others(model)


def _update_others(model: nn.Module) -> None:
    """What else has to change with the adapters of a model: who reads weights raw, and whose statistics rest."""
    update_readers(model)
    update_rest(model)


def settings_and_choice(
    config: LoRAConfig | None, target_modules: Targets, **named: Any
) -> tuple[LoRAConfig, Chooser | None]:
    """What the arguments of `inject_lora` come to: the settings, and what decides instead of their targets."""
    given = {SHORT.get(name, name): value for name, value in named.items() if value is not None}
    if config is not None and not isinstance(config, LoRAConfig):
        raise ValueError(f"inject_lora: config is a {type(config).__name__}; layers are named by target_modules=")
    if config is not None and given:
        raise ValueError(f"inject_lora: {', '.join(given)} given twice: as arguments and in config")
    config = config or LoRAConfig(**given)  # type: ignore[arg-type]
    kinds = target_modules if isinstance(target_modules, tuple) else (target_modules,)
    if kinds and all(isinstance(kind, type) for kind in kinds):
        return config, lambda _, module: isinstance(module, kinds)  # type: ignore[arg-type]
    if callable(target_modules):
        return config, target_modules  # type: ignore[return-value]
    if target_modules is not None:
        config = replace(config, target_modules=target_modules)  # type: ignore[arg-type]
    return config, None


def _biases(model: nn.Module, config: LoRAConfig, adapted: Collection[str]) -> Iterator[tuple[nn.Module, str]]:
    """The biases that `config.bias` has trained, of those layers that are adapted now or of all."""
    if config.bias == "all":
        for module in model.modules():
            names = [name for name in module._parameters if name == "bias" or name.endswith("_bias")]
            yield from ((module, name) for name in names if module._parameters[name] is not None)
    elif config.bias == "lora_only":
        for name, (_, owner, parameter) in sites(model).items():
            bias = {"weight": "bias", "in_proj_weight": "in_proj_bias"}.get(parameter, "")
            if name in adapted and owner._parameters.get(bias) is not None:
                yield owner, bias


def place_of(weight: Tensor) -> object:
    """Equal for tensors that are the same memory."""
    address = weight.data_ptr() if weight.numel() and not weight.is_meta else 0
    return (address, weight.shape, weight.stride()) if address else id(weight)
