"""Head poses: Euler angles in InsightFace's order and what a network reads of them.

A pose is (pitch, yaw, roll) in radians, and turns the head by R = Rz(roll) Ry(yaw) Rx(pitch): the inverse of
InsightFace's `matrix2angle` (version 2.1, thirdparty/face3d/mesh/transform.py) for |yaw| < 90 degrees. Axes: x to the
side, y up, z towards the camera.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Unit = Literal["rad", "deg"]
UNITS = ("rad", "deg")
PER_ANGLE = 3
"""Columns that `pose_features` makes of one angle."""


def rotation(pose: Tensor) -> Tensor:
    """(..., 3) radians -> rotation matrices (..., 3, 3)."""
    (cx, cy, cz), (sx, sy, sz) = pose.cos().unbind(-1), pose.sin().unbind(-1)
    rows = [
        torch.stack([cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx], -1),
        torch.stack([sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx], -1),
        torch.stack([-sy, cy * sx, cy * cx], -1),
    ]
    return torch.stack(rows, -2)


def euler(matrix: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) -> (..., 3) radians, yaw in [-pi/2, pi/2]."""
    pitch = torch.atan2(matrix[..., 2, 1], matrix[..., 2, 2])
    yaw = torch.atan2(-matrix[..., 2, 0], torch.hypot(matrix[..., 0, 0], matrix[..., 1, 0]))
    return torch.stack([pitch, yaw, torch.atan2(matrix[..., 1, 0], matrix[..., 0, 0])], -1)


def mirrored(pose: Tensor) -> Tensor:
    """The pose of the mirrored picture: yaw and roll change their sign."""
    return pose * pose.new_tensor([1.0, -1.0, -1.0])


def pose_features(pose: Tensor) -> Tensor:
    """(..., P) radians -> (..., 3 P): the angles, their sines and cosines."""
    return torch.cat([pose, pose.sin(), pose.cos()], -1)


def in_radians(pose: Tensor, unit: Unit, name: str = "pose") -> Tensor:
    """Angles in radians.

    Raises:
        ValueError: angles beyond a full turn are said to be radians. Not asked while a program is being exported.
    """
    if unit == "deg":
        return pose * (math.pi / 180)
    if pose.numel() and not (torch._C._get_tracing_state() or torch.compiler.is_compiling()):
        check_radians(float(pose.detach().abs().amax()), name)
    return pose


def check_radians(largest: float, name: str) -> None:
    """Refuse angles whose largest size is beyond a full turn, or no number."""
    if not largest <= 2 * math.pi:  # nan compares false
        raise ValueError(
            f"{name}: {largest:.4g} is beyond 2 pi radians; are these degrees, as InsightFace gives them? Say"
            " angle_unit 'deg' (lorgnette rotate --unit deg), or multiply by pi / 180"
        )


def keypoints_from_68(landmarks: Tensor) -> Tensor:
    """The five points of a face from 68 in space.

    Args:
        landmarks: (..., 68, 3) in pixels with y downwards, as InsightFace's `landmark_3d_68`.

    Returns:
        (..., 5, 3): both eyes, the tip of the nose, both corners of the mouth, from the left of the picture; about
        their centre, y up, with a root mean square distance of 1.

    Raises:
        ValueError: another shape, or all points in one place.
    """
    if landmarks.ndim < 2 or landmarks.shape[-2:] != (68, 3):
        raise ValueError(f"landmarks: shape {tuple(landmarks.shape)} does not work; (..., 68, 3) does")
    eyes = [landmarks[..., first : first + 6, :].mean(-2) for first in (36, 42)]
    five = torch.stack([*eyes, landmarks[..., 30, :], landmarks[..., 48, :], landmarks[..., 54, :]], -2)
    return normalised_keypoints(five * five.new_tensor([1.0, -1.0, 1.0]))


def normalised_keypoints(keypoints: Tensor) -> Tensor:
    """(..., K, 3) about their centre, with a root mean square distance of 1.

    Raises:
        ValueError: all points of a face are in one place.
    """
    centred = keypoints - keypoints.mean(-2, keepdim=True)
    size = centred.square().sum(-1, keepdim=True).mean(-2, keepdim=True).sqrt()
    if not bool((size > 0).all()):
        raise ValueError("keypoints: all points of a face are in one place, or are no numbers")
    return centred / size
