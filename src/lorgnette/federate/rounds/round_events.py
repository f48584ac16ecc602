"""What the rounds tell their listeners. A listener is any callable that takes one event. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RoundsStarted:
    """Rounds from `round` + 1 to `total` are about to run."""

    round: int  # the last one that is done
    total: int
    clients: Sequence[str]
    record: Mapping[str, Any]  # of the last one that is done: see RoundDone


@dataclass(frozen=True)
class RoundStarted:
    """These clients were asked."""

    round: int
    asked: Sequence[str]


@dataclass(frozen=True)
class Answered:
    """A client's update came in and will be used."""

    round: int
    client: str
    samples: int
    size: int  # bytes
    loss: float
    seconds: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class NotUsed:
    """A client's update is not used; `reason` says why in one line."""

    round: int
    client: str
    reason: str


@dataclass(frozen=True)
class RoundDone:
    """A round is closed and saved.

    `record` is its line in journal.jsonl: `round`, `asked`, `answered`, `refused` (client -> reason), `missing`,
    `counted` (false: no quorum, nothing changed), `aggregation_error`, `bytes_up`, `bytes_down`, `metrics`,
    `is_best`, `clients` (name -> samples, loss, update_norm, bytes_up, bytes_down, metrics and, where there are some,
    skipped: steps that changed nothing) and `seconds`.
    """

    round: int
    record: Mapping[str, Any]


@dataclass(frozen=True)
class RoundsEnded:
    """No more rounds: `reason` is "done", "stopped early", "interrupted" or, where an error ended them, "failed"."""

    round: int
    reason: str
    best_round: int
    best: Mapping[str, float | None]


RoundEvent = RoundsStarted | RoundStarted | Answered | NotUsed | RoundDone | RoundsEnded
RoundListener = Callable[[RoundEvent], None]
