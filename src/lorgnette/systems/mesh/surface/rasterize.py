"""A mesh turned into voxels again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lorgnette.systems.mesh.surface.cells import Array, Index
from lorgnette.systems.mesh.surface.mesh import Mesh


def voxels(mesh: Mesh, affine: Array, shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which voxels have their centre inside a mesh, (X, Y, Z).

    A line through the centres along the last axis is inside between triangles that face it and those that face away.
    Where it meets an edge exactly it is taken a hair beside it.

    Args:
        mesh: watertight, in millimetres.
        affine: (4, 4), from indices of voxels to millimetres.
        shape: of the volume.
    """
    inverse = np.linalg.inv(affine)
    corners = (mesh.vertices @ inverse[:3, :3].T + inverse[:3, 3] + (1.3e-6, 2.1e-6, 0))[mesh.triangles]
    which, i, j, weights = centres_covered(corners, (shape[0], shape[1]))
    total = weights.sum(0)
    height = (weights * corners[which, :, 2].T).sum(0) / total
    first = np.clip(np.ceil(height), 0, shape[2]).astype(int)  # the first centre beyond the triangle
    steps = np.zeros((shape[0], shape[1], shape[2] + 1), np.int16)
    np.add.at(steps, (i, j, first), -np.sign(total).astype(np.int16))
    inside = np.cumsum(steps[:, :, :-1], axis=2, dtype=np.int16)
    return inside * np.int16(np.sign(np.linalg.det(affine[:3, :3]))) > 0


def centres_covered(corners: Array, shape: tuple[int, int]) -> tuple[Index, Index, Index, Array]:
    """Where triangles cover whole places of a plane, seen along its third axis.

    Args:
        corners: (T, 3, 3) of the triangles.
        shape: places along the first and the second axis.

    Returns:
        The triangle, the place along both axes, and the weights (3, N) of the corners there, of the sign of the side
        that is seen; they do not add up to 1.
    """
    most = np.array(shape) - 1
    low = np.maximum(np.ceil(corners[:, :, :2].min(1)), 0).astype(int)
    high = np.minimum(np.floor(corners[:, :, :2].max(1)), most).astype(int)
    width = np.maximum(high - low + 1, 0)
    count = width[:, 0] * width[:, 1]
    which = np.repeat(np.arange(len(corners)), count)
    number = np.arange(which.size) - np.repeat(np.cumsum(count) - count, count)
    i, j = low[which, 0] + number // width[which, 1], low[which, 1] + number % width[which, 1]
    a, b, c = corners[which].transpose(1, 2, 0)

    def turn(u: Array, v: Array) -> Array:
        return (v[0] - u[0]) * (j - u[1]) - (v[1] - u[1]) * (i - u[0])

    weights = np.stack([turn(b, c), turn(c, a), turn(a, b)])
    hit = ((weights >= 0).all(0) | (weights <= 0).all(0)) & (weights.sum(0) != 0)
    return which[hit], i[hit], j[hit], weights[:, hit]
