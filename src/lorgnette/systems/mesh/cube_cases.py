"""Which edges of a cube belong to one piece of surface, for each of the 256 ways in which its corners lie in or out.

The pieces of dual marching cubes (Nielson, IEEE Visualization 2004): each face of the cube joins the crossed edges on
it in pairs, and the pairs close to loops. A face with four crossed edges joins them around its inner corners. Two cubes
that would meet there with one loop each share an edge of the surface twice; both are then taken by the other pairing
(Wenger, Isosurfaces, CRC Press 2013), which makes the surface manifold. All of it follows from the cube's shape.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

CORNERS = torch.tensor([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
"""(8, 3) places of the corners; x counts fastest."""

EDGES = torch.tensor([[0, 1], [1, 5], [4, 5], [0, 4], [2, 3], [3, 7], [6, 7], [2, 6], [2, 0], [3, 1], [7, 5], [6, 4]])
"""(12, 2) corners of the edges, in the order that published decoders number them."""

LOOPS = 4
"""Pieces of surface in a cube, at most."""

_FACES = [[c for c in range(8) if c >> axis & 1 == side] for axis in range(3) for side in (0, 1)]
_OUTWARD = [[(2 * side - 1) * (axis == a) for a in range(3)] for axis in range(3) for side in (0, 1)]


class Cases(NamedTuple):
    """Tables over the case of a cube, whose bit i says whether corner i lies inside."""

    loop_of_edge: Tensor
    """(256, 12): the piece that an edge belongs to, -1 where it is not crossed."""
    loops: Tensor
    """(256,): how many pieces there are."""
    meets: Tensor
    """(256, 3): the step to the neighbour with which the case must not meet; 0 where there is none."""

    def to(self, device: torch.device) -> Cases:
        """The tables on a device."""
        return Cases(*(table.to(device) for table in self))


@cache
def cases() -> Cases:
    """The tables, made once."""
    loops = [_loops(case) for case in range(256)]
    of_edge = torch.tensor([[_index(found, edge) for edge in range(12)] for found in loops])
    meets = torch.tensor([_double(case, found) for case, found in enumerate(loops)])
    return Cases(of_edge, torch.tensor([len(found) for found in loops]), meets)


def _loops(case: int) -> list[set[int]]:
    """Sets of edges, each a piece of surface."""
    found: list[set[int]] = []
    for face in range(6):
        for pair in _pairs(case, face):
            joined = [loop for loop in found if loop & pair]
            found = [loop for loop in found if not loop & pair] + [set(pair).union(*joined)]
    return sorted(found, key=min)


def _pairs(case: int, face: int) -> list[set[int]]:
    """The crossed edges of a face, two and two."""
    corners = _FACES[face]
    edges = {e: set(EDGES[e].tolist()) for e in range(12) if set(EDGES[e].tolist()) <= set(corners)}
    crossed = {e: ends for e, ends in edges.items() if len({case >> c & 1 for c in ends}) == 2}
    if len(crossed) < 4:
        return [set(crossed)] if crossed else []
    return [{e for e, ends in crossed.items() if c in ends} for c in corners if case >> c & 1]


def _double(case: int, loops: list[set[int]]) -> list[int]:
    """The way out through a face both of whose pairs belong to one piece."""
    for face in range(6):
        pairs = _pairs(case, face)
        if len(pairs) == 2 and any(pairs[0] | pairs[1] <= loop for loop in loops):
            return _OUTWARD[face]
    return [0, 0, 0]


def _index(loops: list[set[int]], edge: int) -> int:
    return next((i for i, loop in enumerate(loops) if edge in loop), -1)
