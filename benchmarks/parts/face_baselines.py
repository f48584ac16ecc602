"""Mappings of face embeddings to compare with, each over the same loss and samples."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.systems.faceview.model import dream_gate

STEP = math.radians(15)


class Dream(nn.Module):
    """DREAM (Cao et al., arXiv 1803.00839): two layers, weighted by the yaw.

    Without the last ReLU of the published code, which lets no number of the residual be negative, on unit vectors.
    """

    def __init__(self, width: int = 512):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, src: Tensor, angles: Tensor, *_: Tensor | None, return_residual: bool = True) -> Tensor:
        yaw = angles[:, 1:2]
        residual = self.second(F.relu(self.first(src))) * dream_gate(yaw, torch.zeros_like(yaw))
        return residual if return_residual else src + residual


class StepByStep(nn.Module):
    """From pose to pose in steps of 15 degrees, after AGPM (IJCB 2021), of whose code nothing is published but weights.

    One small residual block for each step towards the front; a view takes those between its yaw and the front.
    """

    def __init__(self, width: int = 512, hidden: int = 256, steps: int = 6):
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width + 3, hidden) for _ in range(steps))
        self.up = nn.ModuleList(nn.Linear(hidden, width) for _ in range(steps))
        for layer in self.up:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, src: Tensor, angles: Tensor, *_: Tensor | None, return_residual: bool = True) -> Tensor:
        x, yaw = src, angles[:, 1:2].abs()
        for number in reversed(range(len(self.down))):
            share = ((yaw - number * STEP) / STEP).clamp(0, 1)  # of this step that lies between view and front
            x = x + share * self.up[number](F.gelu(self.down[number](torch.cat([x, angles], 1))))
        return x - src if return_residual else x


def linear_by_pose(src: Tensor, angles: Tensor, target: Tensor, penalty: float) -> Tensor:
    """The weights of a ridge regression of the residual on the embedding times functions of the yaw, in closed form."""
    x = _by_yaw(src, angles).double()
    gram = x.T @ x + penalty * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, x.T @ (target - src).double()).float()


def apply_linear(weights: Tensor, src: Tensor, angles: Tensor) -> Tensor:
    return src + _by_yaw(src, angles) @ weights


def _by_yaw(src: Tensor, angles: Tensor) -> Tensor:
    yaw = angles[:, 1:2]
    functions = torch.cat([torch.ones_like(yaw), yaw.sin(), yaw.cos() - 0.6, (2 * yaw).sin()], 1)
    return torch.cat([*(src * functions[:, i : i + 1] for i in range(functions.shape[1])), functions], 1)
