"""Load tensors from a file into a model. Everything is checked before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from lorgnette.lora.layers.base import LORA_TENSORS, LowRank, is_adapted
from lorgnette.lora.layers.tables import adapter_tensors
from lorgnette.lora.load_report import LoadReport, compare
from lorgnette.lora.state import (
    base_tensors,
    get_lora_state_dict,
    load_lora_state_dict,
    named_for,
    trained_tensors,
)
from lorgnette.lora.surgery import attach_targets, freeze_base_params
from lorgnette.lora.targets import Target, shapes_of, why_not


def load_onto(
    model: nn.Module, targets: Mapping[str, Target], state: Mapping[str, Tensor], strict: bool, source: str
) -> LoadReport:
    """Load adapters into a model, which is injected first if it has none. All is checked before it is changed.

    Raises:
        ValueError: strict, and the adapter does not fit the model; the message names it by `source`.
    """
    title = type(model).__name__
    fresh = not is_adapted(model)
    named, report = _fit(model, targets, state, strict)
    if strict and not report.complete:
        raise ValueError(f"{source} does not fit {title}: {report}")
    whole = {name: target for name, target in targets.items() if f"{name}.{LORA_TENSORS[0]}" in report.loaded}
    if fresh and whole:
        attach_targets(model, whole)
        freeze_base_params(model)
    loaded = load_lora_state_dict(model, {name: named[name] for name in report.loaded}, strict=False).loaded
    if fresh:  # what was trained goes on learning, as the factors do
        for name, tensor in trained_tensors(model).items():
            if name in loaded and isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
                tensor.requires_grad_(True)
    return replace(report, loaded=loaded)


def _fit(
    model: nn.Module, targets: Mapping[str, Target], state: Mapping[str, Tensor], strict: bool
) -> tuple[dict[str, Tensor], LoadReport]:
    """An adapter's tensors by the model's names, and how they fit; the model is not changed."""
    modules = dict(model.named_modules(remove_duplicate=False))
    wanted = {name: tuple(tensor.shape) for name, tensor in base_tensors(model).items()}
    required = list(get_lora_state_dict(model)) if is_adapted(model) else []
    conflicts: dict[str, str] = {}
    obstacles: dict[str, str] = {}
    for name, target in targets.items():
        layer, config = modules.get(name), target.settings
        if isinstance(layer, LowRank):
            if layer.r == config.r and layer.scaling != config.scaling:
                conflicts[f"{name}.{LORA_TENSORS[0]}"] = (
                    f"is scaled by {config.scaling:g}, in the model by {layer.scaling:g}"
                )
        elif target.owner in modules and not required:
            if reason := why_not(name, target, modules, [modules[target.owner.rpartition(".")[0]]]):
                if strict:
                    raise ValueError(f"the adapter does not fit {type(model).__name__}: {name!r} {reason}")
                obstacles[name] = f", which {reason}"
                continue
            held = shapes_of(target, modules[target.owner])
            wanted |= {f"{name}.{tensor}": shape for tensor, shape in held.items()}
    if required:
        wanted |= {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    else:
        required = [name for name in wanted if name.rpartition(".")[2] in adapter_tensors()]
    named, unknown = named_for(state, wanted)
    missing = [name for name in required if name not in named]
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    report = compare(wanted, shapes, missing, unknown, conflicts)
    hints = {name: obstacles.get(name.rpartition(".")[0], hint) for name, hint in report.unexpected.items()}
    return named, replace(report, unexpected=hints)
