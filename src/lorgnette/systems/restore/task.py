"""Restoration as a Task: a pixel loss on crops, PSNR and SSIM on whole images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.images.metrics import psnr, ssim
from lorgnette.images.pixels import to_uint8
from lorgnette.images.resize import imresize
from lorgnette.systems.restore.model import MambaIR
from lorgnette.systems.restore.recipe import Data, Recipe
from lorgnette.systems.restore.weights import load_base
from lorgnette.train.task import Task


class Restoration(Task):
    """The task around a `MambaIR`; for the batches see `data.py`.

    Args:
        model: the network.
        data: what it is for: the damage, how results are scored, the loss.
    """

    min_delta = 0.02  # dB; nobody sees less

    def __init__(self, model: MambaIR, data: Data | None = None):
        super().__init__()
        self.model, self.data = model, data or Data()

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        restored = self.model(batch["lq"], batch.get("cache_key"))
        if self.data.loss == "charbonnier":  # Lai et al., arXiv 1704.03915
            return {"loss": (restored - batch["gt"]).square().add(1e-12).sqrt().mean()}
        return {"loss": F.l1_loss(restored, batch["gt"])}

    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """(1, C, H, W) in [0, 1]."""
        return self.model(batch["lq"], batch.get("cache_key")).clamp(0, 1)

    def score(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, float]:
        return image_scores(prediction, batch)

    def objective(self, metrics: Mapping[str, float]) -> float:
        return metrics["psnr"]

    def pictures(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Side by side: the input (enlarged by bicubic), the result, the truth."""
        truth = batch["gt"]
        before = batch["lq"]
        if before.shape != truth.shape:
            before = imresize(before, size=truth.shape[-2:])
        strip = torch.cat([before.clamp(0, 1), prediction, truth], dim=-1)[0].expand(3, -1, -1)
        return {f"{batch['name']} {batch['label']}": to_uint8(strip.permute(1, 2, 0))}


def image_scores(prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, float]:
    """PSNR and SSIM of `prediction` (1, C, H, W) in [0, 1] as the field's tables report them, on 8-bit levels.

    Denoising: on RGB, whole. JPEG: on Y, whole. Super-resolution: on Y, shaved by the factor; or as the settings say.
    One channel, and the Y of grey images, are compared in their full range. PSNR comes once more under the name of
    the damage, so that averages show each.
    """
    how = {"shave": batch["shave"], "luma": batch["luma"], "grey": batch["grey"], "quantise": True}
    a, b = (image.expand(-1, 3, -1, -1) for image in (prediction, batch["gt"]))
    value = psnr(a, b, **how)
    return {"psnr": value, "ssim": ssim(a, b, **how), f"psnr_{batch['label']}": value}


def make_task(recipe: Recipe) -> Restoration:
    """The unadapted task of a recipe (see `lorgnette.recipe.build`)."""
    return Restoration(load_base(recipe.model), recipe.data)
