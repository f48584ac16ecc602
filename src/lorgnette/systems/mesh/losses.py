"""What is wrong with a decoded organ, with a gradient towards its true shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.systems.mesh.flexicubes import Surface
from lorgnette.systems.mesh.lattice import Lattice
from lorgnette.systems.mesh.samples import CUT_OFF

_STEEP = 8.0
"""How fast the soft inside falls from 1 to 0 across the surface, per unit of distance (`CUT_OFF` cubes)."""
_AT_ONCE = 2048
"""Vertices that the distance between surfaces is computed of."""


def distances_at(volume: Tensor, points: Tensor) -> Tensor:
    """True signed distances (S, S, S) at (P, 3) points in [-0.5, 0.5], linearly between corners: (P,)."""
    grid = 2 * points.flip(-1)[None, None, None]
    return F.grid_sample(volume[None, None], grid, align_corners=True, padding_mode="border")[0, 0, 0, 0]


def losses_of(surface: Surface, lattice: Lattice, volume: Tensor, points: Tensor) -> dict[str, Tensor]:
    """Each loss of one organ, a scalar, smaller is better.

    Args:
        surface: from `extract(..., training=True)`.
        lattice: of its active cubes.
        volume: (S, S, S) true signed distances at the grid's corners, cut off at -1 and 1.
        points: (P, 3) on the true surface, in [-0.5, 0.5].

    Returns:
        `distance`: Huber loss at the shifted corners, both cut off. `dice`: 1 - soft Dice of the insides (Milletari et
        al., arXiv 1606.04797). `eikonal`: (1 - slope)^2 (Gropp et al., arXiv 2002.10099) and `normal`: 1 - cosine of
        slopes, in cubes where the truth is not cut off. `chamfer`: mean distance from each surface to the other, in
        cubes, up to `CUT_OFF`. `regular`: FlexiCubes' own terms.
    """
    truth = distances_at(volume, surface.points.detach())
    found = surface.distances
    outside_cut = torch.where(truth.abs() < 1, found, found.clamp(-1, 1))  # beyond the cut only the side counts
    result = {"distance": F.huber_loss(outside_cut, truth, delta=0.1) * 10, "dice": _soft_dice(found, truth)}
    corners = lattice.corners
    known = (truth[corners].abs() < 1).all(1)
    slope, wanted = (_slope(values[corners[known]]) for values in (found, truth))
    result["eikonal"] = _mean((slope.norm(dim=1) - 1) ** 2)
    result["normal"] = _mean(1 - F.cosine_similarity(slope, wanted, eps=1e-4))
    result["chamfer"] = _chamfer(surface.vertices, points, volume.shape[0] - 1)
    result["regular"] = surface.regularisation
    return result


def _soft_dice(found: Tensor, truth: Tensor) -> Tensor:
    soft, hard = torch.sigmoid(-_STEEP * found), (truth < 0).to(found.dtype)
    return 1 - (2 * (soft * hard).sum() + 1) / (soft.sum() + hard.sum() + 1)


def _slope(corners: Tensor) -> Tensor:
    """(K, 8) distances at the corners of cubes -> (K, 3) mean slope along each axis; 1 in all for a true distance."""
    x, y, z = (corners.unflatten(1, (2, 2, 2)).diff(dim=axis).flatten(1).mean(1) for axis in (3, 2, 1))
    return torch.stack([x, y, z], 1) * CUT_OFF


def _chamfer(vertices: Tensor, points: Tensor, side: int) -> Tensor:
    if not len(vertices):
        return vertices.sum()
    apart = torch.cdist(vertices[:: max(1, len(vertices) // _AT_ONCE)], points) * side
    return (apart.amin(1).clamp(max=CUT_OFF).mean() + apart.amin(0).clamp(max=CUT_OFF).mean()) / 2


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.sum()
