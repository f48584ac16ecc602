"""Classification as a Task: cross-entropy, or CLIP's own loss of pairs; figures of the held-out set as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.systems.clip.classes import class_names
from lorgnette.systems.clip.model import CLIPClassifier
from lorgnette.systems.clip.recipe import Recipe
from lorgnette.systems.clip.scores import confusion, confusion_picture, scores
from lorgnette.systems.clip.weights import Source, companions, load_base, make_head
from lorgnette.train.task import RecipeT, Task

CHUNK = 64  # images scored at a time
LIKELIHOOD = 1e-6
"""What certainty of all right classes is worth in accuracy: less than one picture of a million."""


class Classification(Task):
    """The task around a `CLIPClassifier`; for the batches see `data.py`.

    Args:
        model: the network.
        source: where it comes from: its vocabulary, and how its images are normalised.
        classes: names of the classes that its head tells apart; none, where it has no head.
        recipe: the settings of the model, and the loss.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: CLIPClassifier, source: Source, classes: Sequence[str], recipe: Recipe | None = None):
        super().__init__()
        self.model, self.source, self.recipe = model, source, recipe or Recipe()
        self.classes = tuple(classes)
        for name, values in source.normalisation._asdict().items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def normalised(self, image: Tensor) -> Tensor:
        """Images in [0, 1] as the network takes them."""
        return (image.to(self.mean.device) - self.mean) / self.std

    def logits(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> (B, K)."""
        return self.model(self.normalised(image)).float()

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        if self.recipe.data.loss == "pairs":
            return {"loss": self._pair_loss(batch["image"], batch["caption"])}
        return {"loss": F.cross_entropy(self.logits(batch["image"]), batch["label"])}

    def _pair_loss(self, image: Tensor, captions: Sequence[str]) -> Tensor:
        """Radford et al., arXiv 2103.00020, figure 3; equal captions of a batch all count as right."""
        assert self.source.tokenizer is not None
        model: Any = self.model
        texts = list(dict.fromkeys(captions))
        same = torch.tensor([[a == b for b in captions] for a in captions], dtype=torch.float32)
        place = torch.tensor([texts.index(caption) for caption in captions])
        features = model.image_features(self.normalised(image))
        words = model.text_features(self.source.tokenizer(texts).to(features.device))[place.to(features.device)]
        logits = model.logit_scale.clamp(max=np.log(100.0)).exp() * features @ words.T
        wanted = (same / same.sum(-1, keepdim=True)).to(logits.device)
        return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2

    def take_classes(self, classes: Sequence[str]) -> None:
        """Tell other classes apart from now on, by a new head as the settings say; of a trained one nothing is left.

        Raises:
            ValueError: the text tower is asked, and knows a name not.
        """
        model: Any = self.model
        head = make_head(model, self.source, self.recipe.model, self.recipe.data, tuple(classes))
        model.head, self.classes = head.to(self.mean.device), tuple(classes)

    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """Logits (N, K); the images are read and scored a part at a time."""
        images = batch["image"]
        return torch.cat([self.logits(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)])

    def score(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, float]:
        return scores(prediction, batch["label"])

    def objective(self, metrics: Mapping[str, float]) -> float:
        """Accuracy; of weights that are right equally often, those that gave the right classes more probability."""
        return metrics["accuracy"] + LIKELIHOOD * math.exp(-metrics["nll"])

    def remarks(self, evaluations: Mapping[int, Mapping[str, float]], kept: int) -> list[str]:
        """Whether it grew too sure of itself: right as often or more, and its probabilities worse than they were."""
        if kept not in evaluations:
            return []
        nll = {step: metrics["nll"] for step, metrics in evaluations.items()}
        best = min(nll, key=nll.__getitem__)
        if best > kept or nll[kept] <= 1.1 * nll[best] + 0.01:
            return []
        return [
            f"Its probabilities are worse than they were: nll {nll[kept]:.3f} at step {kept}, which is kept for its"
            f" accuracy, and {nll[best]:.3f} at step {best} (ece {evaluations[kept]['ece']:.3f} and"
            f" {evaluations[best]['ece']:.3f}). More pictures, or --train.steps {max(best, 1)}, make it less sure."
        ]

    def pictures(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """True classes in rows, what they were taken for in columns."""
        return {"confusion": confusion_picture(confusion(prediction, batch["label"]), self.classes)}

    def completed(self, recipe: RecipeT) -> RecipeT:
        """With the names of the classes, so that the folder of training images is needed no more."""
        assert isinstance(recipe, Recipe)
        return replace(recipe, data=replace(recipe.data, classes=self.classes))

    def companions(self) -> dict[str, str]:
        """A whole model is kept as a folder that transformers reads as well."""
        model: Any = self.model
        return companions(model, self.source)


def make_task(recipe: Recipe) -> Classification:
    """The unadapted task of a recipe (see `lorgnette.recipe.build`)."""
    classes = class_names(recipe.data)
    model, source = load_base(recipe.model, recipe.data, classes)
    return Classification(model, source, classes, recipe)
