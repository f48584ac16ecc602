"""The settings of a low-rank adapter, under PEFT's names. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from lorgnette.common.text import nearest

_PER_LAYER = ("r", "lora_alpha", "lora_dropout", "use_rslora", "init_lora_weights", "lora_dtype")
_PER_LAYER += ("use_dora", "freeze_lora_A", "dynamic_rank", "method")


SHORT = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
"""Shorter names of settings, which every call takes as well."""
CLASS = "class:"


@dataclass(frozen=True)
class LoRAConfig:
    """Which layers get an adapter, and of which rank and strength.

    An adapted layer computes `W x + s B A x` with `A: (r, in)`, `B: (out, r)` and `s = lora_alpha / r`
    (Hu et al., LoRA, arXiv 2106.09685).

    Raises:
        ValueError: a setting is out of range; one line names it.
    """

    r: int = 8
    """Rank of the update; at least 1, and it may exceed the size of a layer."""
    lora_alpha: float = 8
    """Strength of the update: it is scaled by lora_alpha / r. A negative one takes it away; 0 switches it off, so that
    nothing is learnt."""
    lora_dropout: float = 0.0
    """Dropout, in [0, 1), on the input of the low-rank path."""
    target_modules: list[str] | str | None = None
    """Layers to adapt: a list of names (whole, or their last dotted parts), one regular expression for
    the whole name, or 'all-linear'. 'class:Conv2d' stands for all layers of a class, in Python the class itself too."""
    exclude_modules: list[str] | str | None = None
    """Layers to leave alone: names or one regular expression, as in target_modules."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Other ranks for some layers: regular expression for the end of the name -> r. First match wins."""
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    """Other strengths for some layers: regular expression for the end of the name -> lora_alpha. First match wins."""
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further settings for some layers: regular expression for the end of the name -> any of r, lora_alpha,
    lora_dropout, use_rslora, use_dora, init_lora_weights, freeze_lora_A, dynamic_rank, method, lora_dtype. First match
    wins; it overrides rank_pattern and alpha_pattern."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) instead (Kalajdzievski, arXiv 2312.03732)."""
    use_dora: bool = False
    """Learn the length of each output's weights apart from their direction (DoRA, Liu et al., arXiv 2402.09353)."""
    init_lora_weights: bool | str = True
    """How the factors start: true (A Kaiming uniform) or 'gaussian' (A of deviation 1 / r), both with B = 0;
    from the base's strongest singular vectors by 'pissa' (arXiv 2404.02948) or faster by 'pissa_niter_N', or from
    its QR decomposition by 'olora' (arXiv 2406.01775)."""
    freeze_lora_A: bool = False
    """Train B alone, which needs no input of the layer in the backward pass (LoRA-FA, arXiv 2308.03303)."""
    dynamic_rank: bool = False
    """Let the input decide, token by token or pixel by pixel, which of the r directions are used, by a trained gate.
    Linear layers and convolutions only; such an adapter cannot be merged."""
    method: str | None = None
    """Name of the method in `lorgnette.lora.layers.tables.METHODS`; null: the one that the settings above ask for."""
    lora_dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None
    """Type of the factors; null: float32, or float64 on a float64 base."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases to train with the adapters: none, all of the model, or those of the adapted layers."""
    target_parameters: list[str] | str | None = None
    """Raw parameters to adapt, of modules that read them by effective_parameter: names or one regular
    expression, as in target_modules."""
    slices: dict[str, list[str]] = field(default_factory=dict)
    """Parts of some layers to adapt instead of the whole: regular expression for the end of the name -> parts.
    Of a fused projection 'q', 'k', 'v' or rows such as '0:64'; of an attention also 'in_proj', 'out_proj'."""
    modules_to_save: list[str] | None = None
    """Names of base modules that are trained whole; they are saved and come back with the adapter."""
    if TYPE_CHECKING:  # the same as r, lora_alpha and lora_dropout, as inject_lora calls them
        rank: int = 8
        alpha: float = 8
        dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "target_modules", _without_classes(self.target_modules))
        for name in ("target_modules", "exclude_modules", "target_parameters", "modules_to_save"):
            value = getattr(self, name)
            if isinstance(value, (tuple, set, frozenset)):
                object.__setattr__(self, name, sorted(value) if not isinstance(value, tuple) else list(value))
        _check_rank("lora.r", self.r)
        _check_alpha("lora.lora_alpha", self.lora_alpha)
        if not _is_number(self.lora_dropout) or not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora.lora_dropout: {self.lora_dropout!r} is not in [0, 1); 0.05 is usual")
        for name in ("target_modules", "exclude_modules", "target_parameters"):
            _check_names(f"lora.{name}", getattr(self, name))
        if isinstance(self.modules_to_save, str):
            raise ValueError(
                f"lora.modules_to_save: {self.modules_to_save!r} is a name, not a list of names;"
                f" [{self.modules_to_save!r}] works"
            )
        _check_names("lora.modules_to_save", self.modules_to_save)
        for pattern, parts in self.slices.items():
            _check_regex("lora.slices", pattern)
            if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
                raise ValueError(f"lora.slices[{pattern!r}]: {parts!r} is not a list of parts such as ['q', 'v']")
        _check_choice("lora.lora_dtype", self.lora_dtype, (None, "float32", "bfloat16", "float16", "float64"))
        _check_choice("lora.bias", self.bias, ("none", "all", "lora_only"))
        for pattern, changes in self.overrides.items():
            _check_regex("lora.overrides", pattern)
            _check_override(pattern, changes)
        for pattern, rank in self.rank_pattern.items():
            _check_regex("lora.rank_pattern", pattern)
            _check_rank(f"lora.rank_pattern[{pattern!r}]", rank)
        for pattern, alpha in self.alpha_pattern.items():
            _check_regex("lora.alpha_pattern", pattern)
            _check_alpha(f"lora.alpha_pattern[{pattern!r}]", alpha)
        if self.init_lora_weights not in (True, "gaussian") and not starts_from_base(self.init_lora_weights):
            raise ValueError(
                f"lora.init_lora_weights: {self.init_lora_weights!r} is not known;"
                " true, 'gaussian', 'pissa', 'pissa_niter_4' or 'olora' work"
            )
        if starts_from_base(self.init_lora_weights) and not self.lora_alpha > 0:
            raise ValueError(
                f"lora.lora_alpha: {self.lora_alpha!r} does not go with lora.init_lora_weights"
                f" {self.init_lora_weights!r}, whose factors are divided by its root; once or twice lora.r is usual"
            )
        asked = [setting for setting in ("method", "dynamic_rank", "use_dora") if getattr(self, setting)]
        if starts_from_base(self.init_lora_weights):
            asked.append(f"init_lora_weights {self.init_lora_weights!r}")
        if len(asked) > 1:
            raise ValueError(f"lora.{asked[0]}: does not go together with {asked[1]}")

    @property
    def scaling(self) -> float:
        """The factor `s` before `B A x`."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


def _with_short_names(init: Callable[..., None]) -> Callable[..., None]:
    @wraps(init)
    def taking_both(self: LoRAConfig, *settings: Any, **named: Any) -> None:
        for short in SHORT.keys() & named.keys():
            if SHORT[short] in named:
                raise ValueError(f"lora.{SHORT[short]}: given twice, as {SHORT[short]} and as {short}")
            named[SHORT[short]] = named.pop(short)
        init(self, *settings, **named)

    return taking_both


LoRAConfig.__init__ = _with_short_names(LoRAConfig.__init__)
for _short, _name in SHORT.items():
    setattr(LoRAConfig, _short, property(attrgetter(_name)))


def _without_classes(targets: Any) -> Any:
    """Targets with the names of classes instead of the classes themselves."""
    many = isinstance(targets, list | tuple | set | frozenset)
    named = [CLASS + t.__name__ if isinstance(t, type) else t for t in (targets if many else [targets])]
    return type(targets)(named) if many else named[0]


def starts_from_base(init: object) -> bool:
    """Whether factors of this `init_lora_weights` start as a part of the base."""
    if not isinstance(init, str):
        return False
    return re.fullmatch(r"olora|pissa|pissa_niter_\d{1,3}", init) is not None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_rank(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: {value!r} is not a whole number of at least 1; 8 is usual")


def _check_alpha(name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name}: {value!r} is not a number; once or twice lora.r is usual")


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        known = ", ".join("null" if choice is None else repr(choice) for choice in choices)
        raise ValueError(f"{name}: {value!r} is not known; {known} work")


def _check_override(pattern: str, changes: object) -> None:
    name = f"lora.overrides[{pattern!r}]"
    if not isinstance(changes, dict) or not changes:
        raise ValueError(f"{name}: {changes!r} is not a table such as {{'r': 4, 'lora_dropout': 0.1}}")
    for setting in changes:
        if setting not in _PER_LAYER:
            raise ValueError(f"{name}: {setting!r} is no setting of a layer{nearest(str(setting), _PER_LAYER)}")
    try:
        LoRAConfig(**changes)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _check_regex(name: str, pattern: object) -> None:
    try:
        re.compile(pattern)  # type: ignore[call-overload]
    except (re.error, TypeError) as error:
        raise ValueError(f"{name}: {pattern!r} is not a regular expression ({error})") from None


def _check_names(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, str):
        return _check_regex(name, value)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"{name}: {value!r} is not a list of names such as ['to_q', 'to_v']")
