"""Pictures of meshes, drawn here: no graphics card and no library of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lorgnette.systems.mesh.files import vertex_normals
from lorgnette.systems.mesh.surface import Mesh
from lorgnette.systems.mesh.surface.cells import Array, Index
from lorgnette.systems.mesh.surface.rasterize import centres_covered

BACKGROUND = (250, 250, 248)


def draw(meshes: Sequence[Mesh], size: int = 320, turn: float = 30, tilt: float = 15) -> npt.NDArray[np.uint8]:
    """The meshes as somebody sees them who faces the patient, (size, size, 3) uint8.

    Args:
        meshes: in millimetres, RAS+; the frame fits all of them.
        size: of the picture in pixels.
        turn: degrees that the patient turns to their right.
        tilt: degrees that the eye looks down.
    """
    view = _view(np.radians(turn), np.radians(tilt))
    points = [mesh.vertices @ view.T for mesh in meshes]
    everything = np.concatenate(points)
    low, high = everything.min(0), everything.max(0)
    fine = 2 * size  # drawn twice as large, so that edges come out smooth
    scale = 0.92 * fine / max(float((high - low)[:2].max()), 1e-9)
    picture = np.tile(np.array(BACKGROUND, np.float64), (fine * fine, 1))
    depth = np.full(fine * fine, -np.inf)
    for mesh, seen in zip(meshes, points, strict=True):
        light = np.clip(vertex_normals(mesh) @ view.T @ _unit(0.3, 0.5, 0.8), 0, 1)
        shade = 0.35 + 0.65 * light
        placed = (seen - (low + high) / 2) * scale * (1, -1, 1) + (fine / 2, fine / 2, 0)
        front = mesh.triangles[mesh.normals @ view[2] > 0]
        pixel, owner, height, share = _covered(placed[front], fine)
        order = np.argsort(height, kind="stable")  # the nearest is put down last
        order = order[height[order] > depth[pixel[order]]]
        depth[pixel[order]] = height[order]
        tone = (share * shade[front][owner]).sum(1)
        picture[pixel[order]] = tone[order, None] * np.array(mesh.color)
    return picture.reshape(size, 2, size, 2, 3).mean((1, 3)).round().astype(np.uint8)


def _covered(corners: Array, side: int) -> tuple[Index, Index, Array, Array]:
    """(pixel, triangle, height, weights of the corners) wherever a triangle (T, 3, 3) covers the middle of a pixel."""
    which, x, y, weights = centres_covered(corners, (side, side))
    share = (weights / weights.sum(0)).T
    return y * side + x, which, (share * corners[which, :, 2]).sum(1), share


def _view(turn: float, tilt: float) -> Array:
    """From RAS to what is right, up and near for who faces the patient."""
    facing = np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]])
    c, s = np.cos(turn), np.sin(turn)
    around = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = np.cos(tilt), np.sin(tilt)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ around @ facing


def _unit(*v: float) -> Array:
    return np.array(v) / np.linalg.norm(v)
