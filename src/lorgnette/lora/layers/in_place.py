"""Existing modules get another class in place: hooks, ties and references to them stay valid."""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any, ClassVar

from torch import nn

_STORED = ("forward", "_old_forward")  # the second is where accelerate's hooks keep what they call
_LOADING = "_lora_loading"
HOOK = "_hf_hook"
"""Where accelerate's hooks keep themselves on a layer."""


class InPlace(nn.Module):
    """A module class that existing modules are turned into; to be combined with their class, never used alone."""

    base_class: ClassVar[type[nn.Module]]
    """What the module was before, and becomes again."""
    goes_first: ClassVar[bool] = True
    """Whether its forward comes before that of a sub-class of `base_class`; otherwise after, reached by `super()`."""
    _title: ClassVar[str] = "LoRA"
    """What the name of the class begins with."""
    _general: ClassVar[type[InPlace] | None] = None
    """Of a class made at run time: the class it was made from."""

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        # The class of an adapted sub-class is made at run time: pickle and deepcopy make it again.
        kind = type(self)
        return _empty, (kind._general or kind, kind.base_class), self.__dict__

    def __setattr__(self, name: str, value: Any) -> None:
        # A tool that copies a layer and gives the copy another weight (fusing, pruning) does not know of the adapter.
        old = vars(self).get("_parameters", {}).get(name)
        swapped = type(old) is type(value) is nn.Parameter and old is not value and not old.is_meta
        if swapped and self._adapts(name) and not vars(self).get(_LOADING):
            raise ValueError(
                f"the {name} of an adapted {self.base_class.__name__} cannot be replaced: its adapter was made for the"
                f" one it has; merge_lora_weights or unload_lora comes first ({name}.data.copy_ keeps the adapter)"
            )
        super().__setattr__(name, self._hooked(value) if name == HOOK else value)

    def _hooked(self, hook: Any) -> Any:
        """What is kept of a hook of accelerate's."""
        return hook

    def _adapts(self, parameter: str) -> bool:
        """Whether this module has an adapter of one of its parameters."""
        return False

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        vars(self)[_LOADING] = True  # with assign=True it replaces weights
        try:
            super()._load_from_state_dict(*args, **kwargs)
        finally:
            del vars(self)[_LOADING]


def turn_into(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give a module another class in place, and its stored forwards (see `stored_forwards`) those of that class."""
    stored = stored_forwards(module)
    # Tensors that torch.nn.utils.parametrize computes are properties of a class made for this module.
    computed = module._modules.get("parametrizations")
    if computed is not None and not all(isinstance(getattr(kind, name, None), property) for name in computed._modules):
        members = {name: value for name, value in vars(type(module)).items() if name not in ("__dict__", "__weakref__")}
        kind = type(f"Parametrized{kind.__name__}", (kind,), members)
    module.__class__ = kind
    for name in stored:
        vars(module)[name] = MethodType(kind.forward, module)


def turn_back(module: InPlace) -> None:
    """Give a module its own class again, in place."""
    turn_into(module, type(module).base_class)


def stored_forwards(module: nn.Module) -> list[str]:
    """Attributes of a module in which others keep the forward of its class, as a method bound to it.

    accelerate's hooks do: what they call follows the class of the module then.
    """
    return [
        name
        for name in _STORED
        if isinstance(stored := vars(module).get(name), MethodType)
        and stored.__self__ is module
        and stored.__func__ is type(module).forward
    ]


def has_own_forward(module: nn.Module) -> bool:
    """Whether calling a module runs something else than the forward of its class, so that a new class has no say."""
    if "forward" not in vars(module):
        return False
    stored = stored_forwards(module)
    hooked = HOOK in vars(module) and "_old_forward" in stored
    return not (hooked or "forward" in stored)


@functools.cache
def specialise(adapted: type[InPlace], base: type[nn.Module]) -> type[InPlace]:
    """The adapted form of a layer class or of a sub-class of it."""
    if getattr(adapted, "base_class", None) is base:
        return adapted
    members: dict[str, Any] = {"base_class": base, "_general": adapted, "__module__": base.__module__}
    if becomes := getattr(base, "cls_to_become", None):  # a lazily made layer, once it knows its sizes
        members["cls_to_become"] = specialise(adapted, becomes)
    bases = (adapted, base) if adapted.goes_first else (base, adapted)
    return type(f"{adapted._title}{base.__name__}", bases, members)


def _empty(adapted: type[InPlace], base: type[nn.Module]) -> nn.Module:
    kind = specialise(adapted, base)
    return kind.__new__(kind)
