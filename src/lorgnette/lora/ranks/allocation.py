"""Spread a budget of parameters over the layers, by how much the loss would gain from each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorgnette.common.text import table
from lorgnette.lora.checks import restored
from lorgnette.lora.layers.parameter import LoRAParameter, Site, sites
from lorgnette.lora.ranks.resizing import Resized, resize
from lorgnette.lora.wrappers import unwrapped


@dataclass(frozen=True)
class AllocationRow:
    """One adapter and its share."""

    name: str
    old: int
    """Rank now."""
    new: int
    """Rank by the allocation."""
    unit: int
    """Scalars of one rank of it; 0 where an earlier row has the same factors."""
    gain: float
    """Part of the squared gradient of this weight that an update of the new rank can follow, in [0, 1]."""


@dataclass(frozen=True)
class Allocation:
    """A rank for each adapter of a model."""

    rows: tuple[AllocationRow, ...]
    """In the order of the model."""
    budget: int
    """The most parameters there may be."""

    @property
    def parameters(self) -> int:
        """Scalars of all factors at the new ranks; at most the budget."""
        return sum(row.new * row.unit for row in self.rows)

    @property
    def ranks(self) -> dict[str, int]:
        """Name of each adapter -> rank, for `resize`."""
        return {row.name: row.new for row in self.rows}

    @property
    def rank_pattern(self) -> dict[str, int]:
        """The same for `LoRAConfig.rank_pattern`."""
        return {f"^{re.escape(row.name)}": row.new for row in self.rows}

    def apply(self, model: nn.Module) -> Resized:
        """Give the adapters of the model these ranks: see `resize`."""
        return resize(model, self.ranks)

    def __str__(self) -> str:
        """A table for people."""
        rows = []
        for row in self.rows:
            count = f"{row.new * row.unit:,}" if row.unit else "shared"
            rows.append((row.name, f"{row.old} -> {row.new}", count, f"{row.gain:.1%}"))
        text = table(("adapter", "rank", "parameters", "of its gradient"), rows, left=2)
        return f"{text}\n{self.parameters:,} parameters of {self.budget:,}"


def allocate(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    budget: int | None = None,
    mean_rank: float | None = None,
    seed: int = 0,
) -> Allocation:
    """Spread a budget of parameters over the adapters by the gradient of the loss; the model is not changed.

    To first order, an update of rank k that follows the gradient G of a weight lowers the loss in proportion to the
    sum of the k largest squared singular values of G, times the square of the factor before `B A`. So each further
    rank goes where the next of them is largest for its parameters. It holds for every kind of adapter, stacks and
    slices included, and asks what the adapters could do from where they are: call it before training. AdaLoRA
    (arXiv 2303.10512) prunes by a similar sensitivity while training.

    Each adapter gets rank 1 at least, and no more than its weight has. The gradients of all adapted weights are held
    at once, in float32 or the weights' own dtype if that is wider. The model is in evaluation mode meanwhile.

    Args:
        model: with adapters, whose ranks do not matter here.
        batches: a few batches of the training data.
        loss: `loss(model, batch)`, a scalar.
        budget: scalars of all factors together; or give
        mean_rank: the rank that every adapter would have at the same cost.
        seed: of random numbers that the model or the loss draws.

    Raises:
        ValueError: no adapter, no batch, a loss that is not finite or does not depend on the adapted weights, DoRA, a
            start that is kept (PiSSA, OLoRA), or a budget below rank 1 for every adapter.
    """
    with unwrapped(model) as inner:
        found = sites(inner)
    if not found:
        raise ValueError(f"allocate: {type(model).__name__} has no adapter; inject_lora comes first")
    for name, site in found.items():
        method = site.adapter.lora_method
        if method.tensors:
            raise ValueError(f"allocate: {name!r} has {method.title}; only plain LoRA can be allocated")
    units = _units(found)
    budget = _budget(budget, mean_rank, units)
    spectra = {}
    gradients = _gradients(model, found, batches, loss, seed)
    for name, site in found.items():
        spectra[name] = _spectrum(site, gradients[id(site.weight)])
    ranks = _spread(units, spectra, budget, _owners(found))
    rows = []
    for name, site in found.items():
        whole = float(spectra[name].sum())
        gain = float(spectra[name][: ranks[name]].sum()) / whole if whole else 0.0
        rows.append(AllocationRow(name, site.adapter.r, ranks[name], units[name], gain))
    return Allocation(tuple(rows), budget)


def _owners(found: dict[str, Site]) -> dict[str, str]:
    """For each adapter the first that has the same factors."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(site.adapter.lora_A), name) for name, site in found.items()}


