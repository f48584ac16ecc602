"""Euler angles as InsightFace has them, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lorgnette.systems.faceview import keypoints_from_68
from lorgnette.systems.faceview.pose import euler, in_radians, mirrored, pose_features, rotation

ANGLES = st.tuples(st.floats(-3, 3), st.floats(-1.5, 1.5), st.floats(-3, 3))


def matrix2angle(R: np.ndarray) -> tuple[float, float, float]:
    """InsightFace's formula, in radians."""
    sy = math.sqrt(R[0, 0] ** 2 + R[1, 0] ** 2)
    return math.atan2(R[2, 1], R[2, 2]), math.atan2(-R[2, 0], sy), math.atan2(R[1, 0], R[0, 0])


@given(ANGLES)
@settings(max_examples=60, deadline=None)
def test_angles_come_back(angles: tuple[float, float, float]):
    pose = torch.tensor(angles, dtype=torch.float64)
    R = rotation(pose)
    assert torch.allclose(R @ R.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.det(R) == pytest.approx(1)
    assert torch.allclose(euler(R), pose, atol=1e-9)
    assert matrix2angle(R.numpy()) == pytest.approx(angles, abs=1e-9)


def test_what_the_angles_turn():
    right_angle = math.pi / 2
    x, y, z = torch.eye(3)
    pitch, yaw, roll = (rotation(right_angle * axis) for axis in torch.eye(3))
    for matrix, start, end in [(pitch, y, z), (yaw, z, x), (roll, x, y)]:
        assert torch.allclose(matrix @ start, end, atol=1e-6)


@given(ANGLES)
@settings(max_examples=40, deadline=None)
def test_a_mirror_flips_yaw_and_roll(angles: tuple[float, float, float]):
    pose = torch.tensor(angles, dtype=torch.float64)
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
    assert torch.allclose(rotation(mirrored(pose)), flip @ rotation(pose) @ flip, atol=1e-12)


def test_features_of_a_pose():
    columns = pose_features(torch.tensor([0.0, math.pi / 2, 0.0])).tolist()
    assert columns == pytest.approx([0, math.pi / 2, 0, 0, 1, 0, 1, 0, 1], abs=1e-6)


def test_degrees_are_noticed():
    degrees = torch.tensor([[2.0, 65.0, -3.0]])
    with pytest.raises(ValueError, match="beyond 2 pi radians; are these degrees") as refusal:
        in_radians(degrees, "rad")
    assert "\n" not in str(refusal.value)
    assert torch.allclose(in_radians(degrees, "deg"), torch.deg2rad(degrees))
    with pytest.raises(ValueError, match="nan"):
        in_radians(torch.tensor([[float("nan")] * 3]), "rad")


def test_five_points_of_68():
    landmarks = torch.zeros(2, 68, 3)
    landmarks[:, 36:42] = torch.tensor([10.0, 20, 0])
    landmarks[:, 42:48] = torch.tensor([30.0, 20, 0])
    landmarks[:, 30] = torch.tensor([20.0, 30, 15])
    landmarks[:, 48] = torch.tensor([12.0, 40, 2])
    landmarks[:, 54] = torch.tensor([28.0, 40, 2])
    five = keypoints_from_68(landmarks)
    assert torch.allclose(five.mean(1), torch.zeros(2, 3), atol=1e-6)
    assert torch.allclose(five.square().sum(-1).mean(1), torch.ones(2))
    assert five[0, 0, 1] > five[0, 2, 1] > five[0, 3, 1]  # eyes above the nose above the mouth: y is up
    assert five[0, 0, 0] < five[0, 1, 0]
    assert five[0, 2, 2] == five[0, :, 2].max()
    assert torch.allclose(keypoints_from_68(landmarks * 7 + 3), five, atol=1e-5)
    with pytest.raises(ValueError, match="one place"):
        keypoints_from_68(torch.zeros(1, 68, 3))
    with pytest.raises(ValueError, match=r"\(\.\.\., 68, 3\) does"):
        keypoints_from_68(torch.zeros(1, 5, 3))
