"""Cuts the points of heads that ship with the room faceview out of ICT-FaceKit's identity basis.

python tools/head_points.py ict_facekit_identity.npz LICENSE src/lorgnette/systems/faceview/heads
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

POINTS, MODES = 400, 40


def normals(points: NDArray[np.float32], quads: NDArray[np.integer]) -> NDArray[np.float32]:
    """(N, 3) unit normals of vertices: the sum over their faces, which the diagonals of a quad give."""
    corners = points[quads]
    of_faces = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    found = np.zeros_like(points)
    for corner in range(4):
        np.add.at(found, quads[:, corner], of_faces)
    return found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-9)


def far_apart(points: NDArray[np.float32], first: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Indices of `count` points, the first ones and then always the one that is farthest from all chosen."""
    chosen = list(first)
    distance = np.min([np.linalg.norm(points - points[i], axis=1) for i in chosen], axis=0)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)


def main(source: str, licence: str, folder: str) -> None:
    with np.load(source) as basis:
        neutral, modes, quads = basis["neutral"], basis["modes"][:MODES], basis["quads"].astype(np.int64)
        landmarks, region = basis["landmarks"], basis["region"]
    face = np.flatnonzero(region <= 1)  # without head, neck and eyeballs
    where = {vertex: place for place, vertex in enumerate(face)}
    first = np.array([where[v] if v in where else int(np.linalg.norm(neutral[face] - neutral[v], axis=1).argmin())
                      for v in landmarks])  # fmt: skip
    chosen = face[far_apart(neutral[face], first, POINTS)]
    into = Path(folder)
    np.savez_compressed(
        into / "points.npz",
        neutral=neutral[chosen],
        normals=normals(neutral, quads)[chosen].astype(np.float16),
        modes=modes[:, chosen],
    )
    shutil.copy(licence, into / "LICENSE")


if __name__ == "__main__":
    main(*sys.argv[1:])
