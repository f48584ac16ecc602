"""Smooth pictures without a file, to try a network with."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def waves(shape: tuple[int, int, int, int], seed: int) -> Tensor:
    """(B, C, H, W) in [0, 1]: in each channel the mean of four waves of random direction and length, 4 pixels at least.

    As strong changes as in photographs, and no noise, which would take a network where it never was in training.
    """
    b, c, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    angle, length, phase = torch.rand(3, b, c, 4, 1, 1, generator=generator)
    y, x = torch.arange(h, dtype=torch.float32)[:, None], torch.arange(w, dtype=torch.float32)
    along = y * torch.sin(2 * math.pi * angle) + x * torch.cos(2 * math.pi * angle)
    return 0.5 + 0.5 * torch.sin(2 * math.pi * (along / (4 + 28 * length) + phase)).mean(2)
