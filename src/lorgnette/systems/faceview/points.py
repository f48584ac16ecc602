"""Invented heads seen from all sides by an invented encoder: true geometry in milliseconds, without a picture.

A head is the mean of ICT-FaceKit's scans and a draw of its modes (`heads/README.md`). What the encoder sees of a view
is by how much each visible point lies beside that of the mean head in the same pose; a fixed random network makes 512
numbers of it. Points that turn away fade, so that a profile hides what a front shows.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorgnette.systems.faceview.faces import Array, Person, Views

FILE = Path(__file__).parent / "heads" / "points.npz"
WIDTH, HIDDEN = 512, 1024
FADING = 4.0
"""How fast a point vanishes as its normal turns away from the camera."""
WHITENING = 0.6
"""Modes count by their size to the power 1 - this: encoders of faces weigh the strong ones less."""


class Heads(NamedTuple):
    """Points of the mean head."""

    neutral: Array
    """(P, 3), about their centre."""
    normals: Array
    modes: Array
    """(M, P, 3), for one standard deviation each."""
    importance: Array
    """(M,): what the encoder makes of each mode; all displacements together have a deviation of 1 then."""


class Camera(NamedTuple):
    """What comes between a head and its encoder."""

    noise: float = 0.15
    """Of the place of each point."""
    lost: float = 0.0
    """Share of the points that the camera never sees well."""
    seed: int = 0


CAMERAS = {"points": Camera(), "points-worn": Camera(noise=0.3, lost=0.5, seed=1)}


@lru_cache(maxsize=1)
def heads() -> Heads:
    """The points that ship with the package."""
    with np.load(FILE) as found:
        neutral, normals, modes = (found[name].astype(np.float32) for name in ("neutral", "normals", "modes"))
    importance = np.square(modes).sum((1, 2)) ** (-WHITENING / 2)
    importance /= (modes * importance[:, None, None]).std()
    return Heads(neutral - neutral.mean(0), normals, modes, importance)


def rotations(pose: NDArray[np.floating]) -> Array:
    """`lorgnette.systems.faceview.pose.rotation` of arrays."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(pose).T, np.sin(pose).T
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2).astype(np.float32)


@lru_cache(maxsize=4)
def encoder(seed: int) -> tuple[Array, Array]:
    """Two fixed random matrices."""
    rng, inputs = np.random.default_rng((seed, 11)), 2 * len(heads().neutral)
    first = rng.normal(size=(inputs, HIDDEN)) / inputs**0.5
    return first.astype(np.float32), (rng.normal(size=(HIDDEN, WIDTH)) / HIDDEN**0.5).astype(np.float32)


def look(
    weights: Array, pose: Array, rng: np.random.Generator, camera: Camera = CAMERAS["points"], encoder_seed: int = 0
) -> Views:
    """What the encoder gives of heads in poses.

    Args:
        weights: (N, M) of the modes.
        pose: (N, 3) radians.
        rng: of the noise.
        camera: between head and encoder.
        encoder_seed: which random encoder.

    Returns:
        Unit embeddings, the poses with an error of two degrees as an estimate has, and true keypoints.
    """
    shape, R = heads(), rotations(pose)
    points = shape.neutral + np.einsum("nk,kpi->npi", weights, shape.modes)
    moved = np.einsum("nk,kpi->npi", weights * shape.importance, shape.modes)
    visible = 1 / (1 + np.exp(-FADING * np.einsum("nj,pj->np", R[:, 2], shape.normals)))
    if camera.lost:
        blind = np.random.default_rng((camera.seed, 12)).random(len(shape.neutral)) < camera.lost
        visible[:, blind] *= 0.2
    seen = np.einsum("nij,npj->npi", R[:, :2], moved) * visible[..., None]
    seen = seen.reshape(len(weights), -1) + camera.noise * rng.normal(size=(len(weights), 2 * len(shape.neutral)))
    first, second = encoder(encoder_seed)
    embedding = np.tanh(2 * seen.astype(np.float32) @ first) @ second
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    noisy = pose + np.deg2rad(2) * rng.normal(size=pose.shape)
    return Views(embedding.astype(np.float32), noisy.astype(np.float32), _five(np.einsum("nij,npj->npi", R, points)))


def _five(points: Array) -> Array:
    """Keypoints of landmark points (N, P, 3): from the left of the picture, about their centre, of size 1."""
    eyes = [points[:, 36:42].mean(1), points[:, 42:48].mean(1)]
    five = np.stack([*eyes, points[:, 30], points[:, 48], points[:, 54]], 1)
    five = five - five.mean(1, keepdims=True)
    return (five / np.sqrt(np.square(five).sum(-1).mean(1))[:, None, None]).astype(np.float32)


def invented(
    people: int, views: int, preset: str = "points", seed: int = 0, encoder_seed: int = 0, fronts: int = 2
) -> dict[str, Person]:
    """Persons that do not exist, each with frontal views and others up to profile.

    Args:
        people: how many.
        views: of each beside the frontal ones, |yaw| even from 5 to 90 degrees.
        preset: a name in `CAMERAS`; the frontal views are by the plain camera.
        seed: of heads, poses and noise; other seeds give other heads.
        encoder_seed: which random encoder.
        fronts: frontal views of each.
    """
    modes = len(heads().modes)
    found = {}
    for number in range(people):
        rng = np.random.default_rng((seed, number, 13))
        weights = rng.normal(size=modes).astype(np.float32)
        yaw = rng.uniform(5, 90, views) * rng.choice([-1, 1], views)
        aside = np.deg2rad(np.stack([8 * rng.normal(size=views), yaw, 5 * rng.normal(size=views)], -1))
        ahead = np.deg2rad(5 * rng.normal(size=(fronts, 3)))
        sight = [(ahead, CAMERAS["points"]), (aside, CAMERAS[preset])]
        front, video = (
            look(np.tile(weights, (len(p), 1)), p.astype(np.float32), rng, c, encoder_seed) for p, c in sight
        )
        found[f"{seed}-{number:04d}"] = Person(front, video)
    return found
