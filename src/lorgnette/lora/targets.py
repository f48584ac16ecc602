"""Where an adapter is to go, and why it cannot: a layer, a raw parameter, or some rows of one."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.layers.attention import reads_raw
from lorgnette.lora.layers.base import LORA_TENSORS, LowRank
from lorgnette.lora.layers.in_place import InPlace, has_own_forward
from lorgnette.lora.layers.method import PLAIN, Sizes
from lorgnette.lora.layers.offloaded import lies_elsewhere
from lorgnette.lora.layers.parameter import LoRAParameter, Rows, part_name, part_shapes
from lorgnette.lora.layers.tables import adapted_class, attach_lora, method_of

_QKV = ("q", "k", "v")


class Target(NamedTuple):
    """Where an adapter is to go, and its settings."""

    owner: str
    """Name of the module whose parameter is adapted; '' is the model itself."""
    settings: LoRAConfig
    parameter: str | None = None
    """The parameter; None: the layer `owner` itself is adapted."""
    rows: Rows | None = None
    """Rows of the parameter that are adapted; None: all."""


def parts_of(name: str, module: nn.Module, settings: LoRAConfig, slices: list[str] | None) -> dict[str, Target]:
    """The adapters that one chosen layer gets, by name: one, or one for each slice or projection.

    Args:
        name: of the layer.
        module: the layer.
        settings: for all of them.
        slices: parts of the layer. Of an `nn.Linear`: 'q', 'k', 'v' (thirds of its output) or rows such as
            '0:64'. Of an `nn.MultiheadAttention`: 'q', 'k', 'v', 'in_proj' (all three in one) and 'out_proj'.

    Raises:
        ValueError: there is no such slice; one line says which there are.
    """
    if isinstance(module, nn.MultiheadAttention):
        own = ("in_proj",) if module._qkv_same_embed_dim else _QKV
        return dict(_attention_part(name, module, settings, part) for part in slices or (*own, "out_proj"))
    if slices is None:
        return {name: Target(name, settings)}
    if not isinstance(module, nn.Linear):
        raise ValueError(f"lora.slices: {name!r} is a {type(module).__name__}; only nn.Linear has slices")
    rows = {part: _rows(name, part, module.out_features) for part in slices}
    ordered = sorted(rows.values())
    if any(before[1] > after[0] for before, after in itertools.pairwise(ordered)):
        raise ValueError(f"lora.slices: those of {name!r}, {', '.join(slices)}, overlap")
    return {f"{name}.{part_name(part)}": Target(name, settings, "weight", rows[part]) for part in slices}


def shapes_of(target: Target, owner: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that an adapter has, by name."""
    sizes = _sizes(target, owner)
    factors = dict(zip(LORA_TENSORS, (sizes.A, sizes.B), strict=True))
    return factors | method_of(target.settings).shapes(sizes)


def why_not(name: str, target: Target, modules: Mapping[str, nn.Module], parents: Iterable[nn.Module]) -> str | None:
    """Why an adapter cannot be made, or None.

    Args:
        name: of the adapter to be.
        target: where it is to go.
        modules: every module of the model by name.
        parents: modules that contain the owner directly.
    """
    owner = modules[target.owner]
    taken = any(isinstance(child, LowRank) for child in owner.children())
    if isinstance(modules.get(name), LowRank) or isinstance(owner, LowRank) or (target.parameter is None and taken):
        return "is adapted already: merge_lora_weights or unload_lora comes first"
    if target.parameter is not None and hasattr(owner, name.rpartition(".")[2]):
        return f"has an attribute {name!r} already, where the adapter would go"
    if _passes_by(owner, target):
        return f"({type(owner).__name__}) has a forward of its own, which would bypass the adapter"
    if target.parameter in owner._parameters and is_foreign(owner):
        return f"is read raw by its nn.{type(owner).__name__}: a layer is named in lora.target_modules"
    if reason := _why_not_weight(owner, target):
        return reason
    if reason := _why_not_method(owner, target, parents):
        return reason
    for parent in parents:
        if isinstance(parent, nn.TransformerEncoderLayer) and has_own_forward(parent):
            return "is read raw by its nn.TransformerEncoderLayer, on which a forward of somebody's own is stored"
        if reads_raw(parent):
            return "is read raw by a sub-class of nn.MultiheadAttention, which would bypass the adapter"
    return None


def attach(name: str, target: Target, owner: nn.Module, share: LowRank | None = None) -> LowRank:
    """Make the adapter; `update_readers` has to follow."""
    if target.parameter is None:
        return attach_lora(owner, target.settings, share)
    weight = owner.get_parameter(target.parameter)
    adapter = LoRAParameter(target.parameter, weight, target.settings, method_of(target.settings), target.rows, share)
    adapter.train(owner.training)
    owner.add_module(name.rpartition(".")[2], adapter)
    return adapter


