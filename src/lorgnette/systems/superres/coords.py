"""Pixel coordinates of implicit image functions: [-1, 1] spans the image from edge to edge."""

from __future__ import annotations

import torch
from torch import Tensor


def axis_coords(n: int, device: torch.device | None = None) -> Tensor:
    """Centres of `n` pixels along one axis: (n,) float32, `-1 + (2i + 1) / n`."""
    return (torch.arange(n, dtype=torch.float32, device=device) * 2 + 1) / n - 1


def make_coord(size: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Centres of all pixels of an image: (H * W, 2) float32, row by row, each as (y, x)."""
    y, x = (axis_coords(n, device) for n in size)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)


def grid_size(feat: Tensor) -> Tensor:
    """Height and width of (B, C, h, w): (2,) float32. A tensor made of a list would fix them in an exported program."""
    return torch.cat([torch.full((1,), n, dtype=torch.float32, device=feat.device) for n in feat.shape[-2:]])
