"""Balls as a decoder would give them: active cubes in whole blocks along the surface, and signed distances there."""

from __future__ import annotations

import torch
from torch import Tensor

from lorgnette.systems.mesh.cube_cases import CORNERS


def shell(side: int, radii: tuple[float, ...], axes: tuple[float, float, float] = (1, 1, 1)) -> tuple[Tensor, Tensor]:
    """Around the middle of a grid of `side` cubes, the ball of the first radius without that of the second, and so on.

    Returns:
        (N, 3) cubes and (N, 53) values, whose distances are in grid units.
    """

    def distance(point: Tensor) -> Tensor:
        apart = ((point - side / 2) / torch.tensor(axes)).norm(dim=-1)
        each = [(apart - r) * (1, -1)[i % 2] for i, r in enumerate(radii)]
        return torch.stack(each).amax(0)

    blocks = torch.cartesian_prod(*[torch.arange(side // 4)] * 3)
    blocks = blocks[distance(blocks * 4 + 2.0).abs() < 3.7]
    cubes = (4 * blocks[:, None] + torch.cartesian_prod(*[torch.arange(4)] * 3)).flatten(0, 1)
    values = torch.zeros(len(cubes), 53)
    values[:, :8] = (distance(cubes[:, None] + CORNERS) + 1) / side
    return cubes, values
