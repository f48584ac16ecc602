"""What an adapter consists of, by name: its factors, and the base tensors that were trained with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lorgnette.lora.finite import warn_of
from lorgnette.lora.layers.base import LORA_TENSORS, LowRank, adapted_layers, is_adapted
from lorgnette.lora.layers.parameter import part_name
from lorgnette.lora.layers.tables import METHODS
from lorgnette.lora.load_report import LoadReport, compare, is_factor
from lorgnette.lora.record import keep, moved_buffers, remember
from lorgnette.lora.wrappers import on_unwrapped, plain_name

_MARK = "_lora_trained"
PEFT_START = "base_model.model."
IN_PROJ = part_name("in_proj")
# Keys of a PeftModel's own state dict have the adapter's name in them: lora_A.default.weight
_OF_PEFT_MODEL = re.compile(
    r"\.(lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))\.(?!weight$|bias$)([^.]+)(\.weight|\.bias)?$"
)
_SAVED_BY_PEFT = re.compile(r"\.modules_to_save\.[^.]+\.")
_PEFT_EMBEDDING = {"lora_embedding_A": "lora_B", "lora_embedding_B": "lora_A"}  # and transposed


@on_unwrapped
def get_lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The adapter of a model: `<layer>.lora_A`, `<layer>.lora_B`, and the base tensors trained with it.

    Like `state_dict()`, it holds the model's own memory, detached: clone what has to outlive a training step.
    Of a model in parts (`fully_shard`) it holds whole tensors, gathered: every process has to ask for them.
    """
    return {name: whole(tensor.detach()) for name, tensor in (_factors(model) | trained_tensors(model)).items()}


@on_unwrapped
def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Base tensors of the adapter: of `modules_to_save`, loaded with it, or requiring a gradient now.

    Statistics of a layer come along with its trained parameters, and so does a buffer that moved since the adapters
    came: those of norms rest, but other modules may have some that change in training.
    """
    return _asked_for(model) | moved_buffers(model)


def drifted_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Those that moved although nothing asked for it."""
    asked = _asked_for(model)
    return {name: tensor for name, tensor in moved_buffers(model).items() if name not in asked}


