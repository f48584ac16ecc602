"""Fewer triangles, within a distance that is measured, and of the same volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lorgnette.systems.mesh.surface.cells import Array, Index
from lorgnette.systems.mesh.surface.crossings import all_crossings
from lorgnette.systems.mesh.surface.mesh import Mesh

TRIES = 7


def decimate(mesh: Mesh, error: float, triangles: int | None = None) -> Mesh:
    """The mesh with fewer triangles, still a closed manifold free of self-intersections.

    Edges are collapsed by quadrics (Garland and Heckbert, SIGGRAPH 1997), in each of its parts by itself, so that none
    vanishes; the volume is restored along the vertices' normals; and the distance between both surfaces is measured:
    where it is above `error`, less is collapsed.

    Args:
        mesh: watertight.
        error: millimetres between the surfaces at most, either way.
        triangles: as many are wished; without it as few as `error` allows.

    Returns:
        The new mesh, whose notes say by how many micrometres it differs at most; as it was where nothing can be saved.
    """
    share = 0.01 if triangles is None else min(1.0, triangles / len(mesh.triangles))
    done = [_part(part, error, max(4, int(share * len(part.triangles)))) for part in _parts(mesh)]
    vertices = np.concatenate([part.vertices for part, _ in done])
    first = np.cumsum([0, *(len(part.vertices) for part, _ in done)])
    faces = np.concatenate([part.triangles + start for (part, _), start in zip(done, first[:-1], strict=True)])
    notes = mesh.notes | {"moved micrometres": round(1000 * max(away for _, away in done))}
    fewer = replace(mesh, vertices=vertices, triangles=faces, notes=notes)
    return mesh if all_crossings(vertices.T, faces) else fewer


def _part(mesh: Mesh, error: float, least: int) -> tuple[Mesh, float]:
    """One part with the fewest triangles found, not below `least`; and how far it is from what it was."""
    best, away = mesh, 0.0
    low, high = np.log(least), np.log(len(mesh.triangles))
    for attempt in range(TRIES):
        count = low if attempt == 0 else (low + high) / 2
        fewer = _simplified(mesh, round(np.exp(count)))
        moved = np.inf
        if fewer.manifold and not all_crossings(fewer.vertices.T, fewer.triangles):
            moved = max(_distance(mesh.vertices, fewer), _distance(_samples(fewer)[0], mesh))
        if moved <= error:
            best, away, high = fewer, moved, count
        else:
            low = count
        if high - low < 0.05:
            break
    return best, away


def _parts(mesh: Mesh) -> list[Mesh]:
    """The closed surfaces that a mesh consists of."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b, n = mesh.triangles.ravel(), mesh.triangles[:, [1, 2, 0]].ravel(), len(mesh.vertices)
    count, owner = connected_components(coo_matrix((np.ones(a.size), (a, b)), (n, n)), directed=False)
    parts = []
    for number in range(count):
        own = owner == number
        faces = (np.cumsum(own) - 1)[mesh.triangles[own[mesh.triangles[:, 0]]]]
        parts.append(replace(mesh, vertices=mesh.vertices[own], triangles=faces))
    return parts


def _simplified(mesh: Mesh, count: int) -> Mesh:
    try:
        from fast_simplification import simplify
    except ImportError:
        raise ValueError("error: saving triangles needs fast-simplification: pip install 'lorgnette[mesh]'") from None
    if count >= len(mesh.triangles) or len(mesh.triangles) <= 20:
        return mesh
    middle = mesh.vertices.mean(0)  # the library works in 32 bits
    points, faces = simplify(
        (mesh.vertices - middle).astype(np.float32), mesh.triangles.astype(np.int32), target_count=count
    )[:2]
    used, faces = np.unique(faces.astype(np.int64), return_inverse=True)
    points, faces = points[used].astype(np.float64), faces.reshape(-1, 3)
    fewer = replace(mesh, vertices=points + middle, triangles=faces)
    return replace(fewer, vertices=_of_volume(points, faces, mesh.volume) + middle) if fewer.manifold else fewer


def _of_volume(points: Array, faces: Index, volume: float) -> Array:
    """The vertices moved along their normals, each in proportion to the area around it, until the volume is right."""
    for _ in range(5):
        mesh = Mesh("", points, faces)
        sums = [np.bincount(faces.ravel(), np.repeat(part, 3), len(points)) for part in mesh.normals.T]
        gradient = np.stack(sums, axis=1) / 3
        points = points + gradient * ((volume - mesh.volume) / (gradient**2).sum())
    return points


def _samples(mesh: Mesh) -> tuple[Array, Index]:
    """Points on a mesh, and the triangle of each: half a median edge apart, at least the middle of each triangle."""
    corners = mesh.vertices[mesh.triangles]
    lengths = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    parts = np.clip(np.ceil(2 * lengths.max(1) / np.median(lengths)), 1, 30).astype(int)
    points, owner = [], []
    for n in np.unique(parts):
        which = np.flatnonzero(parts == n)
        i, j = (a.ravel() for a in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
        i, j = i[i + j < n], j[i + j < n]
        weights = np.stack([i + 1 / 3, j + 1 / 3, n - i - j - 2 / 3], axis=1) / n
        points.append((weights @ corners[which]).reshape(-1, 3))
        owner.append(np.repeat(which, len(weights)))
    return np.concatenate(points), np.concatenate(owner)


def _distance(points: Array, mesh: Mesh) -> float:
    """The largest distance of points from a mesh, never too small: from the triangles with the nearest samples."""
    from scipy.spatial import KDTree

    samples, owner = _samples(mesh)
    near = owner[KDTree(samples).query(points, k=min(6, len(samples)))[1].reshape(len(points), -1)]
    squares = [_to_triangles(points, mesh.vertices[mesh.triangles[k]]) for k in near.T]
    return float(np.sqrt(np.min(squares, axis=0).max()))


def _to_triangles(points: Array, corners: Array) -> Array:
    """Squared distances of points (P, 3) from triangles (P, 3, 3), each from its own."""
    a, b, c = corners.transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    square = np.maximum((normal**2).sum(1), 1e-30)
    inside = np.ones(len(points), bool)
    nearest = np.full(len(points), np.inf)
    for p, q in ((a, b), (b, c), (c, a)):
        edge, to = q - p, points - p
        inside &= (np.cross(edge, to) * normal).sum(1) >= 0
        along = np.clip((to * edge).sum(1) / np.maximum((edge**2).sum(1), 1e-30), 0, 1)
        nearest = np.minimum(nearest, ((to - along[:, None] * edge) ** 2).sum(1))
    height = ((points - a) * normal).sum(1) ** 2 / square
    return np.where(inside, height, nearest)
