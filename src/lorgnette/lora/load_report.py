"""What a load found: which tensors had their place, and what differed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from lorgnette.common.text import nearest
from lorgnette.lora.layers.parameter import is_part
from lorgnette.lora.layers.tables import adapter_tensors


@dataclass(frozen=True)
class LoadReport:
    """What a load found. Names are those of `model.state_dict()`."""

    loaded: tuple[str, ...] = ()
    """Tensors that were taken over."""
    missing: tuple[str, ...] = ()
    """Tensors the model's adapter has and the state has not."""
    unexpected: Mapping[str, str] = field(default_factory=dict)
    """Tensors of the state that have no place in the model, each with a hint at the nearest name that has."""
    mismatched: Mapping[str, str] = field(default_factory=dict)
    """Tensors of another shape, rank or strength, each with what differs."""
    base: str | None = None
    """How the model differs from the base the adapter was made for: '' not at all, None unknown."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What `save_adapter` was given to keep."""

    @property
    def complete(self) -> bool:
        """Whether everything had its place (the base is another matter)."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        found = {
            "missing": [repr(name) for name in self.missing],
            "unexpected": [f"{name!r}{hint}" for name, hint in self.unexpected.items()],
            "of another size or strength": [f"{name!r} {what}" for name, what in self.mismatched.items()],
        }
        parts = [
            f"{len(items)} {title} ({', '.join(items[:4])}{', ...' if len(items) > 4 else ''})"
            for title, items in found.items()
            if items
        ]
        return "; ".join(parts) or f"{len(self.loaded)} tensors loaded"


def compare(
    wanted: Mapping[str, tuple[int, ...]],
    given: Mapping[str, tuple[int, ...]],
    missing: Collection[str],
    unexpected: Collection[str],
    conflicts: Mapping[str, str],
) -> LoadReport:
    """The report on tensors `given` for a model that has `wanted`; names in `given` are all in `wanted`."""
    mismatched = dict(conflicts)
    for name, shape in given.items():
        if shape != wanted[name]:
            mismatched[name] = _difference(name, shape, wanted[name])
    # One factor without the other is worse than neither.
    broken = {name.rpartition(".")[0] for name in (*mismatched, *missing) if is_factor(name)}
    loaded = [
        name for name in given if name not in mismatched and not (is_factor(name) and name.rpartition(".")[0] in broken)
    ]
    candidates = [name for name in wanted if is_factor(name)] or list(wanted)
    return LoadReport(
        loaded=tuple(loaded),
        missing=tuple(missing),
        unexpected={name: nearest(name, candidates) for name in unexpected},
        mismatched=mismatched,
    )


def is_factor(name: str) -> bool:
    """Whether a tensor of this name is one of an adapter's."""
    return name.rpartition(".")[2] in adapter_tensors()


def _difference(name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    owner, _, factor = name.rpartition(".")
    axis = {"lora_A": 0, "lora_B": 1}.get(factor)
    if axis is not None and len(given) == len(wanted) > axis:
        axis += len(given) - 2 if is_part(owner) else 0  # a part may be a stack
        others = [i for i in range(len(given)) if i != axis]
        if all(given[i] == wanted[i] for i in others):
            return f"has rank {given[axis]}, the model {wanted[axis]}"
    return f"is {_size(given)}, in the model {_size(wanted)}"


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
