"""The corners of active cubes, the ring of empty cubes around them, and which empty regions are closed off.

All of it follows from where the active cubes lie, whatever their values.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lorgnette.systems.mesh.cube_cases import CORNERS
from lorgnette.systems.mesh.keys import find, keys, places, step

_STEPS = [step(*corner) for corner in CORNERS.tolist()]


class Lattice:
    """One batch item's active cubes in a grid, and their surroundings.

    Args:
        cubes: (N, 3) integers, no cube twice.

    Attributes:
        corners: (N, 8) int32, the number of each cube's corners.
        vertices: (V, 3) places of the corners, sorted.
        ring: (R, 3) empty cubes that share a corner with an active one.
        ring_corners: (R, 8) int32; numbers from V on are corners that no active cube has.
        far: (F, 3) places of those.
        region: (R,) which connected empty region a cube of the ring belongs to; 0 is the one outside of everything.
        regions: how many there are.
    """

    def __init__(self, cubes: Tensor) -> None:
        self.cubes = cubes
        own = keys(cubes)
        vertex_keys = own.unique()
        for s in _STEPS[1:]:  # one after the other: a whole organ's corners side by side would take a hundred megabytes
            vertex_keys = torch.cat([vertex_keys, own + s]).unique()
        self.corners = torch.stack([find(vertex_keys, own + s).int() for s in _STEPS], 1)
        self.vertices = places(vertex_keys).int()
        self.sorted_cubes, self.order = torch.sort(own)
        ring_keys = self._ring(vertex_keys)
        self.ring = places(ring_keys).int()
        self.ring_corners = torch.stack([find(vertex_keys, ring_keys + s).int() for s in _STEPS], 1)
        unknown = self.ring_corners == len(vertex_keys)
        all_keys = torch.stack([ring_keys + s for s in _STEPS], 1)
        far_keys = all_keys[unknown].unique()
        self.far = places(far_keys).int()
        self.ring_corners[unknown] += find(far_keys, all_keys[unknown]).int()

    @cached_property
    def cubes_at(self) -> Tensor:
        """(V, 1): of how many active cubes each vertex is a corner."""
        return torch.bincount(self.corners.flatten(), minlength=len(self.vertices))[:, None]

    @cached_property
    def region(self) -> Tensor:
        return self.region_of(self.ring)

    @cached_property
    def regions(self) -> int:
        return int(self.region.max()) + 1

    def region_of(self, cubes: Tensor) -> Tensor:
        """(..., 3) empty cubes anywhere -> (...) the region that each belongs to."""
        labels, block, low = self._labels
        last = torch.tensor(labels.shape, device=cubes.device) - 1
        place = torch.div(cubes, block, rounding_mode="floor") - low
        place = place.clamp(min=torch.zeros_like(last), max=last).long()
        return labels.to(cubes.device)[tuple(place.unbind(-1))] - 1

    @cached_property
    def _labels(self) -> tuple[Tensor, int, Tensor]:
        """Regions from 1 on, by blocks of cubes with a margin of empty ones; the blocks' size; the first block."""
        block = next(b for b in (4, 2, 1) if self._fills(b))
        low = self.cubes.min(0).values // block - 1
        active = (self.cubes // block - low).long().cpu()
        empty = torch.ones((active.max(0).values + 2).tolist(), dtype=torch.bool)
        empty[tuple(active.unbind(1))] = False
        labels, _ = ndimage().label(empty.numpy())
        return torch.from_numpy(labels).long(), block, low

    def _ring(self, vertex_keys: Tensor) -> Tensor:
        open_keys = vertex_keys[self.cubes_at[:, 0] < 8]
        around = torch.cat([open_keys - s for s in _STEPS]).unique()
        return around[find(self.sorted_cubes, around) == len(self.sorted_cubes)]

    def _fills(self, block: int) -> bool:
        """Whether the active cubes are whole blocks, so that regions may be told apart block by block."""
        in_block = torch.unique(keys(self.cubes // block), return_counts=True)[1]
        return bool((in_block == block**3).all())


def ndimage() -> Any:
    """SciPy's functions on volumes.

    Raises:
        ValueError: it is not installed.
    """
    try:
        from scipy import ndimage as found
    except ImportError:
        raise ValueError("the room mesh needs scipy: pip install 'lorgnette[mesh]'") from None
    return found
