"""Wrappers around a model or inside it (compiled, data-parallel, averaged): names do without them.

PyTorch's wrappers put a word of their own into every name below them, at any depth: `_orig_mod.`, `module.`. Within
`unwrapped` a model has the names that it has without them, so that what is saved from the one loads onto the other.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from torch import nn

from lorgnette.common.wrappers import WORDS, WRAPPERS

Function = TypeVar("Function", bound=Callable[..., Any])


def wrapped_by(module: nn.Module) -> nn.Module | None:
    """What a wrapper wraps; None for any other module."""
    for place, (kind, word) in WRAPPERS.items():
        if place in sys.modules and isinstance(module, getattr(sys.modules[place], kind)):
            return module._modules[word]
    return None


def bare(module: nn.Module) -> nn.Module:
    """A module without the wrappers around it."""
    while (inner := wrapped_by(module)) is not None:
        module = inner
    return module


@contextlib.contextmanager
def unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """Within this context a model is without its wrappers, around it and inside it; it must not be called there."""
    outer = [
        (parent, name, child)
        for parent in bare(model).modules()
        if wrapped_by(parent) is None
        for name, child in parent._modules.items()
        if child is not None and wrapped_by(child) is not None
    ]
    try:
        for parent, name, child in outer:
            parent._modules[name] = bare(child)
        yield bare(model)
    finally:
        for parent, name, child in outer:
            if parent._modules.get(name) is bare(child):
                parent._modules[name] = child


def on_unwrapped(function: Function) -> Function:
    """A function whose first argument is a model gets it without wrappers; where it returns it, they are on again."""

    @functools.wraps(function)
    def called(model: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(model, nn.Module):
            return function(model, *args, **kwargs)
        with unwrapped(model) as inner:
            result = function(inner, *args, **kwargs)
        return model if result is inner else result

    return cast("Function", called)


def plain_name(model: nn.Module, name: str) -> str:
    """The name that a tensor or module called `name` somewhere has in this model, which may be wrapped otherwise.

    Wrappers' words are left out or put in where the name means more of the model then.
    """
    return ".".join(_resolved(model, name.split("."), True)[1])


def plain_names(model: nn.Module, patterns: list[str]) -> list[str]:
    """Names, or their last parts, without wrappers' words; what means something as it is stays so."""
    names = [name for name, _ in model.named_modules()]

    def plain(pattern: str) -> str:
        if not set(WORDS) & set(pattern.split(".")) or any(f".{name}".endswith(f".{pattern}") for name in names):
            return pattern
        return ".".join(_resolved(model, pattern.split("."), False)[1])

    return [plain(pattern) for pattern in patterns]


def plain_regex(pattern: str) -> str:
    """A regular expression for names without the word that a compiled module puts into them."""
    return re.sub(r"_orig_mod\\*\.", "", pattern)


def _resolved(module: nn.Module, parts: list[str], put_in: bool) -> tuple[int, list[str]]:
    """How many parts of a name mean nothing in a module, and the name: that of the fewest."""
    if not parts:
        return 0, []
    head, *rest = parts
    found = []
    if (child := module._modules.get(head)) is not None:
        unknown, path = _resolved(child, rest, put_in)
        found.append((unknown, [head, *path]))
    elif head in module._parameters or head in module._buffers:
        return 0, parts
    if head in WORDS:
        found.append(_resolved(module, rest, put_in))
    elif child is None and put_in:
        for word in WORDS:
            if (inner := module._modules.get(word)) is not None and _leads_to(inner, head):
                unknown, path = _resolved(inner, parts, put_in)
                found.append((unknown, [word, *path]))
    if not found:  # a tensor of an adapter to be, or a word of PEFT's
        unknown, path = _resolved(module, rest, False)
        found.append((unknown + 1, [head, *path]))
    return min(found, key=lambda pair: pair[0])


def _leads_to(module: nn.Module, part: str) -> bool:
    if part in module._modules or part in module._parameters or part in module._buffers:
        return True
    return any(_leads_to(inner, part) for word in WORDS if (inner := module._modules.get(word)) is not None)
