"""The room in miniature: a recipe and batches that train in seconds, without a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorgnette.lora.config import LoRAConfig
from lorgnette.systems.faceview.recipe import TARGETS, Data, Model, Recipe
from lorgnette.train.config import TrainConfig

WIDTH = 32
PEOPLE, VIEWS = 24, 6


def tiny() -> tuple[Recipe, list[dict[str, Any]], list[dict[str, Any]]]:
    """(recipe, training batches, held-out batches): random vectors, to which a turn adds one that all persons share.

    The base is untrained, so the last layer, which is zero then, is trained with the adapters.
    """
    recipe = Recipe(
        model=Model(d_model=WIDTH, nhead=4, num_layers=1, dim_feedforward=32, dropout=0.0, num_tokens=2,
                    allow_untrained=True, gate="none"),
        data=Data(),
        lora=LoRAConfig(r=4, lora_alpha=8, target_modules=TARGETS, modules_to_save=["head"]),
        train=TrainConfig(steps=40, batch_size=24, lr=1e-2, warmup_steps=3, device="cpu"),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shared = torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)
    train = [_batch(generator, shared) for _ in range(8)]
    return recipe, train, [_test(_batch(generator, shared))]


def _batch(generator: torch.Generator, shared: Tensor) -> dict[str, Tensor]:
    target = torch.nn.functional.normalize(torch.randn(PEOPLE, WIDTH, generator=generator), dim=-1)
    person = torch.arange(PEOPLE).repeat_interleave(VIEWS)
    angles = torch.zeros(len(person), 3)
    angles[:, 1] = (torch.rand(len(person), generator=generator) - 0.5) * np.pi
    front = target[person]
    turned = torch.nn.functional.normalize(front + 2 * angles[:, 1:2].sin() * shared, dim=-1)
    keypoints = torch.zeros(len(person), 5, 3)
    keypoints[..., 0], keypoints[..., 2] = angles[:, 1:2].cos(), angles[:, 1:2].sin()
    batch = {"src": turned, "angles": angles, "keypoints": keypoints, "person": person}
    return batch | {"target": front, "pose": torch.zeros(len(person), 3)}


def _test(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    gallery = batch.pop("target")[::VIEWS]
    batch.pop("pose")
    return batch | {"gallery": gallery}
