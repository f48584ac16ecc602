"""Masks to make surfaces of, and what is asked of every surface."""

from __future__ import annotations

import os
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nibabel", reason="needs the extra 'mesh'")
pytest.importorskip("scipy", reason="needs the extra 'mesh'")

from lorgnette.systems.mesh.surface import Mesh, voxels
from lorgnette.systems.mesh.volumes import Labels
from lorgnette.systems.mesh.volumes.labels import organs_of

DATA = Path(os.environ.get("LORGNETTE_DATA", Path(__file__).parents[4] / "shared" / "data")) / "medical"
EXAMPLE = DATA / "totalsegmentator" / "example_ct"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the volumes in {DATA} (set LORGNETTE_DATA)")


def labels_of(values: np.ndarray, affine: np.ndarray | None = None, names: dict[int, str] | None = None) -> Labels:
    """A volume of labels, as it would have been read."""
    values = values.astype(np.uint8)
    return Labels(organs_of(values, names or {}, "mask"), values.shape, np.eye(4) if affine is None else affine)


def ball(
    radius: float, center: tuple[float, float, float], size: int, spacing: tuple[float, ...] = (1, 1, 1)
) -> np.ndarray:
    """(size, size, size) bool; radius and centre in millimetres."""
    grid = np.stack(np.meshgrid(*[np.arange(size) * step for step in spacing], indexing="ij"), axis=-1)
    return ((grid - center) ** 2).sum(-1) <= radius**2


def dice_again(mesh: Mesh, mask: np.ndarray, affine: np.ndarray) -> float:
    """Dice of the mesh, turned into voxels, and its mask."""
    again = voxels(mesh, affine, mask.shape)
    return float(2 * (again & mask).sum() / (again.sum() + mask.sum()))


def turned(values: np.ndarray, affine: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same volume stored in all 48 orders and directions of its axes."""
    stored = []
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            matrix = np.zeros((4, 4))
            matrix[3, 3] = 1
            for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
                matrix[old, new] = sign
                matrix[old, 3] += 0 if sign > 0 else values.shape[old] - 1
            now = np.flip(values.transpose(order), [k for k in range(3) if signs[k] < 0])
            stored.append((np.ascontiguousarray(now), affine @ matrix))
    return stored


def crossings(mesh: Mesh) -> int:
    """How many pairs of triangles go through each other: each against each whose box meets its box, by segments."""
    from scipy.spatial import cKDTree

    corners = mesh.vertices[mesh.triangles]
    middle = corners.mean(1)
    radius = np.linalg.norm(corners - middle[:, None], axis=2).max()
    pairs = cKDTree(middle).query_pairs(2 * radius, output_type="ndarray")
    low, high = corners.min(1), corners.max(1)
    meet = (low[pairs[:, 0]] <= high[pairs[:, 1]]).all(1) & (low[pairs[:, 1]] <= high[pairs[:, 0]]).all(1)
    pairs = pairs[meet]
    found = np.zeros(len(pairs), bool)
    for one, other in ((0, 1), (1, 0)):
        plane, edges = pairs[:, one], pairs[:, other]
        a, b, c = (corners[plane, k] for k in range(3))
        for k in range(3):
            ends = mesh.triangles[edges][:, [k, (k + 1) % 3]]
            apart = ~(mesh.triangles[plane][:, :, None] == ends[:, None, :]).any((1, 2))
            p, way = mesh.vertices[ends[:, 0]], mesh.vertices[ends[:, 1]] - mesh.vertices[ends[:, 0]]
            # Moeller and Trumbore, Journal of Graphics Tools 2, 1997
            h = np.cross(way, c - a)
            scale = ((b - a) * h).sum(1)
            with np.errstate(divide="ignore", invalid="ignore"):
                u = ((p - a) * h).sum(1) / scale
                q = np.cross(p - a, b - a)
                v, t = (way * q).sum(1) / scale, ((c - a) * q).sum(1) / scale
                found |= apart & (np.abs(scale) > 1e-12) & (u > 0) & (v > 0) & (u + v < 1) & (t > 0) & (t < 1)
    return int(found.sum())
