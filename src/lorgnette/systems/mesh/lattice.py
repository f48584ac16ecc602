"""The corners of active cubes, the ring of empty cubes around them, and which empty regions are closed off.

All of it follows from where the active cubes lie, whatever their values.
"""

from __future__ import annotations

from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
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
        block = next(b for b in (4, 2, 1) if self._fills(b))
        low = self.cubes.min(0).values // block - 1
        active, ring = (torch.div(c, block, rounding_mode="floor") - low for c in (self.cubes, self.ring))
        empty = torch.ones((active.max(0).values + 2).tolist(), dtype=torch.bool)
        empty[tuple(active.long().cpu().unbind(1))] = False
        labels = torch.from_numpy(_label(empty.numpy()))
        return (labels[tuple(ring.long().cpu().unbind(1))] - 1).long().to(self.cubes.device)

    @cached_property
    def regions(self) -> int:
        return int(self.region.max()) + 1

    def _ring(self, vertex_keys: Tensor) -> Tensor:
        open_keys = vertex_keys[self.cubes_at[:, 0] < 8]
        around = torch.cat([open_keys - s for s in _STEPS]).unique()
        return around[find(self.sorted_cubes, around) == len(self.sorted_cubes)]

    def _fills(self, block: int) -> bool:
        """Whether the active cubes are whole blocks, so that regions may be told apart block by block."""
        in_block = torch.unique(keys(self.cubes // block), return_counts=True)[1]
        return bool((in_block == block**3).all())


def _label(empty: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Numbers of the face-connected regions of True, from 1 on in the order of their first cell; 0 elsewhere."""
    try:
        from scipy import ndimage
    except ImportError:
        raise ValueError("meshes need the package scipy: pip install 'lorgnette[mesh]'") from None
    labels, _ = cast("tuple[NDArray[np.int32], int]", ndimage.label(empty))
    return labels
