"""PEFT's adapter files: which adapters they can hold, how they are described, and how they are read."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lorgnette.common.wrappers import without_words
from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.files.peft_options import check_options
from lorgnette.lora.files.peft_parameters import beyond_wrappers, stacked, wrapped_parameters, wrapped_path
from lorgnette.lora.layers.base import LORA_TENSORS, LoRALayer, LowRank, adapted_layers
from lorgnette.lora.layers.parameter import LoRAParameter, is_part, part_name
from lorgnette.lora.layers.tables import METHODS, linear_types, method_of
from lorgnette.lora.layers.transposed_linear import LoRATransposedLinear
from lorgnette.lora.selection import matches
from lorgnette.lora.state import IN_PROJ, from_peft, own_tensors, trained_tensors, whole
from lorgnette.lora.targets import Target
from lorgnette.lora.wrappers import plain_names, plain_regex

OWN_TYPE = "LORGNETTE"
"""Stands for the adapter's type where PEFT could not apply it: PEFT then refuses the folder."""

_LAST_PEFT_WITH_TWICE = (0, 21)


def to_peft(model: nn.Module) -> dict[str, Tensor]:
    """The adapter of a model, its tensors named and shaped as PEFT's file holds them."""
    layers = adapted_layers(model)
    wrapped = wrapped_parameters(model)
    if wrapped and beyond_peft(model):
        wrapped = {}
    tensors = {}
    for owner, layer in layers.items():
        path = wrapped_path(owner, wrapped)
        for name, tensor in layer.lora_method.packed(layer).items():
            tensor, kernel = whole(tensor.detach()), layer.lora_A.dim() - 2
            if name in LORA_TENSORS:
                if wrapped and isinstance(layer, LoRAParameter):
                    tensor = stacked(tensor, name)
                elif isinstance(layer, nn.Embedding):
                    name, tensor = f"lora_embedding_{'B' if name == 'lora_A' else 'A'}", tensor.mT
                if not isinstance(layer, nn.Embedding):
                    name = f"{name}.weight"
            elif theirs := layer.lora_method.peft_names.get(name):
                name, tensor = theirs, tensor.view(1, -1, *[1] * kernel) if kernel else tensor
            tensors[f"base_model.model.{path}.{name}"] = tensor
    for name, tensor in trained_tensors(model).items():
        owner, _, own = name.rpartition(".")
        path = f"{wrapped_path(owner, wrapped)}." if owner else ""
        tensors[f"base_model.model.{path}{'base_layer.' * (owner in layers)}{own}"] = whole(tensor.detach())
    return tensors


def unpacked(state: Mapping[str, Tensor], targets: Mapping[str, Target]) -> dict[str, Tensor]:
    """A state as `to_peft` writes it, with the packed factors of these adapters taken apart again."""
    methods = {name: method_of(target.settings) for name, target in targets.items()}
    known = {f"{name}.{factor}" for name, method in methods.items() if method.frozen for factor in LORA_TENSORS}
    tensors = {}
    for key, tensor in state.items():
        name, value = from_peft(key, tensor, known)
        if name not in known:
            tensors[key] = tensor
            continue
        owner, _, factor = name.rpartition(".")
        offset = value.dim() - 2 if is_part(owner) else 0  # a part may be a stack
        parts = methods[owner].unpacked(factor, value, offset + LORA_TENSORS.index(factor))
        tensors |= {f"{owner}.{part}": own for part, own in parts.items()}
    return tensors


def peft_names(model: nn.Module) -> dict[str, str]:
    """Adapters that PEFT gives another name: those of an attention, which it always adapts as a whole."""
    names = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if name and isinstance(module, nn.MultiheadAttention):
            names |= {f"{name}.{IN_PROJ}": name, f"{name}.out_proj": name}
    return names


