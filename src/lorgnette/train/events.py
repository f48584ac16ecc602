"""What the training loop tells its listeners. A listener is any callable that takes one event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from lorgnette.train.config import TrainConfig

Snapshot = Callable[[], dict[str, Any]]  # the state to resume from, as of the event; see lorgnette.train.loop.fit


@dataclass(frozen=True)
class Started:
    """Training is about to do step `step` (0 unless resumed) of `total`."""

    config: TrainConfig
    step: int
    total: int
    trained: int  # parameters that are trained
    frozen: int  # parameters that are not


@dataclass(frozen=True)
class Stepped:
    """An optimiser step is done; `step` counts the finished ones."""

    step: int
    losses: Mapping[str, float]
    grad_norm: float  # of all that is trained, before it was clipped to `clip_norm`
    lr: float
    seconds: float
    snapshot: Snapshot
    applied: bool = True  # False: its gradients were not finite, and nothing was changed


@dataclass(frozen=True)
class Evaluated:
    """The held-out batches were scored after `step` steps (0: before training)."""

    step: int
    metrics: Mapping[str, float]
    is_best: bool
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> (H, W, 3) uint8
    compared: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # before training: what needs no network


@dataclass(frozen=True)
class Finished:
    """No more steps: `reason` is "done", "stopped early" or "interrupted"."""

    step: int
    reason: str
    first: Mapping[str, float]  # metrics before training; empty without held-out batches
    best: Mapping[str, float]
    best_step: int
    improved: bool  # False only if held-out batches say that training did not help
    snapshot: Snapshot
    remarks: tuple[str, ...] = ()  # what the task says of the evaluations, in sentences


Event = Started | Stepped | Evaluated | Finished
Listener = Callable[[Event], None]
