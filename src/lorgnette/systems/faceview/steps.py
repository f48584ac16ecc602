"""From pose to pose in small steps: a path beside the transformer that learns quickly."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEP = math.radians(15)


class StepPath(nn.Module):
    """Residual blocks, one for each 15 degrees between a view and its target; no effect at the start.

    A turn by 40 degrees goes through the third block by two thirds, then the second and the first; what needs no turn
    goes through none. After AGPM (IJCB 2021), which maps an embedding pose by pose, for any target.

    Args:
        width: D.
        columns: of the conditions.
        hidden: inside the blocks.
        count: of the blocks; larger turns go through all.
    """

    def __init__(self, width: int, columns: int, hidden: int = 256, count: int = 6):
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width + columns, hidden) for _ in range(count))
        self.up = nn.ModuleList(nn.Linear(hidden, width) for _ in range(count))
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, condition: Tensor, turn: Tensor) -> Tensor:
        """(B, D), (B, columns), |yaw - target yaw| (B, 1) in radians -> (B, D)."""
        blocks = list(zip(self.down, self.up, strict=True))
        for number in reversed(range(len(blocks))):
            share = ((turn - number * STEP) / STEP).clamp(0, 1).to(x.dtype)
            down, up = blocks[number]
            x = x + share * up(F.gelu(down(torch.cat([x, condition], -1))))
        return x
