"""From pose to pose in small steps: a path beside the transformer that learns quickly."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEP = math.radians(15)


class StepPath(nn.Module):
    """Residual blocks, one for each 15 degrees between a view and its target; no effect at the start.

    A turn by 40 degrees goes through the third block by the square of two thirds, then the second and the first; what
    needs no turn goes through none, and what is nearly frontal hardly changes. After AGPM (IJCB 2021), which maps an
    embedding pose by pose, here for any target. Beside its layers with GELU each block has two linear maps of low rank:
    one for turns to the left, one for those to the right.

    Args:
        width: D.
        columns: of the conditions.
        hidden: inside the blocks.
        count: of the blocks; larger turns go through all.
        rank: of the linear maps.
    """

    def __init__(self, width: int, columns: int, hidden: int = 256, count: int = 6, rank: int = 64):
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width + columns, hidden) for _ in range(count))
        self.up = nn.ModuleList(nn.Linear(hidden, width) for _ in range(count))
        self.narrow = nn.ModuleList(nn.Linear(width, 2 * rank, bias=False) for _ in range(count))
        self.wide = nn.ModuleList(nn.Linear(2 * rank, width, bias=False) for _ in range(count))
        for parameter in (*self.up.parameters(), *self.wide.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, condition: Tensor, turn: Tensor) -> Tensor:
        """(B, D), (B, columns), yaw - target yaw (B, 1) in radians -> (B, D)."""
        side = torch.cat([turn > 0, turn <= 0], 1).to(x.dtype)[..., None]
        for number in reversed(range(len(self.down))):
            share = ((turn.abs() - number * STEP) / STEP).clamp(0, 1).square().to(x.dtype)
            step = self.up[number](F.gelu(self.down[number](torch.cat([x, condition], -1))))
            linear = (self.narrow[number](x).unflatten(-1, (2, -1)) * side).flatten(-2)
            x = x + share * (step + self.wide[number](linear))
        return x
