"""Fold adapters into the weights, restore both bit for bit, and report what rounding cost."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from lorgnette.lora.finite import complaint, not_finite, warn_of
from lorgnette.lora.layers.base import LoRALayer, LowRank, is_adapted
from lorgnette.lora.layers.parameter import Site, adapters_of, sites
from lorgnette.lora.record import Record, keep as keep_record, remembered
from lorgnette.lora.state import forget_trained, mark_trained, marked_tensors
from lorgnette.lora.surgery import Places, place_of, put_in, take_out
from lorgnette.lora.wrappers import bare, on_unwrapped

Model = TypeVar("Model", bound=nn.Module)

_KEPT = "_lora_kept"


@dataclass
class _Kept:
    """What brings a merged model back to where it was."""

    contents: list[tuple[nn.Parameter, Tensor]] = field(default_factory=list)
    """Weights that were changed in place, with what they held."""
    replaced: list[tuple[nn.Module, str, nn.Parameter]] = field(default_factory=list)
    """Weights for which a new one was put in place."""
    adapters: Places = field(default_factory=dict)
    """The adapters that were folded in."""
    marks: list[tuple[nn.Module, tuple[str, ...]]] = field(default_factory=list)
    """Base tensors that belong to the adapter."""
    record: Record | None = None
    """What was known of the base."""


@dataclass(frozen=True)
class DeltaSurvival:
    """How much of the adapters' updates is left after the weights were rounded to their dtype."""

    layers: Mapping[str, float]
    """Share for each adapter, in [0, 1]: one minus the relative error of the update (Frobenius norm)."""
    total: float
    """The same for all of them together."""

    def __str__(self) -> str:
        least = min(self.layers, key=lambda name: self.layers[name])
        return f"{self.total:.1%} of the updates survives merging; the worst is {least!r} with {self.layers[least]:.1%}"


@on_unwrapped
def merge_lora_weights(model: Model, inplace: bool = True, *, keep: bool = False, safe: bool = False) -> Model:
    """Fold every adapter into its weight; what remains is a model of plain layers that gives the same output.

    An adapter whose update depends on the input (`dynamic_rank`) fits into no weight and stays as it is, so that the
    output is the same: `adapted_layers(model)` then names what stayed.

    The sum is formed in float32 and rounded once to the dtype of the weight: `delta_survival` says what is lost. A
    weight that the model also uses where there is no adapter is replaced by a new one at the adapted layer.

    Args:
        model: with adapters; without any, it is returned as it is.
        inplace: False leaves `model` alone and returns a copy that shares every untouched tensor.
        keep: True remembers adapters and weights, so that `unmerge_lora_weights` can bring both back.
        safe: True refuses where the adapter or a merged weight holds NaN or infinity, such as beyond float16;
            otherwise a warning says so.

    Raises:
        ValueError: `keep`, and the model keeps an earlier merge already; `safe`, and something is not finite; or a
            weight is computed (weight norm, pruning) or offloaded. Nothing was changed.
    """
    if not is_adapted(model):
        return model
    if not inplace:
        model = _share_copy(model)
    if keep and hasattr(model, _KEPT):
        raise ValueError("merge_lora_weights: the model keeps an earlier merge; unmerge_lora_weights comes first")
    found, stay = _foldable(model)
    _check_weights(found, safe)
    kept = _Kept(record=remembered(model))
    vars(model).pop(_KEPT, None)

    merged: dict[tuple[object, ...], list[tuple[nn.Module, str]]] = {}
    for owner, parameter in dict.fromkeys((site.owner, site.parameter) for site in found.values()):
        factors = tuple(id(adapter.lora_A) for adapter in _adapters(owner, parameter))
        merged.setdefault((place_of(owner.get_parameter(parameter)), *factors), []).append((owner, parameter))
    uses = Counter(place_of(weight) for weight in _weight_uses(model))
    for (place, *_), group in merged.items():
        owner, parameter = group[0]
        base = owner.get_parameter(parameter)
        weight = base.data
        for adapter in _adapters(owner, parameter):
            weight = adapter.merged_into(weight)
        if uses[place] == len(group):
            if keep:
                kept.contents.append((base, base.detach().clone()))
            base.data.copy_(weight)
        else:
            new = nn.Parameter(weight, requires_grad=base.requires_grad)
            for owner, parameter in group:
                kept.replaced.append((owner, parameter, owner.get_parameter(parameter)))
                owner._parameters[parameter] = new
    kept.marks = [(module, names) for module in model.modules() if (names := marked_tensors(module))]
    kept.adapters = take_out(model, stay)
    forget_trained(model)
    if keep:
        setattr(model, _KEPT, kept)
    return model


