"""A feature lifted into space and seen from another side: unprojection, 3-D convolution, volume rendering.

After the projection layer of ViewDiff (Hoellein et al., arXiv 2403.01807), for feature vectors: no picture, no camera
but an orthographic one, and a renderer without a network in it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora import effective_parameter
from lorgnette.systems.faceview.pose import in_radians, rotation


class Rendering(NamedTuple):
    """What is seen along the rays of a volume."""

    image: Tensor
    """(B, C, H, W): the colours, weighted."""
    mask: Tensor
    """(B, 1, H, W) in [0, 1]: the sum of the weights, 1 - prod(1 - alpha)."""
    depth: Tensor
    """(B, 1, H, W): the weighted mean of z; it is largest in front."""
    weights: Tensor
    """(B, 1, D, H, W)."""


def render(density: Tensor, colour: Tensor, depth: Tensor, step: float) -> Rendering:
    """Emission and absorption along the first of the three axes, front first (NeRF, arXiv 2003.08934, eq. 3).

    `alpha_i = 1 - exp(-density_i step)`, `T_i = prod_{j<i} (1 - alpha_j)`, weights `T_i alpha_i`. The product is formed
    as the exponential of a sum, which is the same and can be exported.

    Args:
        density: (B, 1, D, H, W), at least 0.
        colour: (B, C, D, H, W), of any sign.
        depth: (D,) places of the slices.
        step: thickness of a slice.
    """
    thickness = density * step
    transmitted = torch.exp(thickness - thickness.cumsum(2))
    weights = transmitted * (1 - torch.exp(-thickness))
    places = depth.view(1, 1, -1, 1, 1)
    return Rendering((weights * colour).sum(2), weights.sum(2), (weights * places).sum(2), weights)


def turned(volume: Tensor, matrix: Tensor) -> Tensor:
    """A volume as it lies after a rotation about its middle, by trilinear interpolation; 0 outside.

    Args:
        volume: (B, C, D, H, W) over [-1, 1]: x along W, y along H, z along D backwards, so that the front comes first.
        matrix: (B, 3, 3) rotations; what was at p is then at `matrix p`.
    """
    points = _centres(volume.shape[2:], volume)  # (D, H, W, 3), as x, y, z
    sources = torch.einsum("bji,dhwj->bdhwi", matrix, points)
    sampled = sources * sources.new_tensor([1.0, 1.0, -1.0])
    return F.grid_sample(volume, sampled, align_corners=False)


class LightweightFaceProjectionLayer(nn.Module):
    """A feature as it would be seen from another side; residual, and without effect at the start.

    The feature becomes a plane of `plane_size`, which is drawn out along the viewing direction into a voxel grid in the
    source's camera; where the keypoints are is one more channel. Two convolutions give density and colours, the grid is
    turned by R_target R_source^T, rendered, and mapped back. The grid has `voxel_resolution`^3 voxels: twice the
    resolution costs eight times the memory.

    Args:
        feature_dim: C.
        num_keypoints: K.
        voxel_resolution: voxels along an edge, at least 2; 16 is usual.
        voxel_channels: of the grid.
        plane_size: points along an edge of the plane.

    Raises:
        ValueError: a resolution below 2.
    """

    def __init__(
        self,
        feature_dim: int = 512,
        num_keypoints: int = 5,
        voxel_resolution: int = 16,
        voxel_channels: int = 16,
        plane_size: int = 8,
    ):
        super().__init__()
        if voxel_resolution < 2:
            raise ValueError(f"voxel_resolution: {voxel_resolution} is too small; 2 or more works, 16 is usual")
        self.feature_dim, self.num_keypoints = feature_dim, num_keypoints
        self.resolution, self.channels, self.side = voxel_resolution, voxel_channels, plane_size
        self.lift = nn.Linear(feature_dim, voxel_channels * plane_size**2)
        self.volume = nn.Sequential(
            nn.Conv3d(voxel_channels + 1, voxel_channels, 3, padding=1),
            nn.GELU(),
            nn.Conv3d(voxel_channels, voxel_channels + 1, 3, padding=1),
        )
        self.log_width = nn.Parameter(torch.tensor(math.log(0.3)))
        self.background = nn.Parameter(torch.zeros(voxel_channels, 1, 1))
        self.lower = nn.Linear(voxel_channels * plane_size**2, feature_dim)
        nn.init.zeros_(self.lower.weight)
        nn.init.zeros_(self.lower.bias)

    def forward(
        self, features: Tensor, keypoints_3d: Tensor, target_pose: Tensor, source_pose: Tensor | None = None
    ) -> Tensor:
        """Project.

        Args:
            features: (B, C), or maps (B, C, H, W). A vector is a map that is the same everywhere.
            keypoints_3d: (B, K, 3) in the source's camera, about their centre, with a mean distance of about 1, y up.
            target_pose: (B, 3) radians of the head as it is to be seen; zero is frontal.
            source_pose: (B, 3) radians of the head as it was seen; None: frontal.

        Returns:
            The shape of `features`.

        Raises:
            ValueError: shapes that do not fit, or a pose in degrees.
        """
        plane = self.plane(features)
        rendering = self.rendering(plane, keypoints_3d, target_pose, source_pose)
        seen = rendering.image + (1 - rendering.mask) * self.background
        if self.resolution % self.side:  # nothing else of odd sizes can be exported
            seen = F.interpolate(seen, (self.side, self.side), mode="bilinear")
        else:
            seen = F.avg_pool2d(seen, self.resolution // self.side)
        seen = seen.to(features.dtype)
        if features.ndim == 2:
            return features + self.lower(seen.flatten(1))
        weight = effective_parameter(self.lower, "weight").unflatten(1, (self.channels, self.side, self.side))
        mapped = torch.einsum("bkij,ckij->bcij", seen, weight)
        size = features.shape[-2:]
        mapped = mapped.sum((2, 3), keepdim=True) if size == (1, 1) else F.interpolate(mapped, size, mode="bilinear")
        return features + mapped + self.lower.bias.view(1, -1, 1, 1)

    def plane(self, features: Tensor) -> Tensor:
        """(B, C) or (B, C, H, W) -> (B, c, S, S): the same linear map, at each place of its own."""
        if features.ndim not in (2, 4) or features.shape[1] != self.feature_dim:
            wanted = f"(B, {self.feature_dim}) or (B, {self.feature_dim}, H, W)"
            raise ValueError(f"features: shape {tuple(features.shape)} does not work; {wanted} does")
        shape = (self.channels, self.side, self.side)
        if features.ndim == 2:
            return self.lift(features).unflatten(1, shape)
        pooled = F.adaptive_avg_pool2d(features, self.side)
        weight = effective_parameter(self.lift, "weight").unflatten(0, shape)
        return torch.einsum("bcij,kijc->bkij", pooled, weight) + self.lift.bias.view(shape)

    def rendering(
        self, plane: Tensor, keypoints_3d: Tensor, target_pose: Tensor, source_pose: Tensor | None = None
    ) -> Rendering:
        """What is seen of a plane (B, c, S, S) from the target's side, in float32 or wider."""
        if keypoints_3d.shape[1:] != (self.num_keypoints, 3):
            raise ValueError(
                f"keypoints_3d: shape {tuple(keypoints_3d.shape)} does not work; (B, {self.num_keypoints}, 3) does"
                + (" (keypoints_from_68 makes five of 68)" if keypoints_3d.shape[1:] == (68, 3) else "")
            )
        target = in_radians(target_pose, "rad", "target_pose")
        source = torch.zeros_like(target) if source_pose is None else in_radians(source_pose, "rad", "source_pose")
        R = self.resolution
        with torch.autocast(plane.device.type, enabled=False):
            plane, keypoints = plane.to(wide(plane)), keypoints_3d.to(wide(plane))
            drawn_out = F.interpolate(plane, (R, R), mode="bilinear")[:, :, None].expand(-1, -1, R, -1, -1)
            grid = self.volume(torch.cat([drawn_out, self.occupancy(keypoints)], 1))
            density, colour = F.softplus(grid[:, :1] - 1), grid[:, 1:]
            turn = rotation(target.to(grid.dtype)) @ rotation(source.to(grid.dtype)).transpose(1, 2)
            seen = turned(torch.cat([density, colour], 1), turn)
            return render(seen[:, :1], seen[:, 1:], _axis(R, seen).flip(0), 2 / R)

    def occupancy(self, keypoints: Tensor) -> Tensor:
        """(B, K, 3) -> (B, 1, R, R, R): a Gaussian about each keypoint, summed; half the cube is a distance of 1."""
        points = _centres((self.resolution,) * 3, keypoints)
        distance = (points[None, None] - keypoints[:, :, None, None, None] / 2).square().sum(-1)
        return torch.exp(-distance / (2 * torch.exp(2 * self.log_width))).sum(1, keepdim=True)


def wide(tensor: Tensor) -> torch.dtype:
    """float32, or float64 of a float64 tensor."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _axis(n: int, like: Tensor) -> Tensor:
    """Middles of n cells of [-1, 1]."""
    return (torch.arange(n, device=like.device, dtype=like.dtype) * 2 + 1) / n - 1


def _centres(shape: tuple[int, ...] | torch.Size, like: Tensor) -> Tensor:
    """(D, H, W, 3): the middle of each voxel as x, y, z; the front, with the largest z, comes first."""
    z, y, x = (_axis(n, like) for n in shape)
    return torch.stack([part.expand(*shape) for part in (x, y[:, None], z.flip(0)[:, None, None])], -1)
