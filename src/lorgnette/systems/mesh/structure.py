"""Where the voxels of a sparse grid lie, and what follows from that alone: neighbours, windows, children."""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lorgnette.systems.mesh.keys import LIMIT, find, keys, step
from lorgnette.systems.mesh.lattice import Lattice

TAPS = 27
"""Voxels of a 3 x 3 x 3 neighbourhood; tap 9 a + 3 b + c lies at (a, b, c) - 1, and tap 26 - t opposite to tap t."""


class Bucket(NamedTuple):
    """Windows of about the same number of voxels."""

    voxels: Tensor
    """(W, L): the voxels of each window; short ones are filled up with their own first voxel."""
    inside: Tensor | None
    """(W, L): which of them are no filling. None: all."""


class Structure:
    """The voxels of a batch. What is asked of it is computed once and kept.

    Args:
        coords: (N, 4) integers, each row (batch item, x, y, z), sorted by the item; no row twice.

    Raises:
        ValueError: another shape or type, coordinates outside [0, `LIMIT`), items out of order, a voxel twice.
    """

    def __init__(self, coords: Tensor) -> None:
        if coords.ndim != 2 or coords.shape[1] != 4 or coords.dtype.is_floating_point or not len(coords):
            raise ValueError(f"coords: {tuple(coords.shape)} {coords.dtype} must be (N, 4) integers, N > 0")
        if int(coords.min()) < 0 or int(coords.max()) >= LIMIT:
            raise ValueError(f"coords: values must lie in [0, {LIMIT}), not {int(coords.min())} to {int(coords.max())}")
        if bool((coords[1:, 0] < coords[:-1, 0]).any()):
            raise ValueError("coords: rows must be sorted by the batch item, their first column")
        self.coords = coords
        sorted_keys = self._sorted[0]
        if bool((sorted_keys[1:] == sorted_keys[:-1]).any()):
            raise ValueError("coords: a voxel is named twice")
        self._windows: dict[tuple[int, int], tuple[list[Bucket], Tensor]] = {}

    def __len__(self) -> int:
        return len(self.coords)

    @cached_property
    def items(self) -> list[slice]:
        """The rows of each batch item that has any."""
        stops = torch.unique_consecutive(self.coords[:, 0], return_counts=True)[1].cumsum(0).tolist()
        return [slice(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]

    @cached_property
    def _sorted(self) -> tuple[Tensor, Tensor]:
        return torch.sort(keys(self.coords))

    @cached_property
    def neighbours(self) -> Tensor:
        """(N, 27) int32: the row of each neighbour, N where there is none."""
        sorted_keys, order = self._sorted
        n, own = len(self), keys(self.coords)
        table = torch.full((n, TAPS), n, dtype=torch.int32, device=own.device)
        rows = torch.arange(n, dtype=torch.int32, device=own.device)
        table[:, TAPS // 2] = rows
        for tap in range(TAPS // 2):
            a, b, c = offset(tap)
            there = find(sorted_keys, own + step(a - 1, b - 1, c - 1))
            here = there < n
            found = order[there[here]]
            table[here, tap] = found.int()
            table[found, TAPS - 1 - tap] = rows[here]
        return table

    @cached_property
    def children(self) -> Structure:
        """Each voxel divided into eight: (8 N) rows, those of one voxel side by side, z fastest."""
        corners = torch.cartesian_prod(*[torch.arange(2, device=self.coords.device)] * 3)
        moved = torch.cat([torch.zeros_like(corners[:, :1]), corners], 1).to(self.coords.dtype)
        doubled = self.coords * torch.tensor([1, 2, 2, 2], device=self.coords.device, dtype=self.coords.dtype)
        return Structure((doubled[:, None] + moved).flatten(0, 1))

    @cached_property
    def lattices(self) -> list[Lattice]:
        """The corners of the voxels of each batch item, and what surrounds them."""
        return [Lattice(self.coords[rows, 1:]) for rows in self.items]

    def windows(self, side: int, shift: int) -> tuple[list[Bucket], Tensor]:
        """Voxels by cubic windows of a batch item.

        Args:
            side: of a window in voxels; 0: each batch item is one window.
            shift: added to the coordinates before they are divided.

        Returns:
            Buckets whose windows are filled up by at most a quarter, and (N,) the place of each voxel among their rows,
            W times L of each bucket, one bucket after the other.
        """
        if (side, shift) not in self._windows:
            self._windows[side, shift] = self._grouped(side, shift)
        return self._windows[side, shift]

    def _grouped(self, side: int, shift: int) -> tuple[list[Bucket], Tensor]:
        window = self.coords.clone()
        window[:, 1:] = (window[:, 1:] + shift) // side if side else 0
        _, of_voxel, counts = torch.unique(keys(window), return_inverse=True, return_counts=True)
        order, starts = torch.argsort(of_voxel, stable=True), counts.cumsum(0) - counts
        finest = (counts.float().log2().floor() - 2).clamp(min=0).exp2().long()
        ceiling = -(-counts // finest) * finest
        buckets, place, before = [], torch.empty_like(order), 0
        for length in ceiling.unique().tolist():
            chosen = (ceiling == length).nonzero().squeeze(1)
            longest = int(counts[chosen].max())
            column = torch.arange(longest, device=order.device)
            inside = column < counts[chosen, None]
            voxels = order[starts[chosen, None] + column * inside]
            row = torch.arange(before, before + inside.numel(), device=order.device).view_as(inside)
            place[voxels[inside]] = row[inside]
            before += inside.numel()
            buckets.append(Bucket(voxels, None if bool(inside.all()) else inside))
        return buckets, place


def offset(tap: int) -> tuple[int, int, int]:
    """(a, b, c) of a tap, each 0 to 2."""
    return tap // 9, tap // 3 % 3, tap % 3


class Structures:
    """The structures that were made last, found again by their coordinates: training meets the same organs again.

    Args:
        voxels: how many all of them may have together; each takes about ten kilobytes, with its children.
    """

    def __init__(self, voxels: int = 2**15) -> None:
        self._limit, self._kept = voxels, deque[Structure]()

    def __call__(self, coords: Tensor) -> Structure:
        for structure in self._kept:
            if structure.coords.device == coords.device and torch.equal(structure.coords, coords):
                return structure
        self._kept.append(Structure(coords))
        while len(self._kept) > 1 and sum(map(len, self._kept)) > self._limit:
            self._kept.popleft()
        return self._kept[-1]

    def __reduce__(self) -> tuple[type[Structures], tuple[int]]:
        return Structures, (self._limit,)  # a copy begins anew
