"""Existing modules get another class in place: hooks, ties and references to them stay valid."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

from torch import nn


class InPlace(nn.Module):
    """A module class that existing modules are turned into; to be combined with their class, never used alone."""

    base_class: ClassVar[type[nn.Module]]
    """What the module was before, and becomes again."""
    goes_first: ClassVar[bool] = True
    """Whether its forward comes before that of a sub-class of `base_class`; otherwise after, reached by `super()`."""
    _general: ClassVar[type[InPlace] | None] = None
    """Of a class made at run time: the class it was made from."""

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        # The class of an adapted sub-class is made at run time: pickle and deepcopy make it again.
        kind = type(self)
        return _empty, (kind._general or kind, kind.base_class), self.__dict__


def turn_back(module: InPlace) -> None:
    """Give a module its own class again, in place."""
    module.__class__ = type(module).base_class  # type: ignore[assignment]


@functools.cache
def specialise(adapted: type[InPlace], base: type[nn.Module]) -> type[InPlace]:
    """The adapted form of a layer class or of a sub-class of it."""
    if adapted.base_class is base:
        return adapted
    members = {"base_class": base, "_general": adapted, "__module__": base.__module__}
    bases = (adapted, base) if adapted.goes_first else (base, adapted)
    return type(f"LoRA{base.__name__}", bases, members)


def _empty(adapted: type[InPlace], base: type[nn.Module]) -> nn.Module:
    kind = specialise(adapted, base)
    return kind.__new__(kind)
