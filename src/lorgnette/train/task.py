"""A Task is a model with its loss and its scores: all that the training loop needs to know of a room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from lorgnette.train.config import Trains

RecipeT = TypeVar("RecipeT", bound=Trains)


class Task(nn.Module):
    """Base of every room's task.

    A batch is whatever the room's loaders give (usually a dict of tensors); only the room looks inside.
    """

    model: nn.Module
    min_delta: float = 0.0  # a smaller rise of the objective is no progress: weights are not replaced for it

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Losses of one training batch: scalars by name; `"loss"` is the one that is minimised."""
        raise NotImplementedError

    def predict(self, batch: Any) -> Any:
        """The model's answer for one evaluation batch."""
        raise NotImplementedError

    def score(self, prediction: Any, batch: Any) -> dict[str, float]:
        """Metrics of one prediction. Batches may have different names; each is averaged over those that have it."""
        raise NotImplementedError

    def objective(self, metrics: Mapping[str, float]) -> float:
        """The one figure that decides which weights are best: higher is better."""
        raise NotImplementedError

    def without_network(self, batch: Any) -> dict[str, Any]:
        """What needs no network, to compare with: name -> a prediction for one evaluation batch. None by default."""
        return {}

    @property
    def panels(self) -> tuple[str, ...]:
        """What the parts of each picture show, from left to right. One part without a name by default."""
        return ()

    def pictures(self, prediction: Any, batch: Any) -> dict[str, np.ndarray]:
        """What a person should see of a prediction: name -> (H, W, 3) uint8. None by default."""
        return {}

    def remarks(self, evaluations: Mapping[int, Mapping[str, float]], kept: int) -> list[str]:
        """What a person should know of a run beside the objective, in sentences. Nothing by default.

        Args:
            evaluations: metrics by the step they were taken at.
            kept: the step whose weights are kept.
        """
        return []

    @property
    def remembers(self) -> bool:
        """Whether the room's `enhance` of a frame depends on the frames before it in the same `stream`."""
        return False

    def completed(self, recipe: RecipeT) -> RecipeT:
        """The recipe as it is kept: with what it left to the data. The same by default."""
        return recipe

    def originals(self, last: Mapping[str, Tensor]) -> dict[str, Any]:
        """What a run that trained the whole model writes for the room's original program as well. None by default.

        Args:
            last: all that was trained, by its name in the task, as it was after the last step; the task itself has
                what is kept.

        Returns:
            Name of a file -> what `torch.save` writes into it: tensors and plain containers.
        """
        return {}

    def companions(self) -> dict[str, str]:
        """Text files that are kept beside a whole model: name -> content. None by default."""
        return {}
