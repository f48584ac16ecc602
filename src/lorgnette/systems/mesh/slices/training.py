"""The network's training: a task for the one loop, and examples as its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.systems.mesh.slices.inputs import Values
from lorgnette.systems.mesh.slices.network import Completer, whole
from lorgnette.systems.mesh.slices.variants import Source, example, variant
from lorgnette.train.batches import Draw
from lorgnette.train.task import Task

TWICE = 2
"""Examples that are cut from each variant of an organ."""


class Completing(Task):
    """The task around a completer: of each cell, whether it lies inside.

    A batch holds `inputs` (B, 7, 32, 32, 32), and `share` (B, 32, 32, 32) of each cell that lies inside.
    """

    min_delta = 0.0005

    def __init__(self, model: Completer) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        found, truth = self.predict(batch), batch["share"]
        entropy = F.binary_cross_entropy_with_logits(found, truth)
        inside, axes = torch.sigmoid(found), (1, 2, 3)
        both = (inside * truth).sum(axes)  # soft Dice with squares (Milletari et al., arXiv 1606.04797)
        dice = 1 - ((2 * both + 1) / ((inside**2).sum(axes) + (truth**2).sum(axes) + 1)).mean()
        return {"loss": entropy + dice, "entropy": entropy.detach(), "dice": dice.detach()}

    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """(B, 32, 32, 32) log odds of the cells."""
        return whole(self.model(batch["inputs"]))[:, 0]

    @torch.no_grad()
    def score(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, float]:
        found, truth = prediction > 0, batch["share"] > 0.5
        return {"dice": float(2 * (found & truth).sum() / (found.sum() + truth.sum()).clamp(min=1))}

    def objective(self, metrics: Mapping[str, float]) -> float:
        return metrics["dice"]


class Examples:
    """Variants of organs with some of their slices, for `DrawnBatches`; each item is two of one variant."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, draw: Draw) -> list[tuple[Values, Values]]:
        rng = draw.rng()
        found: list[tuple[Values, Values]] = []
        while len(found) < TWICE:
            other = variant(self.sources[draw.index], rng)
            cut = [example(other, rng) for _ in range(TWICE)]
            found = [*found, *(each for each in cut if each is not None)][:TWICE]
        return found

    @staticmethod
    def collate(items: Sequence[list[tuple[Values, Values]]]) -> dict[str, Tensor]:
        pairs = [pair for item in items for pair in item]
        seen, share = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        return {"inputs": seen, "share": share}
