"""Less folding between triangles: the sum of the angles between neighbours, minimised within the cells.

It is for nets with shared walls. Bending as `Fairing.smooth` has it also pulls vertices sideways, towards the middle of
their neighbours, and there are lines where three regions meet, at which that leaves a zigzag.
"""

from __future__ import annotations

import numpy as np

from lorgnette.systems.mesh.surface.cells import Array
from lorgnette.systems.mesh.surface.diagonals import twins
from lorgnette.systems.mesh.surface.fairing import Fairing, Flags

STEPS = 6
STRIDE = 0.05  # voxels of the first step; the last one is a quarter of it
MEMORY, SQUARES = 0.5, 0.999  # what is kept of the mean slope, and of the mean of its squares
SOFT = 0.05  # radians; angles well below it count by their squares
# Which of a quadrilateral's two triangles lies at edge k (from vertex k to k + 1), by diagonal
_AT_EDGE = np.array([[0, 0, 1, 1], [0, 1, 1, 0]])


def unfold(fairing: Fairing, x: Array, diagonal: Flags, linear: Array) -> Array:
    """The vertices (3, N) moved to where angles between neighbouring triangles are smaller in sum.

    By steps along the slope, each coordinate's divided by its root mean square (Adam: Kingma and Ba, ICLR 2015). They
    stay in their cells, and volumes are restored on the way.

    Args:
        fairing: of the net.
        x: vertices (3, N), in index coordinates.
        diagonal: of each quadrilateral, whether it is cut from vertex 1 to 3 instead of from 0 to 2.
        linear: (3, 3), from index coordinates to millimetres.
    """
    slope = Slope(fairing, diagonal, linear)
    mean, square, cut = np.zeros_like(x), np.zeros_like(x), fairing.cut(diagonal)
    for step in range(STEPS):
        now = slope(x)
        mean += (1 - MEMORY) * (now - mean)
        square += (1 - SQUARES) * (now**2 - square)
        size = np.sqrt(square / (1 - SQUARES ** (step + 1))) + 1e-12
        x = x - STRIDE * (1 - 0.9 * step / STEPS) / (1 - MEMORY ** (step + 1)) * mean / size
        x = fairing.grown(np.clip(x, fairing.low, fairing.high), cut)
    return x


class Slope:
    """Of the sum of the angles in radians, by the vertices: (3, N) -> (3, N). Computed in 32 bits.

    An angle's cosine is divided by sqrt(1 + SOFT^2) before, so that the slope is bounded where the angle is 0.
    """

    def __init__(self, fairing: Fairing, diagonal: Flags, linear: Array) -> None:
        from scipy.sparse import csr_matrix

        quads, triangles, n = len(fairing.net.quads), fairing.triangles(diagonal), fairing.net.corners.shape[1]
        self.linear = (linear / np.cbrt(abs(np.linalg.det(linear)))).astype(np.float32)
        self.origin = fairing.net.corners.mean(1, keepdims=True)
        side, edge, other, other_edge = twins(fairing)
        one, two = (
            fairing.quad[s] + quads * _AT_EDGE[diagonal[fairing.quad[s]].astype(np.int64), e]
            for s, e in ((side, edge), (other, other_edge))
        )
        self.one, self.two = np.concatenate([one, fairing.quad]), np.concatenate([two, fairing.quad + quads])
        self.sign = np.ones(self.one.size, np.float32)
        self.sign[: side.size] = fairing.sign[side] * fairing.sign[other]
        row = np.concatenate([self.one, self.two])
        order = np.argsort(row, kind="stable")
        start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=2 * quads))])
        beside = np.concatenate([self.two, self.one])[order]
        self.angle = order % self.one.size  # the angle that belongs to each entry
        self.beside = csr_matrix((self.sign[self.angle], beside, start), (2 * quads, 2 * quads))
        ends, rows = np.tile(np.array([1, -1], np.float32), 2 * quads), 2 * np.arange(2 * quads + 1)
        self.edges = [csr_matrix((ends, triangles[:, [k, 0]].ravel(), rows), (2 * quads, n)) for k in (1, 2)]
        self.back = [matrix.T.tocsr() for matrix in self.edges]

    def __call__(self, x: Array) -> Array:
        points = np.ascontiguousarray((x - self.origin).T, np.float32) @ self.linear.T
        u, v = (matrix @ points for matrix in self.edges)
        normal = _cross(u, v)
        length = np.maximum(np.sqrt(_dot(normal, normal)), 1e-6)[:, None]
        normal /= length
        cosine = _dot(normal.take(self.one, axis=0), normal.take(self.two, axis=0))
        weight = self.sign / np.sqrt(np.maximum(1 - cosine**2, 0) + SOFT**2)
        self.beside.data = weight.take(self.angle)
        pull = self.beside @ normal
        pull = (normal * _dot(normal, pull)[:, None] - pull) / length
        back = self.back[0] @ _cross(v, pull) + self.back[1] @ _cross(pull, u)
        return (back @ self.linear).T.astype(np.float64)


def _dot(u: Array, v: Array) -> Array:
    return np.einsum("ij,ij->i", u, v)


def _cross(u: Array, v: Array) -> Array:
    (a, b, c), (d, e, f) = u.T, v.T
    return np.stack([b * f - c * e, c * d - a * f, a * e - b * d], axis=1)