@on_unwrapped
def unmerge_lora_weights(model: Model) -> Model:
    """Undo `merge_lora_weights(model, keep=True)`, in place: weights bit for bit, adapters as they were.

    Changes made to the merged weights since are undone too. An optimiser made before the merge stays valid.

    Raises:
        ValueError: nothing was kept, the model was adapted anew, or its weights were cast or moved since.
    """
    kept = vars(model).get(_KEPT)
    if kept is None:
        raise ValueError(
            f"unmerge_lora_weights: {type(model).__name__} keeps no merge; merge_lora_weights(model, keep=True) does"
        )
    if _foldable(model)[0]:
        raise ValueError("unmerge_lora_weights: the model was adapted since; unload_lora comes first")
    for weight, contents in kept.contents:
        if (weight.dtype, weight.device) != (contents.dtype, contents.device):
            raise ValueError(
                f"unmerge_lora_weights: a weight is {weight.dtype} on {weight.device} now and was {contents.dtype} on"
                f" {contents.device} when it was merged; bring the model back to that first"
            )
    for weight, contents in kept.contents:
        weight.data.copy_(contents)
    for owner, parameter, weight in kept.replaced:
        setattr(owner, parameter, weight)
    put_in(model, kept.adapters)
    keep_record(model, kept.record)
    for module, names in kept.marks:
        mark_trained(module, names)
    delattr(model, _KEPT)
    return model


@contextlib.contextmanager
def merged(model: Model) -> Iterator[Model]:
    """Within this context the adapters are folded in; afterwards weights and adapters are as before, bit for bit."""
    merge_lora_weights(model, keep=True)
    try:
        yield model
    finally:
        if hasattr(bare(model), _KEPT):
            unmerge_lora_weights(model)


@on_unwrapped
@torch.no_grad()
def delta_survival(model: nn.Module) -> DeltaSurvival:
    """What merging would leave of each update, given the dtype of its weight; the model is not changed.

    In float32 practically all survives. In bfloat16, with 8 bits of precision, an update far below the weights is
    mostly rounded away: merge into a float32 copy then, or keep the adapter unmerged.

    Raises:
        ValueError: the model has no adapter.
    """
    errors, sizes = {}, {}
    for name, site in _foldable(model)[0].items():
        weight = site.weight.detach()
        exact = site.adapter.merged_into(weight.double()) - weight.double()
        left = site.adapter.merged_into(weight).double() - weight.double()
        errors[name], sizes[name] = (left - exact).square().sum().item(), exact.square().sum().item()
    if not sizes:
        raise ValueError(f"delta_survival: {type(model).__name__} has no adapter; inject_lora comes first")
    layers = {name: _survival(errors[name], sizes[name]) for name in sizes}
    return DeltaSurvival(layers, _survival(sum(errors.values()), sum(sizes.values())))


def _check_weights(found: Mapping[str, Site], safe: bool) -> None:
    """Before anything is changed: every weight has to be there, and what it becomes should be finite."""
    tensors = {f"{name}.{key}": t for name, site in found.items() for key, t in site.adapter.lora_tensors.items()}
    weights = {name: site.weight.detach() for name, site in found.items()}
    if safe:
        names = not_finite(tensors)
        for name, weight in weights.items():
            if not names and weight.isfinite().all():
                title = f"{name} merged into {str(weight.dtype).removeprefix('torch.')}"
                names = not_finite({title: found[name].adapter.merged_into(weight)})
        if names:
            raise ValueError(complaint("merge_lora_weights", names))
    warn_of("merge_lora_weights", tensors)


def _survival(error: float, size: float) -> float:
    return max(0.0, 1 - (error / size) ** 0.5) if size else 1.0


def _foldable(model: nn.Module) -> tuple[dict[str, Site], list[str]]:
    """The adapters that a weight can hold, and the names of the others."""
    found = sites(model)
    stay = [name for name, site in found.items() if not site.adapter.lora_method.merges]
    return {name: site for name, site in found.items() if name not in stay}, stay


def _adapters(owner: nn.Module, parameter: str) -> Sequence[LowRank]:
    return [owner] if isinstance(owner, LoRALayer) else adapters_of(owner, parameter)


def _weight_uses(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        hidden = module.lora_tensors if isinstance(module, LowRank) else ()
        yield from (p for name, p in module._parameters.items() if p is not None and name not in hidden)


def _share_copy(model: Model) -> Model:
    merged = {id(site.weight) for site in _foldable(model)[0].values()}
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors if id(tensor) not in merged})
