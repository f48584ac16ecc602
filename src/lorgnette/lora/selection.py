"""Which layers of a model get an adapter. Names and patterns mean what PEFT means; a miss is an error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.layers import LAYERS, LoRALayer, adapted_class

Chooser = Callable[[str, nn.Module], "bool | LoRAConfig | None"]

_KINDS = " and ".join(f"nn.{kind.__name__}" for kind in LAYERS)


def select_layers(model: nn.Module, config: LoRAConfig, choose: Chooser | None = None) -> dict[str, LoRAConfig]:
    """The layers that `config` chooses, each with its own settings.

    A list of names matches whole names or their last dotted parts (`to_q` is not `to_qkv`); a string is a
    regular expression for the whole name; `'all-linear'` is every `nn.Linear`. A layer that stands at several
    places of the model counts once, under its first name. Layers inside `modules_to_save` are left out.

    Args:
        model: any module; the module itself is not a candidate, only what it contains.
        config: the settings.
        choose: decides instead of `target_modules`: called with (name, module) for every layer that may be
            adapted; a `LoRAConfig` as its answer gives the settings of this layer.

    Returns:
        Name of each chosen layer, in the order of the model, with its settings.

    Raises:
        ValueError: a pattern matches nothing, or a chosen layer cannot be adapted.
    """
    modules = _named_modules(model)
    layers = {name: module for name, module in modules.items() if isinstance(module, tuple(LAYERS))}
    places: dict[int, list[str]] = {}
    for name, layer in layers.items():
        places.setdefault(id(layer), []).append(name)
    left_out = _excluded(model, config, modules, layers)

    chosen: dict[str, LoRAConfig] = {}
    for name, answer in _answers(model, config, choose, modules, layers):
        if name in left_out or not answer:
            continue
        first = places[id(layers[name])][0]
        chosen[first] = answer if isinstance(answer, LoRAConfig) else _settings_of(first, config)
    if not chosen:
        raise ValueError(f"lora.target_modules: no layer of {_title(model)} is chosen{_it_has(layers, '')}")
    for name in chosen:
        parents = [model.get_submodule(place.rpartition(".")[0]) for place in places[id(layers[name])]]
        if reason := why_not(layers[name], parents):
            raise ValueError(
                f"lora.target_modules: {name!r} {reason}; leave it out with lora.exclude_modules: [{name!r}]"
            )
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, field):
            if not any(_pattern_matches(pattern, name) for name in chosen):
                raise ValueError(f"lora.{field}: {pattern!r} matches no adapted layer{_it_has(chosen, pattern)}")
    return chosen


def matches(name: str, patterns: Iterable[str] | str) -> bool:
    """PEFT's rules: a list matches whole names or last dotted parts, a string is a full regex."""
    if isinstance(patterns, str):
        return re.fullmatch(patterns, name) is not None
    return any(name == pattern or name.endswith(f".{pattern}") for pattern in patterns)


def saved_modules(model: nn.Module, config: LoRAConfig) -> dict[str, nn.Module]:
    """The modules that `modules_to_save` names.

    Raises:
        ValueError: a name matches no module.
    """
    modules = _named_modules(model)
    saved: dict[str, nn.Module] = {}
    for pattern in config.modules_to_save or ():
        found = {name: module for name, module in modules.items() if matches(name, [pattern])}
        if not found:
            raise ValueError(
                f"lora.modules_to_save: {pattern!r} matches no module of {_title(model)}{_it_has(modules, pattern)}"
            )
        saved |= found
    return saved


def why_not(layer: nn.Module, parents: Iterable[nn.Module] = ()) -> str | None:
    """Why a layer cannot be adapted, or None."""
    if isinstance(layer, LoRALayer):
        return "is adapted already: merge_lora_weights or unload_lora comes first"
    if adapted_class(type(layer)) is None or "forward" in vars(layer):
        return f"({type(layer).__name__}) has a forward of its own, which would pass the adapter by"
    weight = layer._parameters.get("weight")
    if weight is None:
        return "computes its weight (a parametrisation, weight norm or pruning), so that an update has no place"
    if isinstance(weight, UninitializedParameter):
        return "has no weight yet: run one batch through the model first"
    if not weight.is_floating_point():
        return f"has a {str(weight.dtype).removeprefix('torch.')} weight"
    for parent in parents:
        if isinstance(parent, nn.MultiheadAttention):
            return "is read raw by nn.MultiheadAttention, which would pass the adapter by"
        fused = type(parent).forward is nn.TransformerEncoderLayer.forward
        if isinstance(parent, nn.TransformerEncoderLayer) and fused:
            return "is read raw by nn.TransformerEncoderLayer in evaluation, which would pass the adapter by"
    return None


