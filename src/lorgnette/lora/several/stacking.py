"""The factors of several adapters beside each other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lorgnette.lora.layers.base import LowRank
from lorgnette.lora.layers.method import PLAIN
from lorgnette.lora.layers.parameter import LoRAParameter
from lorgnette.lora.surgery import Places


def stacked(known: Mapping[str, Places], place: str, names: list[str]) -> tuple[LowRank, Tensor, Tensor]:
    """The factors of one place in several adapters, with zeros up to the largest rank and in those without it.

    Returns:
        An adapter of this place, the first factors `(len(names), *A.shape)`, and the second ones, times the factor
        before `B A`.
    """
    there = {name: known[name][place] for name in names if place in known[name]}
    like = next(iter(there.values()))
    down, up = like.rank_axes
    factors = {name: scaled_factors(adapter) for name, adapter in there.items()}
    rank = max(A.shape[down] for A, _ in factors.values())
    A0, B0 = next(iter(factors.values()))
    for name in names:
        factors.setdefault(name, (A0.narrow(down, 0, 0), B0.narrow(up, 0, 0)))
    filled = [(_filled(A.to(A0), down, rank), _filled(B.to(B0), up, rank)) for A, B in map(factors.__getitem__, names)]
    return like, torch.stack([A for A, _ in filled]), torch.stack([B for _, B in filled])


def scaled_factors(adapter: LowRank) -> tuple[Tensor, Tensor]:
    """The factors whose product is the whole update: the factor before it is in the second one."""
    A, B = adapter.factors()
    return A, B * adapter.scaling


def check_linear(caller: str, name: str, places: Places) -> None:
    """Refuse what is not the base plus `B A`."""
    for place, adapter in places.items():
        if not adapter.lora_method.linear:
            why = "is no product of two factors" if adapter.lora_method.merges else "depends on the input"
            raise ValueError(f"{caller}: {name!r} has {adapter.lora_method.title} at {place!r}, whose update {why}")


def holder(like: LowRank, A: Tensor, B: Tensor) -> LowRank:
    """An adapter of the same place with these factors, whose product is the whole update."""
    made = LowRank.__new__(LoRAParameter if isinstance(like, LoRAParameter) else LowRank)
    nn.Module.__init__(made)
    if isinstance(made, LoRAParameter) and isinstance(like, LoRAParameter):
        made.parameter, made.rows = like.parameter, like.rows
    made.lora_A, made.lora_B = (nn.Parameter(factor.detach().clone()) for factor in (A, B))
    made.lora_alpha, made.lora_dropout, made.use_rslora = float(made.r), 0.0, False
    made.lora_enabled, made.lora_method = True, PLAIN
    return made


def _filled(factor: Tensor, axis: int, rank: int) -> Tensor:
    shape = list(factor.shape)
    shape[axis] = rank - factor.shape[axis]
    return torch.cat([factor, factor.new_zeros(shape)], axis)
