"""A dry run of `inject_lora`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from lorgnette.common.text import table
from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.layers.in_place import InPlace
from lorgnette.lora.layers.part import parts_of
from lorgnette.lora.layers.tables import method_of
from lorgnette.lora.selection import saved_modules, select_layers
from lorgnette.lora.surgery import Targets, settings_and_choice
from lorgnette.lora.targets import Target, shapes_of
from lorgnette.lora.wrappers import on_unwrapped


@dataclass(frozen=True)
class PlanRow:
    """One adapter to be."""

    name: str
    """The adapter's name: the layer's own, or that of a part of it."""
    type: str
    """Class of the layer; of a part, with the parameter and its rows."""
    shape: tuple[int, ...]
    """Of the weight, or of those of its rows that are adapted."""
    r: int
    """Rank."""
    scaling: float
    """The factor before `B A`."""
    parameters: int
    """Scalars of the two factors; 0 where an earlier row has the same weight and so the same factors."""
    weights: int
    """Scalars of the weight. An adapter with as many parameters saves nothing."""


@dataclass(frozen=True)
class Plan:
    """What `inject_lora` would make of a model with the same arguments."""

    rows: tuple[PlanRow, ...]
    """In the order of the model."""
    saved: int
    """Scalars of `modules_to_save`, trained whole."""
    total: int
    """Scalars of the model without adapters."""
    parts: int = 0
    """Scalars of parts that are adapters by themselves."""

    @property
    def parameters(self) -> int:
        """Scalars of all adapters."""
        return sum(row.parameters for row in self.rows) + self.parts

    def __str__(self) -> str:
        """A table for people."""
        header = ("adapter", "type", "shape", "rank", "scaling", "parameters", "of its weight")
        rows = []
        for row in self.rows:
            share = f"{row.parameters / row.weights:.1%}" if row.parameters else "shared"
            cells = ("x".join(map(str, row.shape)), str(row.r), f"{row.scaling:g}", f"{row.parameters:,}", share)
            rows.append((row.name, row.type, *cells))
        share = self.parameters / max(self.total, 1)
        said = f"{len(self.rows)} adapters, {self.parameters:,} parameters: {share:.2%} of {self.total:,}"
        if self.parts:
            said += f"\nof these {self.parts:,} in parts of the model that are adapters by themselves"
        if self.saved:
            said += f"\nmodules_to_save: {self.saved:,} parameters more"
        return f"{table(header, rows, left=2)}\n{said}"


@on_unwrapped
def plan(
    model: nn.Module,
    config: LoRAConfig | None = None,
    *,
    target_modules: Targets = None,
    rank: int | None = None,
    alpha: float | None = None,
) -> Plan:
    """What `inject_lora` would do with these arguments; the model is not changed.

    Raises:
        ValueError: what `inject_lora` would refuse.
    """
    config, choose = settings_and_choice(config, target_modules, rank=rank, alpha=alpha)
    seen: set[object] = set()
    rows = []
    for name, target in select_layers(model, config, choose).items():
        owner = model.get_submodule(target.owner)
        weight = owner.get_parameter(target.parameter or "weight")
        place = (id(weight), target.rows)
        frozen = method_of(target.settings).frozen
        trained = (shape for part, shape in shapes_of(target, owner).items() if part not in frozen)
        count = 0 if place in seen else sum(map(math.prod, trained))
        seen.add(place)
        rows_only = () if target.rows is None else (target.rows[1] - target.rows[0],)
        shape = (*rows_only, *weight.shape[len(rows_only) :])
        rows.append(
            PlanRow(
                name, _type(owner, target), shape, target.settings.r, target.settings.scaling, count, math.prod(shape)
            )
        )
    saved = {id(p): p.numel() for module in saved_modules(model, config).values() for p in module.parameters()}
    parts = sum(parameter.numel() for part in parts_of(model).values() for parameter in part.parameters())
    total = sum(parameter.numel() for parameter in model.parameters()) - parts
    return Plan(tuple(rows), sum(saved.values()), total, parts)


def _type(owner: nn.Module, target: Target) -> str:
    kind = (owner.base_class if isinstance(owner, InPlace) else type(owner)).__name__
    if target.parameter is None:
        return kind
    rows = "" if target.rows is None else f"[{target.rows[0]}:{target.rows[1]}]"
    return f"{kind}.{target.parameter}{rows}"
