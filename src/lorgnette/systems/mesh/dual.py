"""Dual vertices of crossed cubes, and faces between them: the formulas of FlexiCubes (arXiv 2308.05371, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorgnette.systems.mesh.cube_cases import EDGES, cases
from lorgnette.systems.mesh.keys import find, step

_SCALE = 0.99
"""Weights stay that far within their ranges: (0, 2) for corners and edges, (0, 1) for a cube."""


@dataclass(frozen=True)
class Corners:
    """What is known at the corners of cubes: (C, 3) places, (C,) signed distances, (C, K) attributes or None."""

    places: Tensor
    distances: Tensor
    attributes: Tensor | None


@dataclass(frozen=True)
class Crossings:
    """Edges of cubes that the surface crosses, sorted by their cube: rows of cubes, (E, 2) corners, dual vertices."""

    cube: Tensor
    edge: Tensor
    ends: Tensor
    vertex: Tensor


def crossings(cube_keys: Tensor, corners: Tensor, distances: Tensor) -> Crossings:
    """The crossed edges of sorted cubes with (S, 8) `corners`, and which piece of surface each belongs to."""
    table = cases().to(corners.device)
    inside = distances[corners] < 0
    case = (inside << torch.arange(8, device=corners.device)).sum(1)
    meets = table.meets[case]
    doubtful = meets.any(1).nonzero().squeeze(1)
    moves = (meets[doubtful] * meets.new_tensor([step(1, 0, 0), step(0, 1, 0), step(0, 0, 1)])).sum(1)
    neighbour = find(cube_keys, cube_keys[doubtful] + moves)
    known = neighbour < len(cube_keys)
    double = doubtful[known][meets[neighbour[known]].any(1)]
    case[double] = 255 - case[double]
    first = table.loops[case].cumsum(0) - table.loops[case]
    loop = table.loop_of_edge[case]
    cube, edge = (loop >= 0).nonzero().unbind(1)
    ends = corners[cube[:, None], EDGES.to(corners.device)[edge]]
    return Crossings(cube, edge, ends, first[cube] + loop[cube, edge])


def dual_vertices(found: Crossings, corners: Corners, weights: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Weighted means of the crossings of each piece of surface.

    Args:
        found: the crossings.
        corners: of the cubes.
        weights: (S, 20) of each cube: 12 of its edges and 8 of its corners, before they are brought into their range.

    Returns:
        (V, 3) places, (V, K) attributes, and the mean of how much the distances from a vertex to its crossings vary.
    """
    weights = torch.tanh(weights) * _SCALE + 1
    of_edge = weights[found.cube, found.edge][:, None]
    of_ends = weights[found.cube[:, None], 12 + EDGES.to(weights.device)[found.edge]]
    ends = corners.distances[found.ends]
    count = int(found.vertex[-1]) + 1
    total = of_edge.new_zeros(count, 1).index_add(0, found.vertex, of_edge)

    def mean(values: Tensor) -> Tensor:
        crossed = _crossing(ends * of_ends, values[found.ends]) * of_edge
        return crossed.new_zeros(count, values.shape[1]).index_add(0, found.vertex, crossed) / total

    vertices = mean(corners.places)
    attributes = None if corners.attributes is None else mean(corners.attributes)
    plain = _crossing(ends, corners.places[found.ends])
    distance = (plain - vertices[found.vertex]).norm(dim=1)
    crossed = torch.bincount(found.vertex, minlength=count)
    average = distance.new_zeros(count).index_add(0, found.vertex, distance) / crossed
    return vertices, attributes, (distance - average[found.vertex]).abs().mean()


def quads(found: Crossings, distances: Tensor) -> Tensor:
    """(Q, 4) the dual vertices around each crossed edge, seen from outside in turn, beginning with a chosen one."""
    key = found.ends[:, 0].long() * len(distances) + found.ends[:, 1]
    order = torch.argsort(key, stable=True)
    around = found.vertex[order].view(-1, 4)  # of four cubes in the order of their keys: across are 0 and 3, 1 and 2
    outward = distances[found.ends[order[::4], 0]] > 0
    return torch.where(outward[:, None], around[:, [0, 1, 3, 2]], around[:, [2, 3, 1, 0]])


def triangles(
    quads: Tensor, vertices: Tensor, attributes: Tensor | None, gamma: Tensor, around_middle: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Quadrilaterals as triangles.

    Args:
        quads: (Q, 4).
        vertices: (V, 3).
        attributes: (V, K) or None.
        gamma: (V,) weights of the vertices, before they are brought into (0, 1).
        around_middle: four triangles around a middle, between both diagonals by their weights; otherwise two, along
            the diagonal of more weight.

    Returns:
        Vertices and attributes, with the middles behind them, and (F, 3) faces.
    """
    weight = (torch.sigmoid(gamma) * _SCALE + (1 - _SCALE) / 2)[quads]
    first, second = weight[:, 0] * weight[:, 2], weight[:, 1] * weight[:, 3]
    a, b, c, d = quads.unbind(1)
    if not around_middle:
        two = torch.where(
            (first > second)[:, None], torch.stack([a, b, c, a, c, d], 1), torch.stack([a, b, d, d, b, c], 1)
        )
        return vertices, attributes, two.view(-1, 3)

    def with_middles(values: Tensor) -> Tensor:
        one, other = (values[a] + values[c]) / 2, (values[b] + values[d]) / 2
        middle = (one * first[:, None] + other * second[:, None]) / (first + second)[:, None]
        return torch.cat([values, middle])

    m = torch.arange(len(quads), device=quads.device) + len(vertices)
    four = torch.stack([a, b, m, b, c, m, c, d, m, d, a, m], 1).view(-1, 3)
    return with_middles(vertices), None if attributes is None else with_middles(attributes), four


def _crossing(distances: Tensor, values: Tensor) -> Tensor:
    """Where the distance is zero between two ends: (E, 2), (E, 2, K) -> (E, K)."""
    near, far = distances.unbind(1)
    return (values[:, 0] * far[:, None] - values[:, 1] * near[:, None]) / (far - near)[:, None]
