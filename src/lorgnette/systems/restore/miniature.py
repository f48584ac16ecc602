"""The room in miniature: a recipe and batches that train in seconds, without a file."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lorgnette.lora.config import LoRAConfig
from lorgnette.systems.restore.recipe import DEFAULT_TARGETS, SCAN_PARAMETERS, Data, Model, Recipe
from lorgnette.train.config import TrainConfig


def tiny() -> tuple[Recipe, list[dict[str, Any]], list[dict[str, Any]]]:
    """(recipe, training batches, held-out batches): noisy waves of random direction."""
    recipe = Recipe(
        model=Model(embed_dim=30, depths=(1,), d_state=4, base="none"),
        data=Data(root=None, patch=12),
        lora=LoRAConfig(
            r=4,
            lora_alpha=8,
            target_modules=DEFAULT_TARGETS,
            target_parameters=SCAN_PARAMETERS,
            modules_to_save=["conv_last"],
            exclude_modules=["conv_last"],
        ),
        train=TrainConfig(steps=30, batch_size=4, lr=1e-2, warmup_steps=3, device="cpu"),
    )
    generator = torch.Generator().manual_seed(0)
    train = [_noisy(torch.stack([_wave(12, generator) for _ in range(4)]), generator) for _ in range(6)]
    scored = {"grey": False, "luma": False, "shave": 0, "label": "sigma25", "name": "wave"}
    test = [_noisy(_wave(20, generator)[None], generator) | scored for _ in range(2)]
    return recipe, train, test


def _wave(side: int, generator: torch.Generator) -> Tensor:
    """(3, side, side) in [0, 1]."""
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float32)] * 2, indexing="ij")
    angle, phase = 2 * math.pi * torch.rand(2, 3, 1, 1, generator=generator)
    return 0.5 + 0.3 * torch.sin(0.5 * (y * torch.sin(angle) + x * torch.cos(angle)) + phase)


def _noisy(gt: Tensor, generator: torch.Generator) -> dict[str, Any]:
    return {"lq": gt + torch.randn(gt.shape, generator=generator) * (25 / 255), "gt": gt}
