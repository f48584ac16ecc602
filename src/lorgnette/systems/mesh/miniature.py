"""The room in miniature: a recipe and batches that train in seconds, without a file."""

from __future__ import annotations

from typing import Any

import numpy as np

from lorgnette.lora.config import LoRAConfig
from lorgnette.systems.mesh.recipe import Data, Model, Recipe
from lorgnette.systems.mesh.samples import Sample, collate, make_sample
from lorgnette.train.config import TrainConfig


def tiny() -> tuple[Recipe, list[dict[str, Any]], list[dict[str, Any]]]:
    """(recipe, training batches, held-out batches): ellipsoids brighter than their surroundings, in a noisy scan."""
    recipe = Recipe(
        model=Model(size="tiny", base="none", loss_chamfer=0.02),
        data=Data(root=None, resolution=4),
        lora=LoRAConfig(
            r=4, lora_alpha=8, target_modules=["to_qkv", "to_out", "input_layer"], modules_to_save=["out_layer"]
        ),
        train=TrainConfig(steps=30, batch_size=2, lr=2e-2, warmup_steps=3, device="cpu"),
    )
    train = [collate([_ellipsoid(2 * step + item) for item in range(2)]) for step in range(4)]
    return recipe, train, [collate([_ellipsoid(100 + number)]) for number in range(2)]


def _ellipsoid(seed: int) -> Sample:
    """Its half axes measure 6 to 10 voxels of 2 mm."""
    rng = np.random.default_rng(seed)
    grid = np.indices((24, 24, 24)) - 11.5
    mask = ((grid / rng.uniform(6, 10, (3, 1, 1, 1))) ** 2).sum(0) < 1
    scan = np.where(mask, 160.0, -80.0) + rng.normal(0, 30, mask.shape)
    return make_sample(mask, np.diag([2.0, 2, 2, 1]), scan, 4, name=f"ellipsoid {seed}")
