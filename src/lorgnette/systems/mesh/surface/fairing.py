"""A net made smooth: as little bending as the voxels allow, and the volume of each organ as the voxels have it.

A vertex stays in its cell, so that no voxel centre changes sides (the idea of surface nets: Gibson, MICCAI 1998);
instead of averaging neighbours, which shrinks, this minimises bending under that bound, and restores volumes by the
smallest displacement that does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lorgnette.systems.mesh.surface.cells import Array, Index, Net

Flags = npt.NDArray[np.bool_]

LEVELLING, STEPS = 9, 10  # of the descents; twice as many change the mean angle between triangles by 0.4 degrees


class Fairing:
    """What smoothing a net needs to know of it.

    A *side* is a quadrilateral as one organ sees it; a *row* is a vertex as one organ sees it. `quad` (S,) and `sign`
    (S,): of a side, its quadrilateral, and 1 where that is counter-clockwise from outside, else -1. `row` (S, 4): the
    rows of its vertices, in the quadrilateral's order. `vertex`, `organ` and `degree` (M,): of a row. `apart`: no two
    organs share a vertex. `compiled`: the loops of `kernels` do the work, which needs numba.
    """

    def __init__(self, net: Net, volumes: Array, apart: bool, compiled: bool = False) -> None:
        from scipy.sparse import csr_matrix

        self.net, self.volumes, self.apart, self.compiled = net, volumes, apart, compiled
        first, second = (np.flatnonzero(net.sides[:, k] >= 0) for k in range(2))
        self.quad = np.concatenate([first, second])
        self.sign = np.repeat([1.0, -1.0], [first.size, second.size])
        n = net.corners.shape[1]
        self.low, self.high = net.corners - net.reach, net.corners + net.reach
        corner = net.quads[self.quad]
        organ = np.concatenate([net.sides[first, 0], net.sides[second, 1]])
        if apart:
            self.row, self.vertex, self.organ = corner, np.arange(n), np.empty(n, np.int64)
            self.organ[corner] = organ[:, None]
        else:
            rows, self.row = np.unique(organ[:, None] * n + corner, return_inverse=True)
            self.row = self.row.reshape(corner.shape)
            self.organ, self.vertex = np.divmod(rows, n)
        m = self.vertex.size
        here, there = self.edges()
        self.degree = np.bincount(here, minlength=m)
        self.shared = np.bincount(self.vertex, minlength=n)
        entries = np.concatenate([-1 / self.degree[here], np.ones(m)])
        places = np.concatenate([here, np.arange(m)]), np.concatenate([self.vertex[there], self.vertex])
        self.bend = csr_matrix((entries, places), (m, n))

    def edges(self) -> tuple[Index, Index]:
        """The rows at the start and at the end of each edge of each side, (4S,), counter-clockwise."""
        row, after = self.row.ravel(), self.row[:, [1, 2, 3, 0]].ravel()
        turned = np.repeat(self.sign < 0, 4)
        return np.where(turned, after, row), np.where(turned, row, after)

    def smooth(self) -> Array:
        """The vertices (3, N), in index coordinates: little bending, within the cells.

        Bending is a vertex's distance from the mean of its neighbours, for each organ whose surface it lies on; the
        sum of its squares is minimised. A few steps towards the least area come before, as they level wide terraces
        sooner. Both by accelerated projected gradients (FISTA: Beck and Teboulle, SIAM J. Imaging Sciences 2, 2009).
        """
        from scipy.sparse import csr_matrix

        bend, m, n = self.bend, self.vertex.size, self.net.corners.shape[1]
        level = csr_matrix((0.5 / self.shared[self.vertex], self.vertex, np.arange(m + 1)), (m, n)).T.tocsr()
        flatten = bend.T.tocsr()
        # 4 is the largest eigenvalue of bend' bend
        flatten.data *= np.repeat(0.25 / self.shared, np.diff(flatten.indptr))
        # sparse products want the coordinates of a vertex side by side
        start, low, high = (np.ascontiguousarray(a.T) for a in (self.net.corners, self.low, self.high))
        descend = _descend_compiled if self.compiled else _descend
        x = descend(start, bend, level, low, high, LEVELLING)
        x = self.grown(np.ascontiguousarray(x.T), (self.net.quads, self.row)).T
        x = descend(np.ascontiguousarray(x), bend, flatten, low, high, STEPS)
        return np.ascontiguousarray(x.T)

    def restore(self, x: Array, diagonal: Flags, fixed: Flags | None = None, steps: int = 30) -> tuple[Array, Array]:
        """The vertices moved as little as makes every volume right to 5e-5, without leaving their cells; and
        `at_vertices` there.

        Args:
            x: vertices (3, N).
            diagonal: of each quadrilateral, whether it is cut from vertex 1 to 3 instead of from 0 to 2.
            fixed: vertices that stay.
            steps: no more than so many steps of Newton's method.
        """
        cut = self.cut(diagonal)
        areas, missing = self._volumes(x, cut)
        for _ in range(steps):
            if np.all(np.abs(missing) <= 5e-5 * self.volumes):
                break
            x = self._grown(x, areas, missing, fixed)
            areas, missing = self._volumes(x, cut)
        return x, areas

    def grown(self, x: Array, cut: tuple[Index, Index]) -> Array:
        """The vertices (3, N) after one step of `restore`."""
        return self._grown(x, *self._volumes(x, cut))

    def _volumes(self, x: Array, cut: tuple[Index, Index]) -> tuple[Array, Array]:
        """`at_vertices`, and what the organs' volumes lack."""
        areas = self.at_vertices(x, cut)
        heights = (areas * x.take(self.vertex, axis=1)).sum(
            0
        )  # a ninth of them adds up to the volume (Euler's theorem)
        return areas, self.volumes - np.bincount(self.organ, heights, len(self.volumes)) / 9

    def _grown(self, x: Array, areas: Array, missing: Array, fixed: Flags | None = None) -> Array:
        """The vertices after a step of Newton's method to the volumes: the smallest displacement, within the cells."""
        from scipy.sparse import csr_matrix
        from scipy.sparse.linalg import spsolve

        gradient = areas / 3
        if fixed is not None:
            gradient[:, fixed[self.vertex]] = 0
        if self.apart:
            square = np.bincount(self.organ, (gradient**2).sum(0), len(missing))
            x = x + gradient * (missing / np.maximum(square, 1e-12))[self.organ]
        else:
            shape = (len(missing), x.shape[1])
            jacobian = [csr_matrix((g, (self.organ, self.vertex)), shape) for g in gradient]
            normal = sum((j @ j.T for j in jacobian), start=csr_matrix((shape[0], shape[0])))
            normal.setdiag(normal.diagonal() * (1 + 1e-9) + 1e-12)
            force = spsolve(normal.tocsc(), missing)
            x = x + np.stack([j.T @ force for j in jacobian])
        return np.minimum(np.maximum(x, self.low, out=x), self.high, out=x)

    def cut(self, diagonal: Flags) -> tuple[Index, Index]:
        """`quads` and `row`, turned so that the diagonal goes from the first vertex to the third."""
        index = (np.arange(4) + diagonal[:, None]) % 4
        return np.take_along_axis(self.net.quads, index, axis=1), np.take_along_axis(self.row, index[self.quad], axis=1)

    def at_vertices(self, x: Array, cut: tuple[Index, Index]) -> Array:
        """(3, M): the area vectors of the triangles around each row, in sum, pointing outwards."""
        quads, row = cut
        if self.compiled:
            from lorgnette.systems.mesh.surface import kernels

            out = np.zeros((3, self.vertex.size))
            kernels.areas()(x, quads, row, self.quad, self.sign, out)
            return out
        a, b, c, d = (x.take(quads[:, k], axis=1) for k in range(4))
        ac, at, m = c - a, row.T.ravel(), self.vertex.size
        first, second = (cross(u, v).take(self.quad, axis=1) for u, v in ((b - a, ac), (ac, d - a)))
        half = 0.5 * self.sign
        parts = ((p * half, q * half) for p, q in zip(first, second, strict=True))
        sums: list[Any] = [np.bincount(at, np.concatenate([p + q, p, p + q, q]), m) for p, q in parts]
        return np.stack(sums)

    def triangles(self, diagonal: Flags) -> Index:
        """Two triangles for each quadrilateral (2F, 3): the first of each, then the second of each."""
        a, b, c, d = self.net.quads.T
        first = np.stack([a, b, np.where(diagonal, d, c)], axis=1)
        return np.concatenate([first, np.stack([np.where(diagonal, b, a), c, d], axis=1)])


def _descend(x: Array, bend: Any, back: Any, low: Array, high: Array, steps: int) -> Array:
    """Accelerated projected gradients from vertices (N, 3), which are moved by `-back @ bend @ x`."""
    ahead, momentum = x, 1.0
    for _ in range(steps):
        new = ahead - back @ (bend @ ahead)
        np.maximum(new, low, out=new)
        np.minimum(new, high, out=new)
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new - x
        ahead *= (momentum - 1) / grown
        ahead += new
        x, momentum = new, grown
    return x


def _descend_compiled(x: Array, bend: Any, back: Any, low: Array, high: Array, steps: int) -> Array:
    from lorgnette.systems.mesh.surface import kernels

    x = x.copy()
    one, two = ((m.indptr.astype(np.uint32), m.indices.astype(np.uint32), m.data) for m in (bend, back))
    kernels.descend()(x, low, high, *one, *two, steps)
    return x


def cross(u: Array, v: Array) -> Array:
    """The cross product along the first axis."""
    return np.stack([u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]])