def _answers(
    model: nn.Module,
    config: LoRAConfig,
    choose: Chooser | None,
    modules: dict[str, nn.Module],
    layers: dict[str, nn.Module],
) -> Iterator[tuple[str, bool | LoRAConfig | None]]:
    targets = config.target_modules
    if choose is not None:
        for name, layer in layers.items():
            yield name, choose(name, layer)
    elif targets is None:
        raise ValueError(f"lora.target_modules: not set{_it_has(layers, '')}; 'all-linear' takes every nn.Linear")
    elif targets == "all-linear":
        yield from ((name, isinstance(layer, nn.Linear)) for name, layer in layers.items())
    else:
        for pattern in [targets] if isinstance(targets, str) else targets:
            _check_target(model, targets if isinstance(targets, str) else [pattern], pattern, modules, layers)
        yield from ((name, matches(name, targets)) for name in layers)


def _check_target(
    model: nn.Module,
    rule: list[str] | str,
    pattern: str,
    modules: dict[str, nn.Module],
    layers: dict[str, nn.Module],
) -> None:
    found = [name for name in modules if matches(name, rule)]
    good = [name for name in found if name in layers]
    # A bare name speaks of each layer it names; a regular expression sweeps over whatever lies between.
    foreign = [name for name in found if name not in layers and next(modules[name].parameters(False), None) is not None]
    if good and not (isinstance(rule, list) and foreign):
        return
    start = f"lora.target_modules: {pattern!r} matches"
    if foreign or (found and not good):
        name = (foreign or found)[0]
        kind = type(modules[name]).__name__
        inside = [other for other in layers if other.startswith(f"{name}.")]
        hint = f"; inside it is {inside[0]!r}" if inside else ""
        raise ValueError(f"{start} {name!r}, a {kind}; only {_KINDS} can be adapted{hint}{_it_has(layers, pattern)}")
    hint = ""
    if isinstance(rule, str) and any(matches(name, [pattern]) for name in layers):
        hint = f"; a string is a regular expression for the whole name, the list [{pattern!r}] works"
    raise ValueError(f"{start} no layer of {_title(model)}{hint}{_it_has(layers, pattern)}")


def _excluded(
    model: nn.Module, config: LoRAConfig, modules: dict[str, nn.Module], layers: dict[str, nn.Module]
) -> set[str]:
    rules = config.exclude_modules or []
    excluded: set[str] = set()
    for rule in [rules] if isinstance(rules, str) else [[name] for name in rules]:
        found = {name for name in layers if matches(name, rule)}
        if not found:
            pattern = rule if isinstance(rule, str) else rule[0]
            raise ValueError(
                f"lora.exclude_modules: {pattern!r} matches no layer of {_title(model)}{_it_has(layers, pattern)}"
            )
        excluded |= found
    inside = {id(child) for module in saved_modules(model, config).values() for child in module.modules()}
    return excluded | {name for name, layer in layers.items() if id(layer) in inside}


def _settings_of(name: str, config: LoRAConfig) -> LoRAConfig:
    rank = next((r for p, r in config.rank_pattern.items() if _pattern_matches(p, name)), config.r)
    alpha = next((a for p, a in config.alpha_pattern.items() if _pattern_matches(p, name)), config.lora_alpha)
    return replace(config, r=rank, lora_alpha=alpha)


def _pattern_matches(pattern: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _named_modules(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules(remove_duplicate=False) if name}


def _title(model: nn.Module) -> str:
    return type(model).__name__


def _it_has(names: Iterable[str], wanted: str) -> str:
    """`"; it has 'to_qkv', 'to_out'"`: the last parts of the names there are, the most similar first."""
    short = list(dict.fromkeys(_last_part(name) for name in names))
    if not short:
        return f"; it has no {_KINDS.replace(' and ', ' or ')} inside"
    if wanted:
        short.sort(key=lambda name: -difflib.SequenceMatcher(None, name, wanted).ratio())
    more = f" and {len(short) - 8} more" if len(short) > 8 else ""
    return "; it has " + ", ".join(repr(name) for name in short[:8]) + more


def _last_part(name: str) -> str:
    parts = name.split(".")
    start = len(parts) - 1
    while start > 0 and parts[start].isdigit():  # '0' alone says nothing: 'to_out.0'
        start -= 1
    return ".".join(parts[start:])
