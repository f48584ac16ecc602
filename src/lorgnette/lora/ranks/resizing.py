"""Change the rank of adapters: a larger rank keeps the update, a smaller one the strongest part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorgnette.common.text import nearest, table
from lorgnette.lora.layers.base import LowRank, adapted_layers
from lorgnette.lora.layers.parameter import LoRAParameter
from lorgnette.lora.wrappers import on_unwrapped


@dataclass(frozen=True)
class ResizedRow:
    """One adapter before and after."""

    name: str
    old: int
    """Rank before."""
    new: int
    """Rank after."""
    error: float
    """Of the update: Frobenius norm of what was lost, as a share of the whole. 0 where the rank grew."""


@dataclass(frozen=True)
class Resized:
    """What `resize` did."""

    rows: tuple[ResizedRow, ...]

    @property
    def error(self) -> float:
        """The largest of the errors."""
        return max((row.error for row in self.rows), default=0.0)

    def __str__(self) -> str:
        """A table for people."""
        rows = [(row.name, f"{row.old} -> {row.new}", f"{row.error:.2%}") for row in self.rows]
        return table(("adapter", "rank", "error"), rows, left=2)


@on_unwrapped
@torch.no_grad()
def resize(model: nn.Module, rank: int | Mapping[str, int]) -> Resized:
    """Give adapters another rank, in place; the factor before `B A` stays what it was.

    A larger rank adds random rows to A and zeros to B: the update stays the same, and so does the output, up to the
    rounding of longer sums. A smaller rank keeps the strongest part of the update (its truncated singular value
    decomposition, the best of that rank) and reports what was lost. Each matrix of a stack is treated by itself.

    The factors are new parameters: make a new optimiser.

    Args:
        model: with adapters.
        rank: for all of them, or by name; what is not named stays.

    Returns:
        A row for each adapter whose rank changed.

    Raises:
        ValueError: an unknown name, a rank below 1, or an adapter that keeps the factors it started from (PiSSA,
            OLoRA) or has a gate (`dynamic_rank`): these keep their rank. Nothing was changed.
    """
    layers = adapted_layers(model)
    wanted = dict(rank) if isinstance(rank, Mapping) else dict.fromkeys(layers, rank)
    if not layers:
        raise ValueError(f"resize: {type(model).__name__} has no adapter; inject_lora comes first")
    for name, new in wanted.items():
        if name not in layers:
            raise ValueError(f"resize: there is no adapter {name!r}{nearest(name, layers)}")
        if not isinstance(new, int) or isinstance(new, bool) or new < 1:
            raise ValueError(f"resize: rank {new!r} of {name!r} is not a whole number of at least 1")
        if layers[name].lora_method.fixed_rank and new != layers[name].r:
            raise ValueError(f"resize: {name!r} of rank {layers[name].r} {layers[name].lora_method.fixed_rank}")
    # Layers that share a weight share their factors: all of them get the new ones.
    shared: dict[int, list[LowRank]] = {}
    for module in model.modules():
        if isinstance(module, LowRank):
            shared.setdefault(id(module.lora_A), []).append(module)
    rows = []
    for name, new in wanted.items():
        layer = layers[name]
        if new == layer.r:
            continue
        rows.append(ResizedRow(name, layer.r, new, resize_adapter(layer, shared[id(layer.lora_A)], new)))
    return Resized(tuple(rows))


def resize_adapter(layer: LowRank, sharing: list[LowRank], new: int) -> float:
    """Give one adapter another rank, and those that share its factors; the relative error of its update."""
    old, scaling = layer.r, layer.scaling
    A, B = _matrices(layer)
    if new > old:
        kinds = A.shape[:-2]
        fresh = torch.empty(*kinds, new - old, A.shape[-1], dtype=A.dtype, device=A.device)
        bound = A.shape[-1] ** -0.5  # as at the start: each matrix has this fan in
        new_A = torch.cat([A, fresh.uniform_(-bound, bound)], -2)
        new_B = torch.cat([B, B.new_zeros(*kinds, B.shape[-2], new - old)], -1)
        error = 0.0
    else:
        new_A, new_B, error = _truncated(A, B, new)
    if not isinstance(layer, LoRAParameter):  # back in the shapes of the layer: (r, in, *kernel) and (out, r, 1, ...)
        new_A = new_A.reshape(new, *layer.lora_A.shape[1:])
        new_B = new_B.reshape(layer.lora_B.shape[0], new, *layer.lora_B.shape[2:])
    parameters = [
        nn.Parameter(factor.contiguous(), requires_grad=was.requires_grad)
        for factor, was in ((new_A, layer.lora_A), (new_B, layer.lora_B))
    ]
    for adapter in sharing:
        adapter.lora_A, adapter.lora_B = parameters
        adapter.scaling = scaling
    return error


def _matrices(layer: LowRank) -> tuple[Tensor, Tensor]:
    """The factors as (stacks of) matrices: (*stack, r, in) and (*stack, out, r)."""
    if isinstance(layer, LoRAParameter):
        return layer.lora_A, layer.lora_B
    return layer.lora_A.flatten(1), layer.lora_B.flatten(1)


def _truncated(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Factors of the best approximation of `B A` of a rank, both of the same size, and its relative error."""
    Q_B, R_B = torch.linalg.qr(B.double())
    Q_A, R_A = torch.linalg.qr(A.double().mT)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.mT)  # of the size of the ranks only
    kept = min(rank, S.shape[-1])
    root = S[..., :kept].sqrt()
    new_B = Q_B @ U[..., :kept] * root[..., None, :]
    new_A = root[..., None] * (Vh[..., :kept, :] @ Q_A.mT)
    missing = rank - kept  # the rank may exceed both sides
    new_B = torch.cat([new_B, new_B.new_zeros(*new_B.shape[:-1], missing)], -1)
    new_A = torch.cat([new_A, new_A.new_zeros(*new_A.shape[:-2], missing, new_A.shape[-1])], -2)
    whole = S.square().sum()
    error = float((S[..., kept:].square().sum() / whole).sqrt()) if whole else 0.0
    return new_A.to(A.dtype), new_B.to(B.dtype), error
