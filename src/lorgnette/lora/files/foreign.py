"""Load adapters that other programs wrote, and state dicts saved by hand: recognised, injected, strictly loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from lorgnette.common.tensors import read_tensors
from lorgnette.common.text import nearest
from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.files.adapter import load_adapter
from lorgnette.lora.files.diffusers import is_diffusers, read_diffusers, settings_of
from lorgnette.lora.files.kohya import read_kohya
from lorgnette.lora.files.loading import load_onto
from lorgnette.lora.files.loralib import read_loralib
from lorgnette.lora.files.peft_variants import biases_folded
from lorgnette.lora.files.weights import named_tensors
from lorgnette.lora.layers.base import LowRank, is_adapted
from lorgnette.lora.load_report import LoadReport
from lorgnette.lora.state import IN_PROJ, plain_state
from lorgnette.lora.targets import Target, parts_of
from lorgnette.lora.wrappers import on_unwrapped

Format: TypeAlias = Literal["auto", "folder", "loralib", "kohya", "diffusers", "checkpoint"]
_FORMATS = ("auto", "folder", "loralib", "kohya", "diffusers", "checkpoint")
_INSIDE = ("lora_state_dict", "state_dict", "model")


@on_unwrapped
def import_adapter(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    format: Format = "auto",
    *,
    alpha: float | None = None,
    enable_lora: Sequence[bool] | None = None,
    prefix: str | None = None,
    strict: bool = True,
) -> LoadReport:
    """Load an adapter that another program wrote; a model without adapters is injected first.

    Args:
        model: the base the adapter was made for, or the same with adapters on the same layers.
        source: a folder of Lorgnette or PEFT, a file (.safetensors, or one that `torch.load(weights_only=True)`
            reads), or the tensors by name.
        format: 'folder', 'loralib' (microsoft/LoRA), 'kohya' (kohya-ss/sd-scripts), 'diffusers', 'checkpoint' (a
            table with `lora_state_dict` as `get_lora_state_dict` gives it), or 'auto': recognised.
        alpha: `lora_alpha`, which 'loralib' and 'checkpoint' do not hold; of a checkpoint it may be left out if the
            model has its adapters already. For 'kohya' and 'diffusers', that of layers without one (otherwise their
            rank).
        enable_lora: of loralib's `MergedLinear`, where not all parts are adapted.
        prefix: of 'kohya' and 'diffusers': take the names that begin so, such as 'lora_unet' or 'unet', and leave the
            others.
        strict: False takes what fits and reports the rest.

    Returns:
        What was loaded, missing, unexpected or mismatched.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, of no known format, or does not fit; one line says what is wrong, and the
            model is as it was.
    """
    if format not in _FORMATS:
        raise ValueError(f"format: {format!r} is not known; {', '.join(map(repr, _FORMATS))} are")
    if not isinstance(source, Mapping) and (format == "folder" or Path(source).is_dir()):
        return load_adapter(model, source, strict)
    title = "the adapter" if isinstance(source, Mapping) else f"the adapter in {source}"
    found = source if isinstance(source, Mapping) else _read(Path(source))
    try:
        state, wrapped = _tensors(found)
        state = plain_state(model, state)
        kind = _recognised(state, wrapped) if format == "auto" else format
        if kind == "diffusers":
            settings = {} if isinstance(source, Mapping) else settings_of(Path(source))
            targets, tensors = read_diffusers(model, state, alpha, prefix, settings)
            tensors = biases_folded(model, targets, tensors)
        elif kind == "kohya":
            targets, tensors = read_kohya(model, state, alpha, prefix)
        else:
            if alpha is None and not (kind == "checkpoint" and is_adapted(model)):
                raise ValueError(f"alpha: {kind!r} does not hold it; alpha= is lora_alpha of its training")
            strength = 1.0 if alpha is None else alpha
            if kind == "loralib":
                targets, tensors = read_loralib(model, state, strength, enable_lora)
            else:
                targets, tensors = _own_targets(model, state, strength), dict(state)
            if alpha is None:
                targets = {name: _as_in(model, name, target) for name, target in targets.items()}
    except ValueError as error:
        raise ValueError(f"{title} cannot be used: {error}") from None
    return load_onto(model, targets, tensors, strict, source=title)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        names = [file.name for file in path.parent.glob("*")] if path.parent.is_dir() else []
        raise FileNotFoundError(f"no such file or folder: {path}{nearest(path.name, names)}")
    return read_tensors(path)


def _tensors(found: Mapping[str, Any]) -> tuple[dict[str, Tensor], bool]:
    """The tensors of a table, and whether they lay in its `lora_state_dict`."""
    inside = next((name for name in _INSIDE if isinstance(found.get(name), Mapping)), None)
    state = found if inside is None else found[inside]
    return named_tensors(state), inside == _INSIDE[0]


def _recognised(state: Mapping[str, Tensor], wrapped: bool) -> Format:
    if any(map(is_diffusers, state)):
        return "diffusers"
    if any(name.endswith((".lora_down.weight", ".lora_up.weight")) for name in state):
        return "kohya"
    if any(name.endswith(".lora_A") for name in state):
        return "checkpoint" if wrapped else "loralib"
    if any(".lora_A." in name for name in state):
        raise ValueError(
            "its names are PEFT's; give the folder, where adapter_config.json tells the strength, or alpha= and"
            " format='diffusers'"
        )
    some = next(iter(state), None)
    raise ValueError(f"it holds no adapter of a known format{'' if some is None else f' ({some!r} is there)'}")


def _as_in(model: nn.Module, name: str, target: Target) -> Target:
    """The target with the strength that the model's own adapter has."""
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, LowRank):
        return target
    own = LoRAConfig(r=target.settings.r, lora_alpha=layer.lora_alpha, use_rslora=layer.use_rslora)
    return target._replace(settings=own)


def _own_targets(model: nn.Module, state: Mapping[str, Tensor], alpha: float) -> dict[str, Target]:
    """Where the adapters of a `get_lora_state_dict` go, as their names tell."""
    modules = dict(model.named_modules())
    targets = {}
    for key, tensor in state.items():
        name, _, factor = key.rpartition(".")
        if factor != "lora_A":
            continue
        owner, _, part = name.rpartition(".")
        inside = part.removeprefix("lora_")
        module = modules.get(owner)
        settings = LoRAConfig(r=tensor.shape[-2] if part != inside else tensor.shape[0], lora_alpha=alpha)
        if part == inside or module is None:
            targets[name] = Target(name, settings)
        elif name.endswith(IN_PROJ):
            targets[name] = Target(owner, settings, "in_proj_weight")
        elif inside in module._parameters:
            targets[name] = Target(owner, settings, inside)
        else:
            targets |= parts_of(owner, module, settings, [inside.replace("_", ":")])
    return targets
