"""Which diagonal cuts each quadrilateral: the choice that makes the angles between neighbouring triangles smallest in
sum.

(Data-dependent triangulation: Dyn, Levin and Rippa, IMA Journal of Numerical Analysis 10, 1990.)
"""

from __future__ import annotations

import numpy as np

from lorgnette.systems.mesh.surface.cells import Array, Index
from lorgnette.systems.mesh.surface.fairing import Fairing, Flags, cross

SWEEPS = 3
# Of a quadrilateral's triangles 012, 023, 013 and 123: which one lies at edge k (from vertex k to k + 1), by diagonal
_AT_EDGE = np.array([[0, 0, 1, 1], [2, 3, 3, 2]])


def choose(fairing: Fairing, x: Array) -> Flags:
    """For each quadrilateral whether vertices 1 and 3 are joined instead of 0 and 2.

    Each edge between quadrilaterals has one angle for each of their four choices, so the sum is a function of pairs
    of yes and no, and "no" costs a quadrilateral less or more by a sum over its neighbours. Each takes in turn what
    costs less.

    Args:
        fairing: of the net.
        x: vertices (3, N), in millimetres.
    """
    from scipy.sparse import coo_matrix

    side, edge, twin_side, twin_edge = twins(fairing)
    here, there = fairing.quad[side], fairing.quad[twin_side]
    both, alone = _costs(fairing, x, side, edge, twin_side, twin_edge)
    place = fairing.net.corners.take(fairing.net.quads[:, 0], axis=1) + 0.5
    turn = (place[0] + 2 * place[1] + 3 * place[2]).astype(np.int64) % 4  # neighbours hardly ever decide together
    choice = (alone < 0).astype(np.float64)
    if fairing.compiled:
        from lorgnette.systems.mesh.surface import kernels

        kernels.sweep()(here, there, both, alone, turn, SWEEPS, choice)
        return choice > 0
    places = np.concatenate([here, there]), np.concatenate([there, here])
    pairs = coo_matrix((np.tile(both, 2), places), (turn.size, turn.size)).tocsr()
    turns = [np.flatnonzero(turn == k) for k in range(4)]
    rows = [(now, alone[now], pairs[now]) for now in turns]
    for now, own, beside in rows * SWEEPS:
        choice[now] = own + beside @ choice < 0
    return choice > 0


def _costs(
    fairing: Fairing, x: Array, side: Index, edge: Index, twin_side: Index, twin_edge: Index
) -> tuple[Array, Array]:
    """What joining vertices 1 and 3 on both sides of an edge costs besides, and each quadrilateral by itself."""
    n = len(fairing.net.quads)
    if fairing.compiled:
        from lorgnette.systems.mesh.surface import kernels

        both, alone = np.empty(side.size), np.zeros(n)
        net = (fairing.net.quads, fairing.sign, fairing.quad)
        kernels.costs()(x, *net, side, edge, twin_side, twin_edge, both, alone)
        return both, alone
    here, there = fairing.quad[side], fairing.quad[twin_side]
    normal = _normals(x, fairing.net.quads).reshape(3, -1)  # of triangle t of quadrilateral q at 4 q + t
    sign = fairing.sign[side] * fairing.sign[twin_side]
    own = [normal.take(4 * here + _AT_EDGE[k, edge], axis=1) * sign for k in range(2)]
    beyond = [normal.take(4 * there + _AT_EDGE[k, twin_edge], axis=1) for k in range(2)]
    (a00, a01), (a10, a11) = [[_angle(u, v) for v in beyond] for u in own]
    alone = np.bincount(here, a10 - a00, n) + np.bincount(there, a01 - a00, n)
    inside = normal.reshape(3, n, 4)
    alone += _angle(inside[:, :, 2], inside[:, :, 3]) - _angle(inside[:, :, 0], inside[:, :, 1])
    return a00 - a01 - a10 + a11, alone


def twins(fairing: Fairing) -> tuple[Index, Index, Index, Index]:
    """Every edge of every organ, once: (side, edge of its quadrilateral, side beyond, edge of that one)."""
    here, there = fairing.edges()
    forward, backward = np.flatnonzero(here < there), np.flatnonzero(here > there)
    m = fairing.vertex.size
    forward = forward[np.argsort(here[forward] * m + there[forward])]
    backward = backward[np.argsort(there[backward] * m + here[backward])]
    return *np.divmod(forward, 4), *np.divmod(backward, 4)


def _normals(x: Array, quads: Index) -> Array:
    """(3, F, 4): unit normals of the triangles 012, 023, 013, 123."""
    a, b, c, d = (x.take(quads[:, k], axis=1) for k in range(4))
    ab, ac, ad = b - a, c - a, d - a
    normals = np.stack([cross(ab, ac), cross(ac, ad), cross(ab, ad), cross(c - b, d - b)], axis=2)
    return normals / np.maximum(np.sqrt((normals**2).sum(0)), 1e-30)


def _angle(u: Array, v: Array) -> Array:
    return np.arccos(np.clip(u[0] * v[0] + u[1] * v[1] + u[2] * v[2], -1, 1))
