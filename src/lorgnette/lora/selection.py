"""Which layers of a model get an adapter. Names and patterns mean what PEFT means; a miss is an error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from lorgnette.lora.config import CLASS, LoRAConfig
from lorgnette.lora.layers.base import LowRank
from lorgnette.lora.layers.parameter import part_name
from lorgnette.lora.layers.tables import layer_types, linear_types
from lorgnette.lora.targets import Target, is_foreign, parts_of, why_not
from lorgnette.lora.wrappers import plain_names, plain_regex

Chooser = Callable[[str, nn.Module], "bool | LoRAConfig | None"]

_KINDS = "nn.Linear, nn.Embedding, nn.MultiheadAttention and (transposed) convolutions"


def select_layers(model: nn.Module, config: LoRAConfig, choose: Chooser | None = None) -> dict[str, Target]:
    """The adapters that `config` asks for, each with its own settings.

    A list of names matches whole names or their last dotted parts (`to_q` is not `to_qkv`); a string is a
    regular expression for the whole name; `'all-linear'` is every `nn.Linear`. A layer that stands at several
    places of the model counts once, under its first name. Layers inside `modules_to_save` are left out.

    Args:
        model: any module; the module itself is not a candidate, only what it contains.
        config: the settings.
        choose: decides instead of `target_modules`: called with (name, module) for every layer that may be
            adapted; a `LoRAConfig` as its answer gives the settings of this layer.

    Returns:
        Name of each adapter to be (the layer's own, or one for each part of it), in the order of the model.

    Raises:
        ValueError: a pattern matches nothing, or a chosen layer cannot be adapted.
    """
    config = _without_wrappers(model, config)
    modules = _named_modules(model)
    layers = {name: module for name, module in modules.items() if isinstance(module, layer_types())}
    places: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(name)
    left_out = _excluded(model, config, modules, layers)

    chosen: dict[str, LoRAConfig] = {}
    for name, answer in _answers(model, config, choose, modules, layers):
        if name in left_out or not answer:
            continue
        chosen[places[id(layers[name])][0]] = answer if isinstance(answer, LoRAConfig) else config
    targets: dict[str, Target] = {}
    titles: dict[str, tuple[str, ...]] = {}  # what patterns may call an adapter
    for layer, settings in chosen.items():
        slices = next((parts for p, parts in config.slices.items() if _pattern_matches(p, layer)), None)
        for name, target in parts_of(layer, layers[layer], settings, slices).items():
            if name not in left_out:
                targets[name], titles[name] = target, (name, target.owner, layer)
    raw = _parameter_targets(model, config)
    targets |= raw
    titles |= {name: (name, _parameter_name(target)) for name, target in raw.items()}
    if not targets:
        raise ValueError(f"lora.target_modules: no layer of {_title(model)} is chosen{_it_has(layers, '')}")
    known = dict(model.named_modules())
    for name, target in targets.items():
        parents = [model.get_submodule(place.rpartition(".")[0]) for place in places[id(known[target.owner])] if place]
        if reason := why_not(name, target, known, parents):
            if name in raw:
                raise ValueError(f"lora.target_parameters: {_parameter_name(target)!r} {reason}")
            raise ValueError(
                f"lora.target_modules: {target.owner!r} {reason};"
                f" leave it out with lora.exclude_modules: [{target.owner!r}]"
            )
        if target.settings is config:
            targets[name] = target._replace(settings=_settings_of(titles[name], config))
    for field in ("rank_pattern", "alpha_pattern", "overrides"):
        _check_patterns(f"lora.{field}", getattr(config, field), titles)
    _check_patterns("lora.slices", config.slices, {name: (name,) for name in chosen})
    return targets


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
    for pattern in plain_names(model, config.modules_to_save or []):
        found = {name: module for name, module in modules.items() if matches(name, [pattern])}
        if not found:
            raise ValueError(
                f"lora.modules_to_save: {pattern!r} matches no module of {_title(model)}{_it_has(modules, pattern)}"
            )
        saved |= found
    return saved


def _without_wrappers(model: nn.Module, config: LoRAConfig) -> LoRAConfig:
    """The settings, where their names are those of a wrapped model."""
    changes: dict[str, Any] = {}
    for field in ("target_modules", "exclude_modules", "target_parameters"):
        rule = getattr(config, field)
        changes[field] = plain_names(model, rule) if isinstance(rule, list) else rule and plain_regex(rule)
    for field in ("rank_pattern", "alpha_pattern", "overrides", "slices"):
        changes[field] = {plain_regex(pattern): value for pattern, value in getattr(config, field).items()}
    return replace(config, **changes)


def _parameter_targets(model: nn.Module, config: LoRAConfig) -> dict[str, Target]:
    rules = config.target_parameters
    if rules is None:
        return {}
    saved = {id(child) for module in saved_modules(model, config).values() for child in module.modules()}
    names = {
        f"{owner}.{name}" if owner else name: (owner, name, parameter)
        for owner, module in model.named_modules()
        if not isinstance(module, LowRank) and id(module) not in saved
        for name, parameter in module._parameters.items()
        if parameter is not None
    }
    owners = {name: model.get_submodule(owner) for name, (owner, *_) in names.items()}
    raw = [name for name, owner in owners.items() if not (is_foreign(owner) or isinstance(owner, layer_types()))]
    targets = {}
    for rule in [rules] if isinstance(rules, str) else [[name] for name in rules]:
        found = [name for name in names if matches(name, rule)]
        if isinstance(rule, str):  # it sweeps over whatever lies between
            found = [name for name in found if name in raw and 2 <= names[name][2].dim() <= 4]
        if not found:
            pattern = rule if isinstance(rule, str) else rule[0]
            raise ValueError(
                f"lora.target_parameters: {pattern!r} matches no parameter of {_title(model)} that can be adapted"
                f"{_it_has(raw, pattern, 'raw parameter')}"
            )
        for owner, name, _ in map(names.__getitem__, found):
            part = part_name(name)
            targets[f"{owner}.{part}" if owner else part] = Target(owner, config, name)
    return targets


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
    elif targets is None and config.target_parameters is not None:
        return
    elif targets is None:
        raise ValueError(f"lora.target_modules: not set{_it_has(layers, '')}; 'all-linear' takes every nn.Linear")
    elif targets == "all-linear":
        yield from ((name, isinstance(layer, linear_types())) for name, layer in layers.items())
    else:
        rules = [targets] if isinstance(targets, str) else targets
        kinds = {rule.removeprefix(CLASS) for rule in rules if rule.startswith(CLASS)}
        of_kind = {name: kinds & {parent.__name__ for parent in type(layer).__mro__} for name, layer in layers.items()}
        if missing := kinds.difference(*of_kind.values()):
            raise ValueError(
                f"lora.target_modules: no layer of {_title(model)} is of class {min(missing)}{_it_has(layers, '')}"
            )
        for pattern in rules:
            if not pattern.startswith(CLASS):
                _check_target(model, targets if isinstance(targets, str) else [pattern], pattern, modules, layers)
        yield from ((name, bool(of_kind[name]) or matches(name, targets)) for name in layers)


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


def _settings_of(titles: Iterable[str], config: LoRAConfig) -> LoRAConfig:
    def chosen(patterns: Mapping[str, Any], default: Any) -> Any:
        found = (value for p, value in patterns.items() if any(_pattern_matches(p, title) for title in titles))
        return next(found, default)

    rank, alpha = chosen(config.rank_pattern, config.r), chosen(config.alpha_pattern, config.lora_alpha)
    return replace(config, **({"r": rank, "lora_alpha": alpha} | chosen(config.overrides, {})))


def _check_patterns(setting: str, patterns: Iterable[str], titles: Mapping[str, Iterable[str]]) -> None:
    for pattern in patterns:
        if not any(_pattern_matches(pattern, title) for names in titles.values() for title in names):
            raise ValueError(f"{setting}: {pattern!r} matches no adapted layer{_it_has(titles, pattern)}")


def _parameter_name(target: Target) -> str:
    return f"{target.owner}.{target.parameter}" if target.owner else str(target.parameter)


def _pattern_matches(pattern: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _named_modules(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules(remove_duplicate=False) if name}


def _title(model: nn.Module) -> str:
    return type(model).__name__


def _it_has(names: Iterable[str], wanted: str, kinds: str = _KINDS) -> str:
    """`"; it has 'to_qkv', 'to_out'"`: the last parts of the names there are, the most similar first."""
    short = list(dict.fromkeys(_last_part(name) for name in names))
    if not short:
        return f"; it has no {kinds.replace(' and ', ' or ')} inside"
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
