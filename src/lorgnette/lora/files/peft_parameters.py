"""Raw parameters in PEFT's files (`target_parameters`, PEFT 0.21).

PEFT puts a wrapper around the module that owns the parameter, and one more around that for each further parameter of
it, in the order in which they were registered. A tensor's name in the file counts the wrappers that lie outside:
`owner.base_layer.lora_A.weight` is the last but one. A stack `(E, out, in)` has one `lora_A: (E r, in)`, the matrices
one below the other, and one `lora_B: (out, r E)`, in which E runs fastest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from lorgnette.lora.layers.base import LORA_TENSORS
from lorgnette.lora.layers.parameter import LoRAParameter, part_name, sites
from lorgnette.lora.selection import matches
from lorgnette.lora.state import own_tensors

_WRAPPER = ".base_layer"
_KEY = re.compile(rf"(?:base_model\.model\.)?(.+?)((?:{re.escape(_WRAPPER)})*)\.(lora_[AB])(?:\.weight)?")
_LAYERS = (nn.Linear, nn.Embedding)  # a wrapper around the weight of these is what a layer's adapter is


def beyond_wrappers(model: nn.Module, trained: Iterable[str]) -> list[str]:
    """Why PEFT's wrappers could not stand for the adapters of raw parameters; empty where they can."""
    reasons = []
    raw = {name: site for name, site in sites(model).items() if isinstance(site.adapter, LoRAParameter)}
    if not raw:
        return []
    if any(site.adapter.lora_dropout for site in sites(model).values()):
        reasons.append("PEFT has no dropout where it adapts raw parameters")
    for name, (adapter, owner, parameter) in raw.items():
        weight, place = owner.get_parameter(parameter), name.rpartition(".")[0]
        if isinstance(owner, (nn.Linear, nn.MultiheadAttention)):
            reasons.append(f"{name}: PEFT has no adapter of this kind for a part of a module")
        elif not place or weight.dim() > 3:
            reasons.append(
                f"{name}: PEFT adapts raw parameters of two or three dimensions, and none of the model itself"
            )
        elif _transposed(owner, weight):
            reasons.append(f"{name}: PEFT takes the last axis of this parameter for its outputs")
        elif not adapter.lora_method.linear:
            reasons.append(f"{name}: PEFT has no {adapter.lora_method.title} for raw parameters")
        elif lost := next((other for other in trained if other.startswith(f"{place}.")), None):
            reasons.append(f"{lost}: PEFT does not save it inside the wrapper of {name}")
    wanted = wrapped_parameters(model)
    for owner in wanted:
        if outer := next((other for other in wanted if owner.startswith(f"{other}.")), None):
            reasons.append(f"{owner}: PEFT cannot adapt parameters inside {outer}, which it wraps")
    titles = [f"{owner}.{parameter}" for owner, parameters in wanted.items() for parameter in parameters]
    for owner, parameters in _matched(model, titles).items():
        if parameters != wanted.get(owner):
            reasons.append(f"{owner}: PEFT would adapt more of its parameters, whose names end alike")
    return reasons


def wrapped_parameters(model: nn.Module) -> dict[str, list[str]]:
    """The adapted raw parameters of each module, by its name, in the order in which they were registered."""
    found: dict[str, list[str]] = {}
    for name, (adapter, _, parameter) in sites(model).items():
        if isinstance(adapter, LoRAParameter):
            found.setdefault(name.rpartition(".")[0], []).append(parameter)
    order = {owner: list(model.get_submodule(owner)._parameters) for owner in found}
    return {owner: sorted(names, key=order[owner].index) for owner, names in found.items()}


def wrapped_path(place: str, wrapped: Mapping[str, list[str]]) -> str:
    """Where PEFT has an adapter that is here at this place, among these wrapped parameters."""
    owner, _, part = place.rpartition(".")
    parts = [part_name(parameter) for parameter in wrapped.get(owner, ())]
    counts = {name: len(parameters) for name, parameters in wrapped.items()}
    if part in parts:
        place, counts = owner, counts | {owner: len(parts) - 1 - parts.index(part)}
    path, name = [], ""
    for step in place.split("."):
        name += f".{step}"
        path.append(step + _WRAPPER * counts.get(name[1:], 0))
    return ".".join(path)


def unwrap(
    model: nn.Module, targets: object, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, tuple[str, str]]]:
    """A state of PEFT's with the tensors of raw parameters named and shaped as they are here.

    Args:
        model: the base, with adapters or without.
        targets: `target_parameters` of PEFT's settings.
        state: the tensors of its file.

    Returns:
        The state, and by the names of the adapters their owners' names and the parameters'. A layer bears its own.

    Raises:
        ValueError: a tensor is missing or fits no parameter, or a parameter is not one that can be adapted here.
    """
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise ValueError(f"target_parameters = {targets!r} is not a list of names")
    wrapped = _matched(model, targets)
    raw: dict[str, tuple[str, str]] = {}
    tensors = dict(state)
    for key, tensor in state.items():
        found = _KEY.fullmatch(key)
        if found is None or (owner := found[1].replace(_WRAPPER, "")) not in wrapped:
            continue
        depth, names, module = len(found[2]) // len(_WRAPPER), wrapped[owner], model.get_submodule(owner)
        if depth >= len(names):
            continue
        parameter = names[len(names) - 1 - depth]
        adapter = owner if isinstance(module, _LAYERS) else f"{owner}.{part_name(parameter)}"
        weight = module.get_parameter(parameter)
        if _transposed(module, weight):
            raise ValueError(f"{owner}.{parameter}: its last axis is that of the outputs (is_transposed)")
        raw[adapter] = owner, parameter
        del tensors[key]
        tensors[f"{adapter}.{found[3]}"] = _unstacked(tensor, weight, found[3], f"{owner}.{parameter}")
    for owner, names in wrapped.items():
        for parameter in names:
            if (owner, parameter) not in raw.values():
                raise ValueError(f"the file holds nothing for '{owner}.{parameter}', which target_parameters names")
    return tensors, raw


def stacked(tensor: Tensor, factor: str) -> Tensor:
    """A factor of a raw parameter as PEFT holds it."""
    if tensor.dim() == 2:
        return tensor
    return tensor.flatten(0, 1) if factor == LORA_TENSORS[0] else tensor.permute(1, 2, 0).flatten(1)


def _unstacked(tensor: Tensor, weight: Tensor, factor: str, title: str) -> Tensor:
    if weight.dim() == 2:
        return tensor
    count, axis = weight.shape[0], LORA_TENSORS.index(factor)
    if weight.dim() != 3 or tensor.dim() != 2 or tensor.shape[axis] % count:
        size = "x".join(map(str, tensor.shape))
        raise ValueError(f"{title}: {factor} is {size}, which fits no stack of {count} matrices")
    return tensor.unflatten(0, (count, -1)) if axis == 0 else tensor.unflatten(1, (-1, count)).permute(2, 0, 1)


def _matched(model: nn.Module, targets: list[str]) -> dict[str, list[str]]:
    """What PEFT wraps for these `target_parameters`, by owner, in the order of registration."""
    found = {}
    for owner, module in model.named_modules():
        if not owner or isinstance(module, LoRAParameter):
            continue
        base = own_tensors(module).keys() & module._parameters.keys()
        if names := [name for name in module._parameters if name in base and matches(f"{owner}.{name}", targets)]:
            found[owner] = names
    return found


def _transposed(owner: nn.Module, weight: Tensor) -> bool:
    return weight.dim() == 3 and bool(getattr(owner, "is_transposed", False))
