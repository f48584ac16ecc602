"""Restoration as a Task: a pixel loss on crops, PSNR and SSIM on whole images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.images.evaluation import image_scores, interpolated, side_by_side
from lorgnette.systems.restore.model import MambaIR
from lorgnette.systems.restore.recipe import Data, Recipe
from lorgnette.systems.restore.weights import load_base
from lorgnette.train.task import Task

ORIGINAL = "net_g_latest.pth"


class Restoration(Task):
    """The task around a `MambaIR`; for batches see `data.py` and, held out, `lorgnette.images.evaluation`.

    Args:
        model: the network.
        data: what it is for: the damage, how results are scored, the loss.
    """

    min_delta = 0.02  # dB; nobody sees less

    def __init__(self, model: MambaIR, data: Data | None = None):
        super().__init__()
        self.model, self.data = model, data or Data()

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        lq = batch["lq"]
        if lq.ndim == 4:
            return {"loss": self._loss(self.model(lq, batch.get("cache_key")), batch["gt"])}
        # Frames of clips (B, n, C, h, w), one after the other. No step sees the maps of another, made by other weights.
        key = tuple(batch["cache_key"])
        restored = self._in_turn(lq.unbind(1), key)
        return {"loss": self._loss(torch.stack(restored, 1), batch["gt"]), "share": self._shares().abs().mean()}

    def _in_turn(self, frames: Sequence[Tensor], key: object) -> list[Tensor]:
        network = cast(MambaIR, self.model)
        network.clear_cache()
        restored = [network(frame, key) for frame in frames]
        network.clear_cache()
        return restored

    def _shares(self) -> Tensor:
        return cast(MambaIR, self.model).shares()

    def _loss(self, restored: Tensor, gt: Tensor) -> Tensor:
        if self.data.loss == "charbonnier":  # Lai et al., arXiv 1704.03915
            return (restored - gt).square().add(1e-12).sqrt().mean()
        return F.mse_loss(restored, gt) if self.data.loss == "l2" else F.l1_loss(restored, gt)

    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """(1, C, H, W) in [0, 1]; of a frame of a clip with the frames before it in the feature cache."""
        if not (self.remembers and len(batch.get("before", ()))):
            return self.model(batch["lq"], batch.get("cache_key")).clamp(0, 1)
        frames = (*batch["before"].to(batch["lq"].device), batch["lq"])
        return self._in_turn(frames, "clip")[-1].clamp(0, 1)

    @property
    def remembers(self) -> bool:
        """See `Task`: where the share of the feature cache is not 0."""
        return bool(self._shares().any())

    def score(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, float]:
        return image_scores(prediction, batch)

    def objective(self, metrics: Mapping[str, float]) -> float:
        return metrics["psnr"]

    def without_network(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {self.panels[0]: interpolated(batch)}

    @property
    def panels(self) -> tuple[str, ...]:
        return ("bicubic" if self.data.scale > 1 else "damaged", "network", "truth")

    def pictures(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return side_by_side(prediction, batch)

    def originals(self, last: Mapping[str, Tensor]) -> dict[str, Any]:
        """BasicSR's file: `params_ema` is what is kept (the best weights, averaged if `ema_decay` is set), `params`
        what the last step left."""
        kept = {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}
        return {ORIGINAL: {"params": {n: last.get(f"model.{n}", t) for n, t in kept.items()}, "params_ema": kept}}


def make_task(recipe: Recipe) -> Restoration:
    """The unadapted task of a recipe (see `lorgnette.recipe.build`)."""
    return Restoration(load_base(recipe.model), recipe.data)
