"""Where triangles go through each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorgnette.systems.mesh.surface.cells import Array, Index
from lorgnette.systems.mesh.surface.fairing import Fairing, Flags, cross

PLANES = 3  # that are tried between two quadrilaterals
BATCH = 2**18  # pairs of triangles looked at together
PART = 2**14  # triangles whose neighbours are looked up together


def crossing_quads(fairing: Fairing, x: Array, diagonal: Flags, towards: Array) -> Index:
    """The quadrilaterals of a net that go through another one.

    With its vertices in their cells a quadrilateral lies in the box around its four cells, and two such boxes only
    meet where they share a cell. So only quadrilaterals around one vertex can cross, and those that are turned the
    same way as seen along the vertex's normal do not: the others are looked at pair by pair.

    Args:
        fairing: of the net.
        x: vertices (3, N), each in its cell.
        diagonal: of each quadrilateral, whether it is cut from vertex 1 to 3 instead of from 0 to 2.
        towards: `fairing.at_vertices` of these.
    """
    folded, several = _folded(fairing, x, towards), _several(fairing)
    suspects = folded | several
    if not suspects.any():
        return np.empty(0, np.int64)
    triangles, n_quads, sides = fairing.triangles(diagonal), len(fairing.net.quads), fairing.net.sides
    vertex = fairing.net.quads.ravel()
    at = np.flatnonzero(suspects[vertex])
    at = at[np.argsort(vertex[at], kind="stable")]
    start, count = np.unique(vertex[at], return_index=True, return_counts=True)[1:]
    pairs = []
    for far in range(1, int(count.max())):
        has = start[count > far]
        pairs += [np.stack([at[has + near], at[has + far]], axis=1) for near in range(far)]
    pair = np.concatenate(pairs)
    one, other = sides[pair[:, 0] // 4], sides[pair[:, 1] // 4]
    of_one_organ = ((one[:, :, None] == other[:, None, :]) & (one[:, :, None] >= 0)).any((1, 2))
    pair = pair[folded[vertex[pair[:, 0]]] | ~of_one_organ]
    pair = pair[~_on_two_sides(fairing, x, towards, pair)] // 4
    first, second = (np.stack([pair[:, k], pair[:, k] + n_quads]) for k in range(2))
    both = np.stack(np.broadcast_arrays(first[:, None], second[None]), axis=-1).reshape(-1, 2)
    return np.unique(both[crossing(x, triangles, both, fairing.compiled)].ravel() % n_quads)


def _folded(fairing: Fairing, x: Array, towards: Array) -> Flags:
    """The vertices around which some quadrilateral is not seen from its front, convex, along the mean normal."""
    folded = np.zeros(x.shape[1], bool)
    if fairing.compiled:
        from lorgnette.systems.mesh.surface import kernels

        net = (fairing.net.quads, fairing.sign, fairing.quad, fairing.row, fairing.vertex, fairing.degree)
        kernels.folded()(x, *net, towards, folded)
        return folded
    a, b, c, d = (x.take(fairing.net.quads[:, k], axis=1) for k in range(4))
    whole, one, other = (
        cross(u, v).take(fairing.quad, axis=1) * fairing.sign
        for u, v in ((c - a, d - b), (b - a, c - a), (b - a, d - a))
    )
    for corner in range(4):
        row = fairing.row[:, corner]
        normal = towards.take(row, axis=1)
        total, first, second = (n[0] * normal[0] + n[1] * normal[1] + n[2] * normal[2] for n in (whole, one, other))
        least, most = np.minimum(first, second), np.maximum(first, second)
        folded[fairing.vertex[row[(least <= 0) | (most >= total)]]] = True
    folded[fairing.vertex[_turns(fairing, x, towards) != 1]] = True
    return folded


def _several(fairing: Fairing) -> Flags:
    """The vertices where more than two organs meet, or two and the outside: there is no one sheet around them."""
    outside = np.zeros(fairing.net.corners.shape[1], bool)
    outside[fairing.net.quads[(fairing.net.sides < 0).any(1)]] = True
    return fairing.shared + outside > 2


def _on_two_sides(fairing: Fairing, x: Array, towards: Array, pair: Index) -> Flags:
    """Which pairs of corners (P, 2) of quadrilaterals, 4 q + k each, both at one vertex, have a plane between them
    through that vertex and, where they share a second one, through both. The first plane that is tried lies across the
    difference of their organs' normals, each further one is turned towards what was on the wrong side (the perceptron:
    Rosenblatt, Psychological Review 65, 1958)."""
    side = np.empty(len(fairing.net.quads), np.int64)
    side[fairing.quad] = np.arange(fairing.quad.size)
    if fairing.compiled:
        from lorgnette.systems.mesh.surface import kernels

        apart = np.empty(len(pair), bool)
        kernels.on_two_sides()(x, towards, fairing.net.quads, side, fairing.row, pair, PLANES, apart)
        return apart
    quad, corner = np.divmod(pair.T, 4)
    others = np.stack([fairing.net.quads[quad, (corner + k) % 4] for k in (1, 2, 3)])  # (3, 2, P)
    both = others[:, None, 0] == others[None, :, 1]
    away = x.take(others, axis=1) - x.take(fairing.net.quads[quad[0], corner[0]], axis=1)[:, None, None]
    edge = (away[:, :, 0] * both.any(1)).sum(1)
    edge /= np.maximum(np.sqrt((edge**2).sum(0)), 1e-30)
    away[:, :, 0] *= -1  # now the plane's normal and each of these should be of one side
    free = ~np.stack([both.any(1), both.any(0)], axis=1)
    away, free = away.reshape(3, 6, -1), free.reshape(6, -1)
    normal = towards.take(fairing.row[side[quad], corner], axis=1)
    normal = normal[:, 0] - normal[:, 1]
    least = np.zeros(len(pair))
    for _ in range(PLANES):
        normal -= edge * (normal * edge).sum(0)
        height = np.where(free, (away * normal[:, None]).sum(0), np.inf)
        worst = height.argmin(0)[None]
        least = np.take_along_axis(height, worst, 0)[0]
        wrong = np.take_along_axis(away, worst[None], 1)[:, 0]
        normal -= 1.5 * np.minimum(least, 0) * wrong / np.maximum((wrong**2).sum(0), 1e-30)
    return (least > 0) & (both.sum((0, 1)) < 2)


def _turns(fairing: Fairing, x: Array, towards: Array) -> Index:
    """How often the quadrilaterals around a row go around its normal; said to be 1 where they are too few for twice."""
    many = fairing.degree >= 5  # each takes less than half a turn
    side, corner = np.divmod(np.flatnonzero(many[fairing.row.ravel()]), 4)
    row = fairing.row[side, corner]
    away = towards[:, row]
    across = cross(away, np.eye(3)[:, np.abs(away).argmin(0)])
    step = np.where(fairing.sign[side] > 0, 1, 3)
    at, *ends = (
        x.take(fairing.vertex[fairing.row[side, (corner + k) % 4]], axis=1) for k in (0 * step, step, 4 - step)
    )
    before, after = (((end - at) * across).sum(0) > 0 for end in ends)  # the ray that is counted lies between them
    return np.where(many, np.bincount(row[~before & after], minlength=many.size), 1)


def crossing(x: Array, triangles: Index, pairs: Index, compiled: bool = False) -> Flags:
    """Which pairs of triangles go through each other; what they share, a vertex or an edge, is no crossing.

    Args:
        x: vertices (3, N).
        triangles: (T, 3).
        pairs: (P, 2), of triangles.
        compiled: by `kernels`, which needs numba.
    """
    if compiled:
        from lorgnette.systems.mesh.surface import kernels

        found = np.empty(len(pairs), bool)
        kernels.crossing()(x, triangles, pairs, found)
        return found
    return np.concatenate(
        [_crossing(x, triangles[p[:, 0]], triangles[p[:, 1]]) for p in np.array_split(pairs, 1 + len(pairs) // BATCH)]
    )


def _crossing(x: Array, first: Index, second: Index) -> Flags:
    shared = (first[:, :, None] == second[:, None, :]).sum((1, 2))
    found = np.zeros(len(first), bool)
    todo = np.flatnonzero(shared < 2)
    for one, other in ((first, second), (second, first)):  # planes that have the other triangle on one side
        height = _heights(x, one[todo], other[todo])
        height[(one[todo][:, :, None] == other[todo][:, None, :]).any(1)] = 0
        todo = todo[(height.max(1, initial=0) > 0) & (height.min(1, initial=0) < 0)]
    for one, other in ((first[todo], second[todo]), (second[todo], first[todo])):
        height = _heights(x, one, other)
        for k in range(3):
            p, q = other[:, k], other[:, (k + 1) % 3]
            apart = ~((one == p[:, None]) | (one == q[:, None])).any(1)
            pierces = height[:, k] * height[:, (k + 1) % 3] < 0
            volumes = [_volume(x, p, q, one[:, i], one[:, (i + 1) % 3]) for i in range(3)]
            inside = np.all([v >= 0 for v in volumes], axis=0) | np.all([v <= 0 for v in volumes], axis=0)
            found[todo[apart & pierces & inside]] = True
    return found


def _heights(x: Array, one: Index, other: Index) -> Array:
    """(P, 3): on which side of the plane of `one` each vertex of `other` is."""
    a, b, c = (x[:, one[:, k]] for k in range(3))
    normal = cross(b - a, c - a)
    return np.stack([(normal * (x[:, other[:, k]] - a)).sum(0) for k in range(3)], axis=1)


def _volume(x: Array, p: Index, q: Index, a: Index, b: Index) -> Array:
    origin = x[:, p]
    return (cross(x[:, q] - origin, x[:, a] - origin) * (x[:, b] - origin)).sum(0)


def all_crossings(x: Array, triangles: Index) -> int:
    """How many pairs of triangles of any mesh go through each other.

    Args:
        x: vertices (3, N).
        triangles: (T, 3).
    """
    corners = x[:, triangles]  # (3, T, 3)
    low, high = corners.min(2), corners.max(2)
    found = 0
    for pairs in _near(corners):
        meet = (low[:, pairs[:, 0]] <= high[:, pairs[:, 1]]).all(0) & (low[:, pairs[:, 1]] <= high[:, pairs[:, 0]]).all(
            0
        )
        found += int(crossing(x, triangles, pairs[meet]).sum())
    return found


def _near(corners: Array) -> Iterator[Index]:
    """Pairs (P, 2) of triangles (3, T, 3), among them all whose boxes meet; some at a time.

    Each triangle is looked up among those of its size and the smaller ones, so that one large triangle does not make
    all small ones neighbours of each other.
    """
    from scipy.spatial import KDTree

    middle = corners.mean(2)
    radius = np.sqrt(((corners - middle[:, :, None]) ** 2).sum(0).max(1))
    size = np.ceil(np.log2(np.maximum(radius, 1e-30)))
    for now in np.unique(size):
        own, others = np.flatnonzero(size == now), np.flatnonzero(size <= now)
        tree, reach = KDTree(middle[:, others].T), 2 * radius[own].max()
        for part in np.array_split(own, 1 + len(own) // PART):
            near = KDTree(middle[:, part].T).sparse_distance_matrix(tree, reach, output_type="ndarray")
            one, other = part[near["i"]], others[near["j"]]
            once = (size[other] < now) | (one < other)
            yield np.stack([one[once], other[once]], axis=1)
