"""The room in miniature: a recipe and batches that train in seconds, without a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lorgnette.lora.config import LoRAConfig
from lorgnette.systems.clip import glyphs
from lorgnette.systems.clip.preprocess import unit
from lorgnette.systems.clip.recipe import VISION_TARGETS, Data, Model, Recipe
from lorgnette.train.config import TrainConfig

SIDE = 16


def tiny() -> tuple[Recipe, list[dict[str, Any]], list[dict[str, Any]]]:
    """(recipe, training batches, held-out batches): printed digits, three of them, in colour."""
    classes = glyphs.DIGITS[:3]
    recipe = Recipe(
        model=Model(architecture="tiny", base="none"),
        data=Data(classes=classes, image_size=SIDE),
        lora=LoRAConfig(r=4, lora_alpha=8, target_modules=VISION_TARGETS, modules_to_save=["head"]),
        train=TrainConfig(steps=40, batch_size=12, lr=1e-2, warmup_steps=3, device="cpu"),
    )
    train = [_batch(12, first) for first in range(0, 96, 12)]
    return recipe, train, [_batch(30, 96)]


def _batch(count: int, first: int) -> dict[str, Any]:
    """Pictures number `first` and on, classes in turn."""
    labels = [index % 3 for index in range(first, first + count)]
    pictures = [
        glyphs.draw(np.random.default_rng((7, index)), SIDE, label) for index, label in enumerate(labels, first)
    ]
    images = torch.from_numpy(np.stack([unit(picture.image) for picture in pictures]))
    return {"image": images, "label": torch.tensor(labels)}
