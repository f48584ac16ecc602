"""Super-resolution as a Task: L1 on random points, PSNR and SSIM on whole images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.images.evaluation import image_scores, interpolated, side_by_side
from lorgnette.systems.superres.decoders.continuous import ContinuousImage, from_network, to_network
from lorgnette.systems.superres.recipe import Recipe
from lorgnette.systems.superres.weights import load_base
from lorgnette.train.task import Task


class SuperResolution(Task):
    """The task around a `ContinuousImage`; for batches see `data.py` and, held out, `lorgnette.images.evaluation`."""

    min_delta = 0.02  # dB; nobody sees less

    def __init__(self, model: ContinuousImage):
        super().__init__()
        # channels_last: about a quarter faster in float32 and several times in bfloat16, on CPUs
        self.model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        colours = self.model(_for_network(batch["lq"]), batch["coord"], batch["cell"])
        return {"loss": F.l1_loss(colours, to_network(batch["gt"]))}

    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """(1, 3, H, W) in [0, 1], of the size of `batch["gt"]`."""
        h, w = batch["gt"].shape[-2:]
        enlarged = self.model.render(_for_network(batch["lq"]), (h, w))  # pyright: ignore[reportCallIssue]
        return from_network(enlarged).clamp(0, 1)

    def score(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, float]:
        return image_scores(prediction, batch)

    def objective(self, metrics: Mapping[str, float]) -> float:
        return metrics["psnr"]

    def without_network(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"bicubic": interpolated(batch)}

    @property
    def panels(self) -> tuple[str, ...]:
        return ("bicubic", "network", "truth")

    def pictures(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return side_by_side(prediction, batch)


def _for_network(lq: Tensor) -> Tensor:
    return to_network(lq).contiguous(memory_format=torch.channels_last)


def make_task(recipe: Recipe) -> SuperResolution:
    """The unadapted task of a recipe (see `lorgnette.recipe.build`)."""
    return SuperResolution(load_base(recipe.model))