def _units(found: dict[str, Site]) -> dict[str, int]:
    """Scalars of one rank of each adapter; shared factors count at the first."""
    units = {}
    for name, first in _owners(found).items():
        adapter = found[name].adapter
        units[name] = (adapter.lora_A.numel() + adapter.lora_B.numel()) // adapter.r if name == first else 0
    return units


def _budget(budget: int | None, mean_rank: float | None, units: dict[str, int]) -> int:
    least = sum(units.values())
    if (budget is None) == (mean_rank is None):
        raise ValueError("allocate: give either budget, in parameters, or mean_rank")
    setting, value = ("budget", budget) if mean_rank is None else ("mean_rank", mean_rank)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"allocate: {setting} {value!r} is not a number")
    total = int(value if mean_rank is None else value * least)
    if total < least:
        raise ValueError(f"allocate: {setting} {value!r} is too small: rank 1 everywhere takes {least:,} parameters")
    return total


def _gradients(
    model: nn.Module,
    found: dict[str, Site],
    batches: Iterable[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    seed: int,
) -> dict[int, Tensor]:
    """The mean gradient of each adapted weight over the batches, by the weight's id."""
    weights = list({id(site.weight): site.weight for site in found.values()}.values())
    sums = [torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) for w in weights]
    count = 0
    with restored(model), torch.enable_grad():
        torch.manual_seed(seed)
        model.eval()
        for weight in weights:
            weight.requires_grad_(True)
        for batch in batches:
            value = loss(model, batch)
            if not torch.isfinite(value).all():
                raise ValueError(f"allocate: the loss of batch {count} is {float(value.detach()):g}")
            if not value.requires_grad:
                raise ValueError("allocate: the loss does not depend on the adapted weights")
            for total, gradient in zip(sums, torch.autograd.grad(value, weights, allow_unused=True), strict=True):
                if gradient is not None:
                    total += gradient.to_dense() if gradient.is_sparse else gradient
            count += 1
    if not count:
        raise ValueError("allocate: there is no batch")
    return {id(weight): total / count for weight, total in zip(weights, sums, strict=True)}


def _spectrum(site: Site, gradient: Tensor) -> Tensor:
    """The squared singular values of a gradient, falling; of a stack, the sums over its matrices."""
    adapter = site.adapter
    if isinstance(adapter, LoRAParameter):
        matrix = gradient if adapter.rows is None else gradient[adapter.rows[0] : adapter.rows[1]]
    else:
        matrix = gradient.flatten(1)
    matrix = matrix.double() * adapter.scaling  # what is scaled learns faster
    small = matrix @ matrix.mT if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT @ matrix
    values = torch.linalg.eigvalsh(small).flip(-1).clamp(min=0)
    return values.reshape(-1, values.shape[-1]).sum(0).cpu()


def _spread(units: dict[str, int], spectra: dict[str, Tensor], budget: int, owners: dict[str, str]) -> dict[str, int]:
    gains = {name: spectra[name] for name in units if units[name]}
    ranks = dict.fromkeys(gains, 1)
    left = budget - sum(units.values())
    while True:
        able = [name for name in ranks if units[name] <= left and ranks[name] < len(gains[name])]
        if not able:
            return {name: ranks[owner] for name, owner in owners.items()}
        best = max(able, key=lambda name: float(gains[name][ranks[name]]) / units[name])
        ranks[best] += 1
        left -= units[best]
