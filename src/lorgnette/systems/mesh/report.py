"""What is said of each organ's mesh, on the screen, as JSON and as pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lorgnette.systems.mesh.surface import Mesh
from lorgnette.systems.mesh.surface.cells import Array, extract
from lorgnette.systems.mesh.volumes import Organ

COLUMNS = (
    "volume ml",
    "area cm2",
    "triangles",
    "parts",
    "angle deg",
    "from mask mm",
    "closed",
    "crossings",
    "changed voxels",
)
"""Of the table, after the organ's name."""


def facts(mesh: Mesh, organ: Organ, affine: Array) -> dict[str, Any]:
    """The figures of one mesh, beside the mask that it was made of."""
    of_mask = mesh.notes["voxels"] * abs(float(np.linalg.det(affine[:3, :3])))
    away = distances(mesh, organ, affine)
    return {
        "organ": mesh.name,
        "volume ml": mesh.volume / 1000,
        "mask ml": of_mask / 1000,
        "volume error %": 100 * (mesh.volume / of_mask - 1),
        "area cm2": mesh.area / 100,
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.triangles),
        "parts": mesh.components,
        "angle deg": mesh.roughness,
        "from mask mm": float(away.mean()),
        "from mask mm at most": float(away.max()),
        "closed": mesh.manifold,
        "crossings": mesh.notes["crossing"],
        "changed voxels": mesh.notes["changed"],
        "dropped voxels": mesh.notes["dropped"],
    }


def distances(mesh: Mesh, organ: Organ, affine: Array) -> Array:
    """How far each vertex is from the faces of the mask's voxels, in millimetres (V,)."""
    from scipy.spatial import KDTree

    net = extract(np.pad(organ.mask.astype(np.uint8), 1))
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
    corners = net.corners.T[net.quads]
    middle, half = corners.mean(1), np.ptp(corners, axis=1) / 2 * spacing
    inverse = np.linalg.inv(affine)
    points = mesh.vertices @ inverse[:3, :3].T + inverse[:3, 3] - organ.place + 1
    near = KDTree(middle * spacing).query(points * spacing, k=min(8, len(middle)))[1].reshape(len(points), -1)
    away = np.abs(points[:, None] - middle[near]) * spacing - half[near]
    return np.linalg.norm(np.maximum(away, 0), axis=-1).min(1)


def rows(all_facts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table's rows."""
    return [{"organ": one["organ"], **{name: one[name] for name in COLUMNS}} for one in all_facts]
