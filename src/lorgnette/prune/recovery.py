"""Learning again what pruning lost: the network as it was is the teacher of what is left of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lorgnette.train.task import Task


class Distilled(Task):
    """What `distilled` adds to the class of a task."""

    teacher: tuple[nn.Module]  # in a tuple: it is no part of what is trained and kept
    share: float

    def forward(self, batch: Any) -> dict[str, Tensor]:
        seen: list[tuple[Any, Any, Tensor]] = []
        hook = self.model.register_forward_hook(lambda *of: seen.append(of[1:]), with_kwargs=True)
        try:
            own = super().forward(batch)["loss"]
        finally:
            hook.remove()
        teacher, apart = self.teacher[0], own.new_zeros(())
        for arguments, named, answer in seen:
            with torch.no_grad():
                wanted = teacher.to(answer.device)(*arguments, **named)
            apart = apart + (answer - wanted).abs().mean() / len(seen)
        return {"loss": (1 - self.share) * own + self.share * apart, "own": own, "teacher": apart}


def distilled(task: Task, teacher: nn.Module, share: float = 1.0) -> Task:
    """A task that learns to answer as a teacher does (Hinton et al., "Distilling the Knowledge in a Neural Network",
    2015): its loss is the mean absolute difference of both networks' outputs on what the task gives its network.

    Args:
        task: with the network that learns; shared by what is returned, which is scored in the same way.
        teacher: a network of the same inputs and outputs; it stays as it is.
        share: of the teacher in the loss, in [0, 1]; the rest is the task's own.
    """
    other = copy.copy(task)
    other.__class__ = type("Distilled", (Distilled, type(task)), {})
    vars(other).update(teacher=(teacher.eval().requires_grad_(False),), share=share)
    return other
