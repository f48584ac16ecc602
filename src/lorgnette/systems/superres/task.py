"""Super-resolution as a Task: L1 on random points, PSNR and SSIM on whole images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.images.metrics import psnr, ssim
from lorgnette.images.pixels import to_uint8
from lorgnette.images.resize import imresize
from lorgnette.systems.superres.model import LMLTE
from lorgnette.systems.superres.recipe import Recipe
from lorgnette.systems.superres.weights import load_base
from lorgnette.train.task import Task


class SuperResolution(Task):
    """The task around an `LMLTE`; for the batches see `data.py`."""

    min_delta = 0.02  # dB; nobody sees less

    def __init__(self, model: LMLTE):
        super().__init__()
        # channels_last: about a quarter faster in float32 and several times in bfloat16, on CPUs
        self.model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inp = batch["inp"].contiguous(memory_format=torch.channels_last)
        return {"loss": F.l1_loss(self.model(inp, batch["coord"], batch["cell"]), batch["gt"])}

    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """(1, 3, H, W) in [0, 1], of the size of `batch["image"]`."""
        h, w = batch["image"].shape[-2:]
        inp = batch["inp"].contiguous(memory_format=torch.channels_last)
        return (self.model.render(inp, (h, w)) * 0.5 + 0.5).clamp(0, 1)  # pyright: ignore[reportCallIssue]

    def score(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, float]:
        return image_scores(prediction, batch)

    def objective(self, metrics: Mapping[str, float]) -> float:
        return metrics["psnr"]

    def pictures(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Side by side: the input enlarged by bicubic, the prediction, the truth."""
        target = batch["image"]
        bicubic = imresize(batch["inp"] * 0.5 + 0.5, size=target.shape[-2:])
        strip = torch.cat([bicubic, prediction, target], dim=-1)[0]
        return {f"{batch['name']} x{batch['scale']:.3g}": to_uint8(strip.permute(1, 2, 0))}


def image_scores(prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, float]:
    """PSNR and SSIM of `prediction` (1, 3, H, W) in [0, 1] as tables report them: on Y, 8-bit, shaved by the scale.

    PSNR comes once more under the scale's own name, so that averages over several scales show each.
    """
    scale = batch["scale"]
    how = {"shave": math.ceil(scale), "grey": batch["grey"], "quantise": True}
    value = psnr(prediction, batch["image"], **how)
    return {
        "psnr": value,
        "ssim": ssim(prediction, batch["image"], **how),
        f"psnr_x{scale:.3g}": value,
    }


def make_task(recipe: Recipe) -> SuperResolution:
    """The unadapted task of a recipe (see `lorgnette.recipe.build`)."""
    return SuperResolution(load_base(recipe.model))
