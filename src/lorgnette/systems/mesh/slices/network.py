"""A small 3-D convolution net that finds an organ from a scan and a few of its slices."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.systems.mesh.slices.inputs import CHANNELS

WIDTHS = (24, 40, 56)
_PARTS = 8


class Completer(nn.Module):
    """(B, 7, 2 R, 2 R, 2 R) -> (B, 8, R, R, R): of each voxel its eight parts, z fastest; above 0 lies inside.

    A U-Net (Ronneberger et al., MICCAI 2015) with sums for its bridges, on voxels whose eight parts are channels.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.first = nn.Conv3d(_PARTS * CHANNELS, widths[0], 1)
        self.shrink = nn.ModuleList(nn.Conv3d(a, b, 2, 2) for a, b in itertools.pairwise(widths))
        self.grow = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.down = nn.ModuleList(Block(width) for width in widths)
        self.up = nn.ModuleList(Block(width) for width in widths[:-1])
        self.head = nn.Conv3d(widths[0], _PARTS, 1)
        self.given = nn.Conv3d(_PARTS * CHANNELS, _PARTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        given = parts(x)
        x, kept = self.down[0](self.first(given)), []
        for shrink, block in zip(self.shrink, list(self.down)[1:], strict=True):
            kept.append(x)
            x = block(shrink(x))
        for number in reversed(range(len(kept))):
            x = self.up[number](kept[number] + self.grow[number](F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return self.head(x) + self.given(given)


class Block(nn.Module):
    """Two convolutions of 3 x 3 x 3 beside a short cut: (B, C, X, Y, Z) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(width // 8, width) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv3d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            hidden = convolution(F.relu(norm(hidden)))
        return x + hidden


def parts(x: Tensor) -> Tensor:
    """(B, C, 2 R, 2 R, 2 R) -> (B, 8 C, R, R, R): the eight parts of each voxel as channels, side by side."""
    x = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B C X a Y b Z c
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def whole(x: Tensor) -> Tensor:
    """(B, 8 C, R, R, R) -> (B, C, 2 R, 2 R, 2 R): the inverse of `parts`."""
    x = x.unflatten(1, (-1, 2, 2, 2)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)
