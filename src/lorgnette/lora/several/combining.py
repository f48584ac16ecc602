"""Adapters made of several others: weighted sums, and all brought to one form for quick switching."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from lorgnette.lora.layers.base import LowRank
from lorgnette.lora.ranks.resizing import Resized, ResizedRow, resize_adapter
from lorgnette.lora.several.named import all_adapters, check_known, check_new, keep, shelf_of
from lorgnette.lora.several.stacking import check_linear, holder, scaled_factors, stacked
from lorgnette.lora.surgery import Places, put_in, take_out
from lorgnette.lora.wrappers import on_unwrapped


@on_unwrapped
@torch.no_grad()
def combine(model: nn.Module, weights: Mapping[str, float], name: str, r: int | None = None) -> Resized:
    """Add an adapter that is a weighted sum of others: its update is the sum of theirs, each times its weight.

    The factors stand side by side, so that the sum is exact and its rank the sum of the ranks.

    Args:
        model: with these adapters.
        weights: name -> weight; it may be negative.
        name: of the new adapter; the active one stays active.
        r: the largest rank to keep, as by `resize`; None keeps all.

    Returns:
        What keeping no more than `r` lost at each place; empty where nothing was.

    Raises:
        ValueError: an unknown name, a name that is taken, a weight that is no number, or an adapter with DoRA, whose
            updates do not add up. Nothing was changed.
    """
    known = all_adapters(model)
    check_new("combine", name, model)
    if not weights:
        raise ValueError("combine: no adapter is named; {'a': 0.7, 'b': 0.3} is usual")
    if r is not None and (not isinstance(r, int) or isinstance(r, bool) or r < 1):
        raise ValueError(f"combine: r {r!r} is not a whole number of at least 1")
    for other, weight in weights.items():
        check_known("combine", other, known)
        check_linear("combine", other, known[other])
        if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not math.isfinite(weight):
            raise ValueError(f"combine: weight {weight!r} of {other!r} is not a number")
    parts: dict[str, list[tuple[LowRank, float]]] = {}
    for other, weight in weights.items():
        for place, adapter in known[other].items():
            parts.setdefault(place, []).append((adapter, weight))
    made: Places = {}
    rows = []
    for place, terms in parts.items():
        down, up = terms[0][0].rank_axes
        scaled = [(A, B * weight) for adapter, weight in terms for A, B in [scaled_factors(adapter)]]
        dtype, device = scaled[0][0].dtype, scaled[0][0].device
        A = torch.cat([A.to(device, dtype) for A, _ in scaled], down)
        B = torch.cat([B.to(device, dtype) for _, B in scaled], up)
        made[place] = holder(terms[0][0], A, B)
        if r is not None and made[place].r > r:
            whole = made[place].r
            rows.append(ResizedRow(place, whole, r, resize_adapter(made[place], [made[place]], r)))
    shelf = shelf_of(model)
    shelf.aside[name] = made
    shelf.aligned = False
    keep(model, shelf)
    return Resized(tuple(rows))


@on_unwrapped
@torch.no_grad()
def align_adapters(model: nn.Module) -> None:
    """Give all adapters the same places, ranks and settings, so that `set_adapter` writes values in place.

    Then a compiled model switches without being compiled again. At each place the rank becomes the largest of all
    adapters', the others being filled up with zeros; the factor before `B A` goes into B; dropout is none. No
    update changes, but the adapters are frozen: align what was trained. An adapter that is added later is not
    aligned: call this again.

    Raises:
        ValueError: there is no adapter, or one has DoRA.
    """
    known = all_adapters(model)
    if not known:
        raise ValueError(f"align_adapters: {type(model).__name__} has no adapter; add_adapter comes first")
    for name, places in known.items():
        check_linear("align_adapters", name, places)
    stacks = {
        place: stacked(known, place, list(known)) for place in dict.fromkeys(p for a in known.values() for p in a)
    }
    shelf = shelf_of(model)
    active = shelf.active or next(iter(known))
    for i, name in enumerate(known):
        shelf.aside[name] = {place: holder(like, A[i], B[i]) for place, (like, A, B) in stacks.items()}
        for adapter in shelf.aside[name].values():
            adapter.requires_grad_(False)
    take_out(model)
    put_in(model, shelf.aside.pop(active))
    shelf.active, shelf.aligned = active, True
    keep(model, shelf)
