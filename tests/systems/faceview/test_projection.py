"""The geometry of the projection layer, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lorgnette.systems.faceview import LightweightFaceProjectionLayer
from lorgnette.systems.faceview.pose import euler, rotation
from lorgnette.systems.faceview.projection import render, turned

K = 5


def layer(resolution: int = 8, **settings) -> LightweightFaceProjectionLayer:
    """One that does something."""
    torch.manual_seed(1)
    made = LightweightFaceProjectionLayer(32, K, resolution, voxel_channels=4, plane_size=4, **settings)
    torch.nn.init.normal_(made.lower.weight, std=0.1)
    torch.nn.init.normal_(made.background)
    return made


@given(st.integers(0, 10**6), st.floats(0.01, 30))
@settings(max_examples=30, deadline=None)
def test_weights_add_up(seed: int, scale: float):
    generator = torch.Generator().manual_seed(seed)
    density = scale * torch.rand(2, 1, 12, 3, 3, generator=generator, dtype=torch.float64)
    colour = torch.randn(2, 4, 12, 3, 3, generator=generator, dtype=torch.float64)
    found = render(density, colour, torch.linspace(1, -1, 12, dtype=torch.float64), 0.1)
    alpha = 1 - torch.exp(-density * 0.1)
    assert torch.allclose(found.weights.sum(2), 1 - (1 - alpha).prod(2), atol=1e-12)
    assert torch.equal(found.mask, found.weights.sum(2))
    assert (found.mask <= 1).all()
    before = torch.cat([torch.ones_like(alpha[:, :, :1]), (1 - alpha).cumprod(2)[:, :, :-1]], 2)
    assert torch.allclose(found.weights, before * alpha, atol=1e-12)


def test_what_is_opaque_hides_what_is_behind():
    density, colour = torch.zeros(1, 1, 6, 2, 2), torch.randn(1, 3, 6, 2, 2)
    density[:, :, 2] = 1e4
    seen = render(density, colour, torch.linspace(1, -1, 6), 0.3)
    assert torch.allclose(seen.image, colour[:, :, 2])
    assert torch.allclose(seen.depth, torch.full((1, 1, 2, 2), 0.2))  # of slice 2


def test_gradients_of_the_renderer():
    density = torch.rand(1, 1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    colour = torch.randn(1, 2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    depth = torch.linspace(1, -1, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda d, c: render(d, c, depth, 0.5)[:3], (density, colour))


def test_gradients_of_the_layer():
    made = LightweightFaceProjectionLayer(6, 2, 3, voxel_channels=2, plane_size=2).double()
    torch.nn.init.normal_(made.lower.weight)
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    keypoints = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    target, source = 0.3 * torch.randn(2, 2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: made(a, b, target, source), (x, keypoints))


@pytest.mark.parametrize(("angle", "axis"), [(0, 0), (1, 1), (2, 2)])
def test_a_voxel_goes_where_the_rotation_says(angle: int, axis: int):
    """One lit voxel of a 5^3 grid, a quarter turn about each axis."""
    pose = torch.zeros(1, 3)
    pose[0, angle] = math.pi / 2
    for start in torch.eye(3):
        volume = torch.zeros(1, 1, 5, 5, 5)
        volume[(0, 0, *voxel(start))] = 1
        found = turned(volume, rotation(pose))
        end = (rotation(pose)[0] @ start).round()
        assert found[(0, 0, *voxel(end))] == pytest.approx(1, abs=1e-5)
        assert found.sum() == pytest.approx(1, abs=1e-4)
        assert torch.allclose(turned(volume, torch.eye(3)[None]), volume, atol=1e-6)


def voxel(point: torch.Tensor) -> tuple[int, int, int]:
    """Index of the outermost voxel in a direction: z from front to back, y, x."""
    x, y, z = (int(2 + 2 * c) for c in point.tolist())
    return 4 - z, y, x


def test_nothing_changes_at_the_start():
    made = LightweightFaceProjectionLayer(feature_dim=512, num_keypoints=5, voxel_resolution=16)
    for features in (torch.randn(8, 512, 1, 1), torch.randn(8, 512), torch.randn(2, 512, 5, 7)):
        n = len(features)
        assert torch.equal(made(features, torch.randn(n, 5, 3), torch.randn(n, 3)), features)


@pytest.mark.parametrize("resolution", [8, 32])
def test_other_resolutions(resolution: int):
    made = LightweightFaceProjectionLayer(64, 5, resolution)
    assert made(torch.randn(2, 64), torch.randn(2, 5, 3), torch.zeros(2, 3)).shape == (2, 64)


def test_maps_and_vectors_are_the_same_map():
    made, x = layer(), torch.randn(2, 32)
    rest = torch.randn(2, K, 3), torch.randn(2, 3)
    single = made(x[:, :, None, None], *rest)
    assert torch.allclose(single[:, :, 0, 0], made(x, *rest), atol=1e-5)
    same = made(x[:, :, None, None].expand(-1, -1, 4, 4), *rest) - x[:, :, None, None]
    # each place adds its share: all together what a vector gets
    bias = made.lower.bias.view(1, -1, 1, 1)
    assert torch.allclose((same - bias).sum((2, 3)) + made.lower.bias, made(x, *rest) - x, atol=1e-4)
    assert made(torch.randn(2, 32, 3, 6), *rest).shape == (2, 32, 3, 6)


def test_everything_it_is_given_counts():
    made, x = layer(), torch.randn(3, 32)
    keypoints, target, source = torch.randn(3, K, 3), 0.5 * torch.randn(3, 3), 0.5 * torch.randn(3, 3)
    usual = made(x, keypoints, target, source)
    assert not torch.allclose(made(x, keypoints + 0.5, target, source), usual, atol=1e-4)
    assert not torch.allclose(made(x, keypoints, target + 0.3, source), usual, atol=1e-4)
    assert not torch.allclose(made(x, keypoints, target, source + 0.3), usual, atol=1e-4)
    assert torch.equal(made(x, keypoints, target), made(x, keypoints, target, torch.zeros(3, 3)))
    alone = made(x[:1], keypoints[:1], target[:1], source[:1])
    assert torch.allclose(alone[0], usual[0], atol=1e-6)


def test_turning_head_and_cameras_together_changes_nothing():
    """Points fixed to the head, and both poses, in another frame: the camera sees the same."""
    made, x = layer(), torch.randn(4, 32)
    head, frame = torch.randn(4, K, 3), rotation(torch.randn(4, 3))
    source, target = rotation(0.6 * torch.randn(4, 3)), rotation(0.6 * torch.randn(4, 3))

    def seen(points: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return made(x, torch.einsum("bij,bkj->bki", source, points), euler(target), euler(source))

    moved = torch.einsum("bij,bkj->bki", frame, head)
    back = frame.transpose(1, 2)
    usual = seen(head, source, target)
    assert torch.allclose(seen(moved, source @ back, target @ back), usual, atol=1e-4)
    assert not torch.allclose(seen(head, source @ back, target), usual, atol=1e-3)


def test_the_same_pose_gives_the_plane_back():
    """Through an even volume nothing but the drawn-out plane is seen, darker by the mask."""
    made = layer()

    class Even(torch.nn.Module):
        def forward(self, x):
            return torch.cat([torch.full_like(x[:, :1], 3.0), x[:, :-1]], 1)

    made.volume = Even()
    plane, pose = torch.randn(2, 4, 4, 4), 0.4 * torch.randn(2, 3)
    with torch.no_grad():
        found = made.rendering(plane, torch.randn(2, K, 3), pose, pose)
    flat = torch.nn.functional.interpolate(plane, (8, 8), mode="bilinear")
    assert torch.allclose(found.image, found.mask * flat, atol=1e-5)
    assert torch.allclose(found.mask, torch.full_like(found.mask, float(found.mask[0, 0, 0, 0])), atol=1e-6)


def test_bf16_renders_in_float32():
    made = layer()
    with torch.autocast("cpu", torch.bfloat16):
        found = made.rendering(torch.randn(2, 4, 4, 4).bfloat16(), torch.randn(2, K, 3), torch.zeros(2, 3))
    assert found.image.dtype == torch.float32


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="voxel_resolution: 1 is too small"):
        LightweightFaceProjectionLayer(32, 5, 1)
    made, x = layer(), torch.randn(2, 32)
    with pytest.raises(ValueError, match="keypoints_from_68 makes five of 68"):
        made(x, torch.randn(2, 68, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(B, 5, 3\) does"):
        made(x, torch.randn(2, 5, 2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="target_pose: 90 is beyond"):
        made(x, torch.randn(2, 5, 3), torch.full((2, 3), 90.0))
    with pytest.raises(ValueError, match=r"features: shape \(2, 31\)"):
        made(torch.randn(2, 31), torch.randn(2, 5, 3), torch.zeros(2, 3))