def _asked_for(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        own = own_tensors(module)
        marked = marked_tensors(module)
        learning = any(tensor.requires_grad for tensor in own.values())
        for name, tensor in own.items():
            if name in marked or tensor.requires_grad or (learning and not isinstance(tensor, nn.Parameter)):
                found[_join(prefix, name)] = tensor
    return found


@on_unwrapped
def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> LoadReport:
    """Copy an adapter's tensors into an injected model. Everything is checked before anything is copied.

    Args:
        model: with adapters on the same layers.
        state: as from `get_lora_state_dict`; PEFT's key names are understood too.
        strict: False takes what fits and leaves the rest.

    Returns:
        What was loaded, missing, unexpected, or of another shape.

    Raises:
        ValueError: strict, and the state does not fit exactly; one line says where. Nothing was copied.
    """
    state = plain_state(model, state)
    names = (from_peft(name, tensor, ())[0] for name, tensor in state.items())
    if not is_adapted(model) and any(map(is_factor, names)):
        raise ValueError(f"{type(model).__name__} has no adapter to load into: inject_lora or load_adapter comes first")
    targets = base_tensors(model) | _factors(model, every_name=True)
    named, unknown = named_for(state, targets)
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    required = get_lora_state_dict(model)
    provided = {id(targets[name]) for name in named}
    report = compare(
        {name: tuple(tensor.shape) for name, tensor in targets.items()},
        shapes,
        missing=[name for name in required if id(targets[name]) not in provided],
        unexpected=unknown,
        conflicts=_tie_conflicts(named, targets),
    )
    if strict and not report.complete:
        raise ValueError(f"the adapter does not fit {type(model).__name__}: {report}")
    warn_of("load_lora_state_dict", {name: named[name] for name in report.loaded})
    with torch.no_grad():
        for name in report.loaded:
            targets[name].copy_(_in_parts_of(targets[name], named[name]))
    for name in set(report.loaded) & base_tensors(model).keys():
        prefix, _, own = name.rpartition(".")
        mark_trained(model.get_submodule(prefix), [own])
    return report


def named_for(state: Mapping[str, Any], known: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """The entries of a state under the model's names, and the names of those the model does not know."""
    named: dict[str, Any] = {}
    unknown: list[str] = []
    for key, value in state.items():
        name, value = (key, value) if key in known else from_peft(key, value, known)
        if name in known and name not in named:
            named[name] = value
        else:
            unknown.append(name)
    return named, unknown


def plain_state(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A state, PEFT's or ours, with the names that it has without wrappers such as a compiled model's."""
    named = {}
    for key, value in state.items():
        start = PEFT_START * key.startswith(PEFT_START)
        if key != "n_averaged" or key in model._buffers:  # of an averaged model: how often it was
            named[start + plain_name(model, key.removeprefix(start))] = value
    return named


def from_peft(key: str, value: Any, known: Collection[str]) -> tuple[str, Any]:
    """The model's name for a tensor that PEFT's files call `key`, and the tensor as the model holds it."""
    name = re.sub(r"(\.base_layer)+\.", ".", key.removeprefix(PEFT_START))
    name = _OF_PEFT_MODEL.sub(r".\1\3", _SAVED_BY_PEFT.sub(".", name))
    for theirs, ours in _PEFT_EMBEDDING.items():
        if name.endswith(f".{theirs}"):
            return name.removesuffix(theirs) + ours, value.mT if value.dim() == 2 else value
    for ours, theirs in ((o, t) for method in METHODS.values() for o, t in method.peft_names.items()):
        if name.removesuffix(".weight").endswith(f".{theirs}"):
            return name.removesuffix(".weight").removesuffix(theirs) + ours, value.flatten()
    for factor in LORA_TENSORS:
        name = name.removesuffix(".weight") if name.endswith(f"{factor}.weight") else name
    owner, _, factor = name.rpartition(".")
    inside = f"{owner}.{IN_PROJ}.{factor}"  # of an attention; in PEFT's file it bears the attention's own name
    return (inside if name not in known and inside in known else name), value


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and saved buffer of the base, under each of its names; adapters are left out."""
    return {
        _join(prefix, name): tensor
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name, tensor in own_tensors(module).items()
    }


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers that a module itself holds, without an adapter's."""
    hidden = {*module._non_persistent_buffers_set, *(module.lora_tensors if isinstance(module, LowRank) else ())}
    tensors = module._parameters | module._buffers
    return {name: tensor for name, tensor in tensors.items() if tensor is not None and name not in hidden}


def mark_trained(module: nn.Module, names: Iterable[str]) -> None:
    """Remember that these tensors of a module belong to the adapter, whatever their `requires_grad`."""
    setattr(module, _MARK, tuple(dict.fromkeys((*marked_tensors(module), *names))))


def marked_tensors(module: nn.Module) -> tuple[str, ...]:
    """The names that `mark_trained` was given for this module."""
    return getattr(module, _MARK, ())


def forget_trained(model: nn.Module) -> None:
    """Take all marks of `mark_trained` away, and what was remembered of the base."""
    keep(model, None)
    for module in model.modules():
        vars(module).pop(_MARK, None)


def remember_base(model: nn.Module) -> None:
    """Remember what the base of a model is like, before its first adapters come."""
    remember(model, {name: t for name, t in base_tensors(model).items() if not isinstance(t, nn.Parameter)})


def _factors(model: nn.Module, every_name: bool = False) -> dict[str, Tensor]:
    layers = adapted_layers(model)
    if every_name:
        modules = model.named_modules(remove_duplicate=False)
        layers = {name: module for name, module in modules if isinstance(module, LowRank)}
    return {
        _join(name, factor): tensor for name, layer in layers.items() for factor, tensor in layer.lora_tensors.items()
    }


def _tie_conflicts(named: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, str]:
    first: dict[int, str] = {}
    conflicts: dict[str, str] = {}
    for name, value in named.items():
        other = first.setdefault(id(targets[name]), name)
        if other != name and not torch.equal(value.cpu(), named[other].cpu()):
            conflicts[name] = f"shares its memory with {other!r} but has other values"
    return conflicts


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor whose parts lie in several processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]


def _in_parts_of(target: Tensor, value: Tensor) -> Tensor:
    """This process's part of a value that every process has whole, if `target` is in parts."""
    if not hasattr(target, "full_tensor") or hasattr(value, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor  # only where it has been imported already

    mesh, placements = target.device_mesh, target.placements  # type: ignore[attr-defined]
    return distribute_tensor(value.to(target.device), mesh, placements, src_data_rank=None)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
