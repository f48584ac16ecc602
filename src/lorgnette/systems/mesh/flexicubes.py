"""A mesh from values at the corners of sparse cubes: FlexiCubes (Shen et al., ACM TOG 42(4), 2023, arXiv 2308.05371).

Differentiable in the signed distances, the shifts and the weights. Only active cubes and the empty ones around them
are looked at; there is no dense grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.systems.mesh.dual import Corners, crossings, dual_vertices, quads, triangles
from lorgnette.systems.mesh.keys import keys
from lorgnette.systems.mesh.lattice import Lattice

Fill = Literal["inward", "outside"]
SHIFTS, WEIGHTS, COLOURS = slice(8, 32), slice(32, 53), slice(53, 101)
"""Where they lie among the values of a cube; the signed distances of its corners come first."""


@dataclass(frozen=True)
class Surface:
    """A surface, and what a loss wants of it.

    Attributes:
        vertices: (V, 3) in [-0.5, 0.5] of the grid, differentiable.
        faces: (F, 3) int64, counter-clockwise seen from outside.
        attributes: (V, 6) colours and normals in [0, 1], or None.
        points: (P, 3) the shifted corners of the active cubes.
        distances: (P,) the signed distances there, negative inside, in units of the decoder.
        regularisation: the paper's terms and how much cubes disagree on shared corners; 0 unless `training`.
    """

    vertices: Tensor
    faces: Tensor
    attributes: Tensor | None
    points: Tensor
    distances: Tensor
    regularisation: Tensor


def extract(
    lattice: Lattice, values: Tensor, resolution: int, training: bool = False, fill: Fill = "inward"
) -> Surface:
    """The surface where the signed distance is zero.

    Args:
        lattice: of N active cubes.
        values: (N, 53 or 101) of each cube: 8 signed distances of its corners, 8 x 3 shifts, 12 + 8 + 1 weights
            (of edges, corners and the cube), and 8 x 6 colours and normals.
        resolution: cubes along an axis of the whole grid.
        training: split each quadrilateral into four triangles around a middle that the weights move, as FlexiCubes
            does while it optimises, and give the regularisation.
        fill: the sign of empty cubes. 'inward': a region that active cubes close off is inside or outside as most of
            the corners along it are. 'outside': all of them are outside, as published decoders have it; a hollow
            shell of cubes then gets a second wall.

    Returns:
        The surface. It is closed where active cubes end, also at the border of the grid.
    """
    at_corners, agreement = shared_corners(lattice, values, resolution, training)
    corners = _with_far(at_corners, lattice, resolution, fill)
    cube_keys, cube_corners, weights = _crossed(lattice, values[:, WEIGHTS], corners.distances)
    regularisation = agreement + 0.2 * values[:, WEIGHTS][:, :20].abs().mean() if training else values.new_zeros(())
    vertices, attributes = corners.places[:0], None if corners.attributes is None else corners.attributes[:0]
    faces = torch.zeros(0, 3, dtype=torch.long, device=values.device)
    if len(cube_keys):
        found = crossings(cube_keys, cube_corners, corners.distances)
        vertices, attributes, deviation = dual_vertices(found, corners, weights[:, :20])
        cube_of_vertex = faces.new_zeros(len(vertices)).scatter_(0, found.vertex, found.cube)
        around = quads(found, corners.distances)
        vertices, attributes, faces = triangles(around, vertices, attributes, weights[cube_of_vertex, 20], training)
        regularisation = regularisation + 0.5 * deviation if training else regularisation
    return Surface(vertices, faces, attributes, at_corners.places, at_corners.distances, regularisation)


def shared_corners(lattice: Lattice, values: Tensor, resolution: int, training: bool) -> tuple[Corners, Tensor]:
    """The corners of active cubes, where the cubes' values are averaged.

    While `training` also the mean square of how much the cubes differ from the average.
    """
    parts = values[:, :8, None] - 1 / resolution, values[:, SHIFTS].unflatten(1, (8, 3))
    colours = (values[:, COLOURS].unflatten(1, (8, 6)),) if values.shape[1] > COLOURS.start else ()
    own = torch.cat(parts + colours, 2)
    mean = own.new_zeros(len(lattice.vertices), own.shape[2])
    mean = mean.index_add(0, lattice.corners.flatten(), own.flatten(0, 1)) / lattice.cubes_at
    agreement = F.mse_loss(mean[lattice.corners], own) if training else values.new_zeros(())
    places = lattice.vertices / resolution - 0.5 + torch.tanh(mean[:, 1:4]) / (2 * resolution)
    return Corners(places, mean[:, 0], torch.sigmoid(mean[:, 4:]) if colours else None), agreement


def _with_far(corners: Corners, lattice: Lattice, resolution: int, fill: Fill) -> Corners:
    """And those corners of the ring of empty cubes that no active cube has."""
    signs = torch.ones(lattice.regions, device=corners.distances.device)
    if fill == "inward":
        signs = _majority(corners.distances.detach(), lattice)
    known = len(lattice.vertices)
    sign = signs.new_ones(len(lattice.far))
    far = lattice.ring_corners >= known
    sign[lattice.ring_corners[far] - known] = signs[lattice.region][:, None].expand_as(far)[far]
    places = torch.cat([corners.places, lattice.far / resolution - 0.5])
    attributes = corners.attributes
    if attributes is not None:
        attributes = torch.cat([attributes, attributes.new_full((len(sign), attributes.shape[1]), 0.5)])
    return Corners(places, torch.cat([corners.distances, sign.to(corners.distances.dtype)]), attributes)


def inside(lattice: Lattice, distances: Tensor, corners: int, fill: Fill = "inward") -> Tensor:
    """Which corners of the whole grid lie inside, (corners,) * 3, for the distances (V,) that `extract` gives."""
    axis = torch.arange(corners, device=distances.device)
    signs = _majority(distances.detach(), lattice) if fill == "inward" else distances.new_ones(lattice.regions)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    found = signs.to(distances.device)[lattice.region_of(grid).clamp(min=0)] < 0
    found[tuple(lattice.vertices.long().unbind(1))] = distances < 0
    return found


def _majority(distances: Tensor, lattice: Lattice) -> Tensor:
    """Of each empty region, whether most corners along it lie outside (1) or inside (-1); outermost: 1."""
    touched = lattice.ring_corners < len(distances)
    region = lattice.region[:, None].expand_as(touched)[touched]
    signs = torch.sign(distances[lattice.ring_corners[touched]].float())
    votes = signs.new_zeros(lattice.regions).index_add(0, region, signs)
    votes[0] = 1
    return torch.where(votes < 0, -1.0, 1.0)


def _crossed(lattice: Lattice, weights: Tensor, distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cubes with corners on both sides, sorted: their keys, (S, 8) corners and (S, 21) weights."""

    def mixed(corners: Tensor) -> Tensor:
        inside = (distances < 0)[corners]
        return (inside.any(1) & ~inside.all(1)).nonzero().squeeze(1)

    active, ring = mixed(lattice.corners), mixed(lattice.ring_corners)
    cube_keys = torch.cat([keys(lattice.cubes[active]), keys(lattice.ring[ring])])
    corners = torch.cat([lattice.corners[active], lattice.ring_corners[ring]])
    weights = torch.cat([weights[active], weights.new_zeros(len(ring), weights.shape[1])])
    order = torch.argsort(cube_keys)
    return cube_keys[order], corners[order].long(), weights[order]
