"""Training: a task, batches as a function of (seed, step), the one loop, and who listens to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy
from lorgnette.train.config import TrainConfig as TrainConfig

if TYPE_CHECKING:
    from lorgnette.train.loop import evaluate as evaluate, fit as fit
    from lorgnette.train.task import Task as Task

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
