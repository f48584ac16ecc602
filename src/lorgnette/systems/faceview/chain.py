"""From a picture to embeddings, by ONNX models that the user has: detector, 68 points in space, recogniser.

The files are those that InsightFace's packs hold (detector SCRFD, `1k3d68`, any recogniser of 112 x 112): what they
take and give is read from python-package/insightface, version 2.1. None of them ships or is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lorgnette.systems.faceview.points import heads
from lorgnette.systems.faceview.pose import euler, keypoints_from_68

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Eyes, nose and corners of the mouth in a recogniser's picture (ArcFace, Deng et al., arXiv 1801.07698)."""
SIDE = 112
STRIDES = (8, 16, 32)
OVERLAP = 0.4
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
Pixels = NDArray[np.uint8]
Array = NDArray[np.floating]


@dataclass(frozen=True)
class Face:
    """One face of a picture."""

    embedding: Array
    """(D,), as the recogniser gives it."""
    pose: Array
    """(3,) radians: pitch, yaw, roll."""
    keypoints: Array
    """(5, 3) in the camera, see `keypoints_from_68`."""
    score: float
    """Of the detector, in [0, 1]."""
    side: float
    """The shorter side of its box, in pixels."""
    sharpness: float
    """Variance of the Laplacian of the aligned picture, in levels squared: blurred ones are below about 50."""


class Model:
    """An ONNX file with one input."""

    def __init__(self, file: str, what: str):
        try:
            import onnx
            import onnxruntime
        except ImportError:
            raise ValueError("ONNX is not installed: pip install 'lorgnette[faceview]'") from None
        path = Path(file)
        if not path.is_file():
            raise FileNotFoundError(f"--{what}: no such file: {file}")
        self.name, self.digest = path.name, hashlib.sha256(path.read_bytes()).hexdigest()
        try:
            graph = onnx.load(str(path)).graph
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # both have many of their own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"--{what}: {file} is no ONNX model that can be run ({reason})") from None
        early = [node.op_type for node in graph.node[:8]]
        self.normalises = "Sub" in early and "Mul" in early
        """Whether the file brings levels to its own range itself."""
        given = self.session.get_inputs()
        self.input, self.shape, self.dtype = given[0].name, list(given[0].shape), FLOATS.get(given[0].type)
        if len(given) != 1 or self.dtype is None or len(self.shape) != 4 or self.shape[1] != 3:
            taken = " and ".join(f"{one.name} {list(one.shape)} of {one.type}" for one in given)
            raise ValueError(f"--{what}: {file} takes {taken}; pictures (1, 3, H, W) of floats alone work")

    def side(self, usual: int) -> int:
        """Of its pictures."""
        return self.shape[3] if isinstance(self.shape[3], int) and self.shape[3] > 0 else usual

    def __call__(self, pixels: Any, mean: float, deviation: float) -> list[NDArray[Any]]:
        """Of one RGB picture (H, W, 3)."""
        x = pixels.astype(np.float32)
        if not self.normalises:
            x = (x - mean) / deviation
        try:
            outputs = self.session.run(None, {self.input: x.transpose(2, 0, 1)[None].astype(self.dtype)})
        except Exception as error:  # onnxruntime has many of its own
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.name} does not answer a picture of {x.shape[0]} x {x.shape[1]} ({reason})"
            ) from None
        return [np.asarray(out) for out in outputs]


