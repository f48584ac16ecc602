"""A closed surface in millimetres."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lorgnette.systems.mesh.surface.cells import Array, Index


@dataclass(frozen=True)
class Mesh:
    """The surface of one organ.

    `vertices` (V, 3): millimetres in the patient's axes, which point right, anterior and superior (RAS+, as NIfTI has
    it). `triangles` (T, 3): counter-clockwise as seen from outside. `color`: red, green and blue, 0 to 255. `notes`:
    what was done to the mask on the way; `voxels`, `changed`, `dropped` and `crossing` are always there.
    """

    name: str
    vertices: Array
    triangles: Index
    color: tuple[int, int, int] = (204, 190, 170)
    notes: dict[str, int] = field(default_factory=dict)

    @cached_property
    def volume(self) -> float:
        """What it encloses, in cubic millimetres (divergence theorem)."""
        a, b, c = (self.vertices[self.triangles[:, k]] - self.vertices.mean(0) for k in range(3))
        return float((a * np.cross(b, c)).sum() / 6)

    @cached_property
    def normals(self) -> Array:
        """(T, 3): of the triangles, as long as their area."""
        a, b, c = (self.vertices[self.triangles[:, k]] for k in range(3))
        return np.cross(b - a, c - a) / 2

    @cached_property
    def area(self) -> float:
        """In square millimetres."""
        return float(np.linalg.norm(self.normals, axis=1).sum())

    @cached_property
    def _edges(self) -> tuple[Index, Index]:
        """Edges as one number each, (3T,): as the triangles run through them, and the other way."""
        a, b = self.triangles.ravel(), self.triangles[:, [1, 2, 0]].ravel()
        n = len(self.vertices)
        return a * n + b, b * n + a

    @cached_property
    def watertight(self) -> bool:
        """Whether every edge belongs to two triangles, which run through it in opposite directions."""
        there, back = (np.sort(edges) for edges in self._edges)
        return bool(np.array_equal(there, back) and np.all(there[1:] > there[:-1]))

    @cached_property
    def manifold(self) -> bool:
        """Whether it is watertight and the triangles around each vertex are one fan."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        if not self.watertight:
            return False
        # Corners of triangles are nodes. The edge back starts at the vertex where this one ends: two corners of one fan
        there, back = self._edges
        order = np.argsort(there)
        twin = order[np.searchsorted(there[order], back)]
        corner = np.arange(self.triangles.size)
        after = corner - corner % 3 + (corner + 1) % 3
        n = self.triangles.size
        fans = connected_components(coo_matrix((np.ones(n), (after, twin)), (n, n)), directed=False)[0]
        return fans == len(np.unique(self.triangles))

    @cached_property
    def components(self) -> int:
        """How many closed surfaces it is; a cavity counts as one."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        a, b = self.triangles.ravel(), self.triangles[:, [1, 2, 0]].ravel()
        n = len(self.vertices)
        return int(connected_components(coo_matrix((np.ones(a.size), (a, b)), (n, n)), directed=False)[0])

    @cached_property
    def roughness(self) -> float:
        """The mean angle between triangles that share an edge, in degrees."""
        there, back = self._edges
        order = np.argsort(there)
        twin = order[np.searchsorted(there[order], back)] // 3
        unit = self.normals / np.maximum(np.linalg.norm(self.normals, axis=1, keepdims=True), 1e-30)
        own = np.repeat(np.arange(len(self.triangles)), 3)
        return float(np.degrees(np.arccos(np.clip((unit[own] * unit[twin]).sum(1), -1, 1))).mean())
