"""Turn embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lorgnette.common.modules import evaluating
from lorgnette.systems.faceview.pose import Unit, in_radians, keypoints_from_68, normalised_keypoints
from lorgnette.systems.faceview.task import CHUNK, FaceMapping


@torch.no_grad()
def rotate(
    task: FaceMapping,
    embedding: Any,
    pose: Any,
    target_pose: Any = None,
    keypoints: Any = None,
    angle_unit: Unit = "rad",
) -> Tensor:
    """Embeddings as they would be in another pose.

    Args:
        task: from `lorgnette.load` or `lorgnette.build`, on any device.
        embedding: (D,) or (N, D), of any length: a tensor or an array.
        pose: (3,) or (N, 3) that they were taken in: pitch, yaw, roll.
        target_pose: that is wanted, one or one for each; None: frontal.
        keypoints: (5, 3) or (N, 5, 3) in the camera, of any size and place, y up; or 68 of InsightFace, in pixels. A
            network that was trained with keypoints wants them.
        angle_unit: of the poses: 'rad', or 'deg' as InsightFace gives them.

    Returns:
        The shape of `embedding`, each of length 1, on the CPU.

    Raises:
        ValueError: shapes that do not fit, numbers that are none, a pose in degrees that is said to be radians, or
            keypoints that are missing.
    """
    device = next(task.parameters()).device
    src = _tensor(embedding, "embedding")
    single, src = src.ndim == 1, torch.atleast_2d(src)
    width, n = task.recipe.model.d_model, len(src)
    if src.ndim != 2 or src.shape[1] != width or n == 0:
        raise ValueError(f"embedding: shape {tuple(src.shape)} does not work; (N, {width}) does")
    lengths = src.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise ValueError("embedding: one is all zero, which has no direction")
    source = in_radians(_rows(pose, "pose", n), angle_unit, "pose")
    target = (
        None if target_pose is None else in_radians(_rows(target_pose, "target_pose", n), angle_unit, "target_pose")
    )
    five = _five(keypoints, n) if task.recipe.model.keypoints else None
    parts = []
    with evaluating(task):
        for start in range(0, n, CHUNK):
            rows = slice(start, start + CHUNK)
            here = [None if x is None else x[rows].to(device) for x in (src / lengths, source, five, target)]
            parts.append(task.map(*here).cpu())  # pyright: ignore[reportArgumentType]  the first two are tensors
    mapped = torch.cat(parts)
    return mapped[0] if single else mapped


def _tensor(value: Any, name: str) -> Tensor:
    found = torch.as_tensor(value).detach().float().cpu()
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{name}: not all are finite numbers")
    return found


def _rows(value: Any, name: str, n: int) -> Tensor:
    pose = torch.atleast_2d(_tensor(value, name))
    if pose.ndim != 2 or pose.shape[1] != 3 or len(pose) not in (1, n):
        raise ValueError(f"{name}: shape {tuple(pose.shape)} does not work; ({n}, 3) does: pitch, yaw, roll")
    return pose.expand(n, 3)


def _five(keypoints: Any, n: int) -> Tensor:
    if keypoints is None:
        raise ValueError("keypoints: missing; this network was trained with them (five points, or InsightFace's 68)")
    points = _tensor(keypoints, "keypoints")
    points = points[None] if points.ndim == 2 else points
    if points.shape[1:] == (68, 3):
        points = keypoints_from_68(points)
    if points.ndim != 3 or len(points) != n or points.shape[1:] != (5, 3):
        raise ValueError(f"keypoints: shape {tuple(points.shape)} does not work; ({n}, 5, 3) or ({n}, 68, 3) does")
    return normalised_keypoints(points)