class FaceModels:
    """Three models, one after another.

    Args:
        detector: a file of SCRFD with keypoints, of nine outputs.
        landmarks: a file of `1k3d68`, whose last 68 points count.
        recognizer: a file that gives one vector for a picture of 112 x 112.
        least_score: faces that the detector is less sure of are none.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: one that is no such model.
    """

    def __init__(self, detector: str, landmarks: str, recognizer: str, least_score: float = 0.5):
        self.detector, self.landmarks = Model(detector, "detector"), Model(landmarks, "landmarks")
        self.recognizer, self.least_score = Model(recognizer, "recognizer"), least_score
        outputs = len(self.detector.session.get_outputs())
        if outputs != 9:
            raise ValueError(f"--detector: {detector} has {outputs} outputs; SCRFD with keypoints has 9")

    @property
    def models(self) -> Iterable[Model]:
        return self.detector, self.landmarks, self.recognizer

    def faces(self, pixels: Pixels) -> list[Face]:
        """All faces of an RGB picture (H, W, 3), the largest first.

        Raises:
            ValueError: a model gives something else than it should.
        """
        found = []
        for box, score, five in self._detected(pixels):
            points = self._points(pixels, box)
            aligned = cv2.warpAffine(pixels, similarity(five, TEMPLATE), (SIDE, SIDE))
            (embedding, *_) = self.recognizer(aligned, 127.5, 127.5)
            grey = cv2.cvtColor(aligned, cv2.COLOR_RGB2GRAY)
            found.append(
                Face(
                    embedding.reshape(-1).astype(np.float32),
                    pose_of(points),
                    keypoints_from_68(torch.from_numpy(points)).numpy().astype(np.float32),
                    score,
                    float(min(box[2] - box[0], box[3] - box[1])),
                    float(cv2.Laplacian(grey, cv2.CV_64F).var()),
                )
            )
        return sorted(found, key=lambda face: -face.side)

    def _detected(self, pixels: Pixels) -> list[tuple[Array, float, Array]]:
        """Boxes (4,), scores and keypoints (5, 2) in pixels of the picture."""
        side = self.detector.side(640)
        scale = side / max(pixels.shape[:2])
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        canvas = np.zeros((side, side, 3), np.uint8)
        canvas[: size[1], : size[0]] = cv2.resize(pixels, size)
        outputs = [out.reshape(-1, out.shape[-1]) for out in self.detector(canvas, 127.5, 128.0)]
        boxes, scores, fives = [], [], []
        for level, stride in enumerate(STRIDES):
            score, box, five = (outputs[level + 3 * part] for part in range(3))
            cells = side // stride
            if score.shape[1] != 1 or box.shape[1] != 4 or five.shape[1] != 10 or len(score) % cells**2:
                shapes = f"{score.shape}, {box.shape}, {five.shape}"
                raise ValueError(f"{self.detector.name} gives {shapes}, which are not SCRFD's shapes")
            grid = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), -1).reshape(-1, 2) * stride
            centres = np.repeat(grid, len(score) // cells**2, 0).astype(np.float32)
            sure = score[:, 0] >= self.least_score
            centre, box, five = centres[sure], box[sure] * stride, five[sure] * stride
            boxes.append(np.concatenate([centre - box[:, :2], centre + box[:, 2:]], 1))
            fives.append(centre[:, None] + five.reshape(-1, 5, 2))
            scores.append(score[sure, 0])
        boxes, fives, score = np.concatenate(boxes) / scale, np.concatenate(fives) / scale, np.concatenate(scores)
        return [(boxes[i], float(score[i]), fives[i]) for i in strongest(boxes, score)]

    def _points(self, pixels: Pixels, box: Array) -> Array:
        """(68, 3) in pixels of the picture."""
        side = self.landmarks.side(192)
        scale = side / (1.5 * max(box[2] - box[0], box[3] - box[1], 1e-6))
        middle = (box[:2] + box[2:]) / 2
        move = np.array([[scale, 0, side / 2 - scale * middle[0]], [0, scale, side / 2 - scale * middle[1]]])
        (out, *_) = self.landmarks(cv2.warpAffine(pixels, move, (side, side)), 127.5, 128.0)
        if out.size % 3 or out.size < 204:
            raise ValueError(f"{self.landmarks.name} gives {out.size} numbers; 1k3d68 gives 3309")
        points = out.reshape(-1, 3)[-68:].astype(np.float64)
        points[:, :2] = ((points[:, :2] + 1) * (side / 2) - move[:, 2]) / scale
        points[:, 2] *= side / 2 / scale
        return points


def strongest(boxes: Array, scores: Array) -> list[int]:
    """Which boxes (N, 4) stay when those that overlap a stronger one by 0.4 of both are dropped, the strongest
    first."""
    area, kept = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1), []
    order = list(np.argsort(-scores, kind="stable"))
    while order:
        first = order.pop(0)
        kept.append(int(first))
        low, high = np.maximum(boxes[first, :2], boxes[order, :2]), np.minimum(boxes[first, 2:], boxes[order, 2:])
        shared = (high - low).clip(0).prod(1)
        both = area[first] + area[order] - shared
        order = [i for i, part, whole in zip(order, shared, both, strict=True) if part <= OVERLAP * whole]
    return kept


def similarity(source: Array, target: Array) -> Array:
    """(2, 3): turn, scale and shift that bring points (N, 2) nearest to others (Umeyama, 1991)."""
    a, b = source.mean(0), target.mean(0)
    u, s, vt = np.linalg.svd((target - b).T @ (source - a))
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt))])
    turn = (s @ sign) / np.square(source - a).sum() * (u * sign) @ vt
    return np.concatenate([turn, (b - turn @ a)[:, None]], 1)


def pose_of(points: Array) -> Array:
    """(3,) radians: the rotation that brings the mean head nearest to 68 points in pixels, y downwards."""
    seen, mean = points * [1, -1, 1], heads().neutral[:68].astype(np.float64)
    u, _, vt = np.linalg.svd((seen - seen.mean(0)).T @ (mean - mean.mean(0)))
    matrix = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return euler(torch.from_numpy(matrix)).numpy().astype(np.float32)
