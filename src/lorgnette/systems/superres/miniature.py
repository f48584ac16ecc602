"""The room in miniature: a recipe and batches that train in seconds, without a file."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lorgnette.images.patches import shrink
from lorgnette.lora.config import LoRAConfig
from lorgnette.systems.superres.coords import make_coord
from lorgnette.systems.superres.recipe import DEFAULT_TARGETS, Data, Model, Recipe
from lorgnette.train.config import TrainConfig


def tiny() -> tuple[Recipe, list[dict[str, Any]], list[dict[str, Any]]]:
    """(recipe, training batches, held-out batches): plaids of random frequency, enlarged x2."""
    recipe = Recipe(
        model=Model(encoder="edsr-tiny", base="none"),
        data=Data(root=None, patch=12, points=144),
        lora=LoRAConfig(r=4, lora_alpha=8, target_modules=DEFAULT_TARGETS, modules_to_save=["imnet"]),
        train=TrainConfig(steps=30, batch_size=4, lr=1e-2, warmup_steps=3, device="cpu"),
    )
    generator = torch.Generator().manual_seed(0)
    train = [_training_batch([_plaid(24, generator) for _ in range(4)]) for _ in range(6)]
    test = [_test_batch(_plaid(32, generator)) for _ in range(2)]
    return recipe, train, test


def _plaid(side: int, generator: torch.Generator) -> Tensor:
    """(3, side, side) in [0, 1]: waves along both axes, at frequencies that halving makes hard to see."""
    axis = torch.arange(side, dtype=torch.float32) * 2 * math.pi
    frequency, phase = torch.rand(2, 3, 2, 1, generator=generator)
    waves = torch.sin(axis * (0.05 + 0.2 * frequency) + 2 * math.pi * phase)
    return 0.5 + 0.25 * (waves[:, 0, :, None] + waves[:, 1, None, :])


def _training_batch(images: list[Tensor]) -> dict[str, Tensor]:
    hr = torch.stack(images)
    side = hr.shape[-1]
    coord = make_coord((side, side))
    return {
        "lq": torch.stack([shrink(image, (side // 2, side // 2)) for image in images]),
        "coord": coord.expand(len(hr), -1, -1),
        "cell": torch.full((len(hr), side * side, 2), 2 / side),
        "gt": hr.flatten(2).transpose(1, 2),
    }


def _test_batch(image: Tensor) -> dict[str, Any]:
    half = image.shape[-1] // 2
    scored = {"label": "x2", "shave": 2, "luma": True, "grey": False, "name": "plaid"}
    return {"lq": shrink(image, (half, half))[None], "gt": image[None]} | scored
