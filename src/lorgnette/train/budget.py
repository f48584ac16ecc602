"""How many steps fit a time: measured on the machine, before a training begins."""

from __future__ import annotations

import copy
import math
import statistics
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lorgnette.common.text import duration

if TYPE_CHECKING:
    from lorgnette.train.batches import Batches, HeldOut
    from lorgnette.train.config import Trains
    from lorgnette.train.task import Task

TRIED = 4  # steps; the first ones are slower and do not count
SCORED = 2  # held-out samples
PART = 0.3  # of the time at most goes into scoring


@dataclass(frozen=True)
class Budget:
    """What fits."""

    steps: int
    eval_every: int
    step_seconds: float
    score_seconds: float
    """Of all held-out samples once."""

    def __str__(self) -> str:
        scores = math.ceil(self.steps / self.eval_every) + 1
        took = self.steps * self.step_seconds + scores * self.score_seconds
        return (
            f"{self.steps} steps of {self.step_seconds:.2g} s, scored {scores} times in {self.score_seconds:.2g} s "
            f"each: about {duration(took)}"
        )


def steps_within(minutes: float, recipe: Trains, task: Task, batches: Batches, test: HeldOut) -> Budget:
    """Measure a few steps and scores on a copy of the task, and plan as many as fit.

    Args:
        minutes: for everything, above 0.
        recipe: its steps and evaluations are not looked at.
        task: stays as it is.
        batches: to learn from; they are drawn from the beginning.
        test: held-out samples, perhaps none.

    Raises:
        ValueError: not even a few steps fit, in one line.
    """
    from lorgnette.train.events import Stepped
    from lorgnette.train.loop import fit

    seconds: list[float] = []
    starts = [time.perf_counter()]

    def listen(event: Any) -> None:
        if isinstance(event, Stepped):
            seconds.append(time.perf_counter() - starts[-1])  # with the time that the batch took
            starts.append(time.perf_counter())

    trial = copy.deepcopy(task)
    fit(trial, batches, replace(recipe.train, steps=TRIED, eval_every=0, patience=0), [listen])
    step = statistics.median(seconds[1:])
    score = _score_seconds(trial, test)
    whole = minutes * 60
    scores = min(11, max(2, int(PART * whole / score))) if score else 1
    steps = int((whole - scores * score) / step)
    if steps < TRIED:
        needed = math.ceil((scores * score + TRIED * step) / 60)
        raise ValueError(f"--minutes: {minutes:g} is too little, a step takes {step:.1f} s here; {needed} works")
    return Budget(steps, max(1, math.ceil(steps / max(1, scores - 1))), step, score)


def _score_seconds(task: Task, test: HeldOut) -> float:
    """How long it takes to score all held-out samples, as far as the first few tell."""
    from lorgnette.train.loop import evaluate

    if not len(test):
        return 0.0
    start, count = time.perf_counter(), min(SCORED, len(test))
    evaluate(task, [test[index] for index in range(count)])
    return (time.perf_counter() - start) / count * len(test)