def peft_config(model: nn.Module) -> dict[str, Any]:
    """Contents of `adapter_config.json`: PEFT's description, or our marker where PEFT has none."""
    layers = adapted_layers(model)
    if reasons := beyond_peft(model):
        return {"peft_type": OWN_TYPE, "reasons": reasons}
    ranks = {name: layer.r * layer.lora_method.peft_rank for name, layer in layers.items()}
    raw = {
        f"{owner}.{part_name(parameter)}": f"{owner}.{parameter}"
        for owner, parameters in wrapped_parameters(model).items()
        for parameter in parameters
    }
    titles = {name: raw.get(name, name) for name in layers}
    rank = _most_common(ranks.values())
    use_rslora = all(layer.use_rslora for layer in layers.values())
    alphas = {name: _alpha(layer, use_rslora) for name, layer in layers.items()}
    alpha = _most_common(alphas.values())
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": max(layer.lora_dropout for layer in layers.values()),
        "bias": _bias(model),
        "fan_in_fan_out": any(isinstance(layer, LoRATransposedLinear) for layer in layers.values()),
        "init_lora_weights": True,
        "use_rslora": use_rslora,
        **{setting: False for method in METHODS.values() for setting in method.peft or ()},
        **(next(iter(layers.values())).lora_method.peft or {}),
        "target_modules": _target_modules(model, [name for name in layers if name not in raw]),
        "target_parameters": sorted(raw.values()) or None,
        "rank_pattern": {_exactly(titles[name]): value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {_exactly(titles[name]): value for name, value in alphas.items() if value != alpha},
        "modules_to_save": None if _bias(model) != "none" else _trained_modules(model) or None,
    }


def beyond_peft(model: nn.Module) -> list[str]:
    """Why PEFT could not apply this adapter, or would compute something else; empty where it can."""
    reasons = []
    layers = adapted_layers(model)
    attentions = peft_names(model)
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    if len({tuple(layer.lora_method.peft or ()) for layer in layers.values()}) > 1:
        reasons.append("PEFT has one method for all layers")
    for name, layer in layers.items():
        if name in attentions:
            reasons.append(f"{name}: PEFT adapts attentions as a whole, and out_proj with twice the update")
        elif layer.lora_method.peft is None:
            reasons.append(f"{name}: PEFT does not have {layer.lora_method.title}")
        elif isinstance(layer, LoRALayer):
            reasons += [f"{name}: {reason}" for reason in layer.not_in_peft()]
        if places[id(layer)] > 1:
            reasons.append(f"{name}: PEFT adapts only one of the places this layer stands at")
    reasons += beyond_wrappers(model, trained_tensors(model))
    trained = trained_tensors(model) if _bias(model) == "none" else {}
    modules = dict(model.named_modules())
    for owner in dict.fromkeys(name.rpartition(".")[0] for name in trained):
        module = modules[owner]
        own = {f"{owner}.{name}" for name in own_tensors(module)}
        whole = not isinstance(module, LowRank) and not any(module.children()) and own <= trained.keys()
        alone = not any(other != owner and other.endswith(owner) for other in modules)
        if not (owner and whole and alone):
            reasons.append(f"{owner or 'the model'}: PEFT saves whole innermost modules only")
    return reasons