def _attention_part(name: str, module: nn.MultiheadAttention, settings: LoRAConfig, part: str) -> tuple[str, Target]:
    together = module._qkv_same_embed_dim
    if part == "out_proj":
        return f"{name}.out_proj", Target(f"{name}.out_proj", settings)
    if part == "in_proj" and together:
        return f"{name}.{part_name(part)}", Target(name, settings, "in_proj_weight")
    if part not in _QKV:
        known = f"q, k, v, {'in_proj, ' if together else ''}out_proj"
        raise ValueError(f"lora.slices: {part!r} is no part of the attention {name!r}; {known} are")
    if not together:
        return f"{name}.{part_name(part)}", Target(name, settings, f"{part}_proj_weight")
    start = _QKV.index(part) * module.embed_dim
    return f"{name}.{part_name(part)}", Target(name, settings, "in_proj_weight", (start, start + module.embed_dim))


def _rows(name: str, part: str, size: int) -> Rows:
    if part in _QKV and size % 3 == 0:
        start = _QKV.index(part) * (size // 3)
        return start, start + size // 3
    if found := re.fullmatch(r"(\d+):(\d+)", part):
        start, stop = map(int, found.groups())
        if start < stop <= size:
            return start, stop
    thirds = "'q', 'k', 'v' or " if size % 3 == 0 else ""
    raise ValueError(f"lora.slices: {part!r} is no slice of {name!r}; {thirds}rows such as '0:{size // 2}' are")


def _why_not_weight(owner: nn.Module, target: Target) -> str | None:
    parameter = target.parameter or "weight"
    weight = owner._parameters.get(parameter)
    if weight is None:
        if target.parameter is None or hasattr(owner, parameter):
            return (
                f"computes its {parameter} (a parametrisation, weight norm or pruning), so that an update has no place"
            )
        return "is no parameter of the model"
    if isinstance(weight, UninitializedParameter):
        return f"has no {parameter} yet: run one batch through the model first"
    if not weight.is_floating_point():
        return f"has a {str(weight.dtype).removeprefix('torch.')} {parameter}"
    if lies_elsewhere(owner, weight) and (target.parameter is not None or method_of(target.settings) is not PLAIN):
        return "is offloaded: only whole layers can be adapted then, by plain LoRA; load the base without offloading"
    if target.parameter is not None:
        if not 2 <= weight.dim() <= 4:
            return f"has {weight.dim()} dimensions; 2 to 4 can be adapted"
        if target.rows is not None and not (weight.dim() == 2 and 0 <= target.rows[0] < target.rows[1] <= len(weight)):
            return f"has no rows {target.rows[0]} to {target.rows[1]}"
    return None


def _why_not_method(owner: nn.Module, target: Target, parents: Iterable[nn.Module]) -> str | None:
    method = method_of(target.settings)
    if not method.merges:
        if target.parameter is not None:
            return f"is a raw parameter or a part of a layer, which cannot have {method.title}"
        for parent in parents:
            if isinstance(parent, (nn.MultiheadAttention, nn.TransformerEncoderLayer)):
                return f"is read raw by its nn.{_base_class(parent).__name__}, so that it cannot have {method.title}"
    adapted = adapted_class(_base_class(owner))
    if target.parameter is None and adapted is not None and (reason := adapted.why_not(owner, method)):
        return reason
    sizes = _sizes(target, owner)
    width = sizes.A[-1] if target.parameter is not None else math.prod(sizes.A[1:])
    height = sizes.B[-2] if target.parameter is not None else sizes.B[0]
    return method.why_not(sizes, min(width, height))


def _sizes(target: Target, owner: nn.Module) -> Sizes:
    weight, r = owner.get_parameter(target.parameter or "weight"), target.settings.r
    if target.parameter is not None:
        A, B = part_shapes(weight.shape, r, target.rows)
        return Sizes(A, B, r, outputs=math.prod(B[:-1]))
    adapted = adapted_class(_base_class(owner))
    assert adapted is not None, f"{type(owner)} was not checked before"
    return Sizes(*adapted.shapes(weight.shape, r), r, outputs=adapted.outputs(owner))


def _passes_by(owner: nn.Module, target: Target) -> bool:
    """Whether the owner's forward would bypass the adapter, which extends the known base forwards only."""
    if isinstance(owner, nn.MultiheadAttention):
        return reads_raw(owner)
    if target.parameter is None or (isinstance(owner, nn.Linear) and target.parameter == "weight"):
        return adapted_class(_base_class(owner)) is None or has_own_forward(owner)
    return False


def is_foreign(owner: nn.Module) -> bool:
    """Whether a raw parameter's owner is code of PyTorch, which asks for no effective parameter."""
    allowed = (nn.Linear, nn.MultiheadAttention, nn.ParameterList, nn.ParameterDict)
    return _base_class(owner).__module__.startswith("torch.nn.") and not isinstance(owner, allowed)


def _base_class(owner: nn.Module) -> type[nn.Module]:
    return owner.base_class if isinstance(owner, InPlace) else type(owner)
