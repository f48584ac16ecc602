"""The decoder as a function of tensors alone, for export: what follows from the places of voxels is an input."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.systems.mesh.model import SLatMeshDecoder, WindowedAttention
from lorgnette.systems.mesh.structure import Bucket, Structure


class Places(NamedTuple):
    """What a decoder needs to know of where N voxels of one batch item lie; `places` makes it."""

    coords: Tensor
    """(N, 4)"""
    neighbours: Tensor
    """(N, 27)"""
    children: Tensor
    """(8 N, 27): the neighbours of the voxels divided once."""
    grandchildren: Tensor
    """(64 N, 27): and twice."""
    voxels: Tensor
    """(W, L): the voxels of each window, filled up."""
    inside: Tensor
    """(W, L): which of them are no filling."""
    place: Tensor
    """(N,): where each voxel stands among them."""
    shifted_voxels: Tensor
    """(W', L): the same of the shifted windows."""
    shifted_inside: Tensor
    shifted_place: Tensor


def places(model: SLatMeshDecoder, coords: Tensor) -> Places:
    """The inputs of a `Trunk` that follow from (N, 4) coordinates of one batch item.

    Raises:
        ValueError: coordinates of several items, or that do not fit the model.
    """
    structure = model.structure(coords)
    if len(structure.items) > 1:
        raise ValueError(f"coords: {len(structure.items)} batch items; an exported decoder takes one at a time")
    first, second = structure.children, structure.children.children
    plain, shifted = (_one_bucket(structure, side, shift) for side, shift in (_windows(model)[0], _windows(model)[-1]))
    return Places(coords, structure.neighbours, first.neighbours, second.neighbours, *plain, *shifted)


class Trunk(nn.Module):
    """`SLatMeshDecoder.features` for one batch item: (N, latent) features and `Places` -> (64 N, 53 or 101) values.

    N and the numbers of windows may differ from call to call. Merge adapters before: `merge_lora_weights`.
    """

    def __init__(self, model: SLatMeshDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, feats: Tensor, *given: Tensor) -> Tensor:
        told: Any = _Given(Places(*given), _windows(self.model))
        return self.model.values(told, feats)


class _Given:
    """Stands in for a `Structure` whose tables came as tensors."""

    def __init__(self, own: Places, windows: list[tuple[int, int]], level: int = 0) -> None:
        self._own, self._windows, self._level = own, windows, level
        self.coords, self.neighbours = own.coords, own[1 + level]
        self.items = [slice(None)]

    @property
    def children(self) -> _Given:
        return _Given(self._own, self._windows, self._level + 1)

    def windows(self, side: int, shift: int) -> tuple[list[Bucket], Tensor]:
        if (side, shift) == self._windows[0]:
            return [Bucket(self._own.voxels, self._own.inside)], self._own.place
        return [Bucket(self._own.shifted_voxels, self._own.shifted_inside)], self._own.shifted_place


def _windows(model: SLatMeshDecoder) -> list[tuple[int, int]]:
    """(side, shift) of even and odd blocks."""
    attentions = [module for module in model.modules() if isinstance(module, WindowedAttention)]
    return list(dict.fromkeys((attention.side, attention.shift) for attention in attentions))


def _one_bucket(structure: Structure, side: int, shift: int) -> tuple[Tensor, Tensor, Tensor]:
    """All windows filled up to the longest."""
    buckets, place = structure.windows(side, shift)
    longest = max(bucket.voxels.shape[1] for bucket in buckets)
    voxels, inside, moved, before, rows = [], [], place.clone(), 0, 0
    for bucket in buckets:
        count, length = bucket.voxels.shape
        kept = bucket.inside if bucket.inside is not None else torch.ones_like(bucket.voxels, dtype=torch.bool)
        voxels.append(torch.cat([bucket.voxels, bucket.voxels[:, :1].expand(-1, longest - length)], 1))
        inside.append(F.pad(kept, (0, longest - length)))
        mine = (place >= before) & (place < before + count * length)
        local = place[mine] - before
        moved[mine] = (rows + local // length) * longest + local % length
        before, rows = before + count * length, rows + count
    return torch.cat(voxels), torch.cat(inside), moved