def settings_from_peft(
    config: Any, ranks: Mapping[str, int], theirs: Mapping[str, str], raw: Mapping[str, tuple[str, str]]
) -> dict[str, LoRAConfig]:
    """Settings of each layer of an adapter that PEFT wrote.

    Args:
        config: the contents of `adapter_config.json`.
        ranks: rank of each adapter, as the tensors show it.
        theirs: as from `peft_names`.
        raw: as from `peft_parameters.unwrap`.

    Raises:
        ValueError: the adapter is of another type, or uses what is not supported here.
    """
    check_options(config)
    patterns = config.get("alpha_pattern") or {}
    if isinstance(patterns, dict):
        patterns = {plain_regex(str(pattern)): alpha for pattern, alpha in patterns.items()}
    if not isinstance(patterns, dict):
        raise ValueError(f"alpha_pattern = {patterns!r} is not a table")
    settings = {}
    for name, rank in ranks.items():
        title = ".".join(raw[name]) if name in raw else theirs.get(name, name)
        alpha = next(
            (a for p, a in patterns.items() if _peft_pattern(p, title) or _peft_pattern(p, without_words(title))),
            config.get("lora_alpha", 8),
        )
        if name in theirs and not name.endswith(IN_PROJ):
            alpha *= _times_of_out_proj(str(config.get("peft_version", "")))
        settings[name] = LoRAConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=config.get("lora_dropout") or 0.0,
            use_rslora=bool(config.get("use_rslora")),
            **{s: value for m in METHODS.values() for s, value in (m.peft or {}).items() if config.get(s)},
        )
    return settings


def lost_layer(model: nn.Module, config: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """A layer that `target_modules` of PEFT's settings means and that has no tensors in the file.

    Not checked where PEFT's further rules (exclusion, numbers of layers) choose among the layers.
    """
    targets = config.get("target_modules")
    if not targets or targets == "all-linear" or config.get("exclude_modules") or config.get("layers_to_transform"):
        return None
    targets = plain_names(model, targets) if isinstance(targets, list) else plain_regex(str(targets))
    names = set(names)
    kinds = (*linear_types(), nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)
    saved = config.get("modules_to_save") or ()
    for name, module in model.named_modules():
        if not name or not isinstance(module, kinds) or name in names or not matches(name, targets):
            continue
        steps = name.split(".")
        if not any(matches(".".join(steps[:end]), saved) for end in range(1, len(steps) + 1)):
            return name
    return None


def _peft_pattern(pattern: str, name: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({pattern})$", name) is not None
    except re.error as error:
        raise ValueError(f"alpha_pattern: {pattern!r} is not a regular expression ({error})") from None


def _times_of_out_proj(version: str) -> int:
    # PEFT applied this update twice whenever it ran, trained or merged the model (huggingface/peft pull request
    # 3774, open when this was written): what the file's owner measured is the doubled one.
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) > _LAST_PEFT_WITH_TWICE:
        raise ValueError(
            f"it adapts nn.MultiheadAttention and is of PEFT {version}; PEFT up to 0.21 applied the update of out_proj"
            " twice, and what this one does is not known"
        )
    return 2


def _alpha(layer: LowRank, use_rslora: bool) -> float:
    alpha, rank = layer.lora_alpha, layer.r * layer.lora_method.peft_rank
    if rank != layer.r or layer.use_rslora != use_rslora:  # PEFT has one switch for all layers, and sees 2r
        alpha = layer.scaling * (math.sqrt(rank) if use_rslora else rank)
    return int(alpha) if math.isfinite(alpha) and alpha == int(alpha) else alpha


def _target_modules(model: nn.Module, names: list[str]) -> list[str] | str:
    # PEFT matches a list by its last parts too: 'fc' would take 'head.fc' along.
    taken = {name for name, _ in model.named_modules() if name and matches(name, names)}
    return sorted(names) if taken == set(names) else "|".join(re.escape(name) for name in sorted(names))


def _bias(model: nn.Module) -> str:
    """PEFT's setting where exactly the biases it means are trained, and nothing else of the base."""
    trained, layers = set(trained_tensors(model)), adapted_layers(model)
    every = {name for name, _ in model.named_parameters() if name.endswith("bias")}
    if not trained:
        return "none"
    if trained == {f"{name}.bias" for name in layers} & every:
        return "lora_only"
    return "all" if trained == every else "none"


def _trained_modules(model: nn.Module) -> list[str]:
    return sorted({name.rpartition(".")[0] for name in trained_tensors(model)})


def _exactly(name: str) -> str:
    return f"^{re.escape(name)}"


def _most_common(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]
