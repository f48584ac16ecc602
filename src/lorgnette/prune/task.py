"""Tasks of rooms: pruned by what they learn from, and what that saved."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lorgnette import lora
from lorgnette.common.modules import evaluating
from lorgnette.prune.model import STEP, Cut, prune_channels
from lorgnette.train.task import Task

REPEATS = 7


def prune_task(task: Task, batches: Sequence[Any], pruning_ratio: float = 0.3, step: int = STEP) -> Cut:
    """Take channels out of a task's network, in place, adapters folded in first.

    Args:
        task: on the processor.
        batches: training batches; they decide what goes, and what makes up for it.
        pruning_ratio: as for `lorgnette.prune.prune_model`; so is `step`.

    Raises:
        ValueError: nothing can be taken out, in one line.
    """
    lora.merge_lora_weights(task.model)
    task.requires_grad_(True)

    def passes() -> None:
        for batch in batches:
            task(batch)

    return prune_channels(task.model, _arguments(task, batches[0]), passes, pruning_ratio, step)


@torch.no_grad()
def _arguments(task: Task, batch: Any) -> tuple[Any, ...]:
    """What the task gives its network for one sample of a batch."""
    seen: list[tuple[Any, ...]] = []
    hook = task.model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    try:
        with evaluating(task):
            task(batch)
    finally:
        hook.remove()
    return tuple(x[:1] if isinstance(x, Tensor) else x for x in seen[0])


@dataclass(frozen=True)
class Costs:
    """What a network takes."""

    flops: int
    """For a training batch, forwards: of convolutions and products, as PyTorch counts them."""
    bytes: int
    """Of its tensors."""
    seconds: float
    """For one held-out answer; where nothing is held out, for a training batch, forwards."""


@torch.no_grad()
def costs(tasks: Mapping[str, Task], batch: Any, held_out: Any = None) -> dict[str, Costs]:
    """What the networks of tasks take, timed in turns: by name.

    Args:
        tasks: by name.
        batch: a training batch.
        held_out: a held-out batch, or None.
    """
    flops, taken = {}, {name: list[float]() for name in tasks}
    for name, task in tasks.items():
        with FlopCounterMode(display=False) as counter, evaluating(task):
            task(batch)
        flops[name] = counter.get_total_flops()
    for _ in range(REPEATS + 1):
        for name, task in tasks.items():
            with evaluating(task):
                start = time.perf_counter()
                task(batch) if held_out is None else task.predict(held_out)
                taken[name].append(time.perf_counter() - start)
    return {
        name: Costs(
            flops[name],
            sum(x.numel() * x.element_size() for x in task.model.state_dict().values()),
            statistics.median(taken[name][1:]),
        )
        for name, task in tasks.items()
    }
