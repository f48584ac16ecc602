"""The classifier as a function of pictures alone, for export: what the text tower says of the classes is folded in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lorgnette.common.modules import with_functions
from lorgnette.images.waves import waves
from lorgnette.systems.clip.model import CLIPClassifier, TextHead, linear_head
from lorgnette.systems.clip.task import Classification
from lorgnette.systems.protocol import Program
from lorgnette.train.task import Task


class Classifier(nn.Module):
    """(B, 3, S, S) in [0, 1] -> logits (B, K)."""

    def __init__(self, task: Classification):
        super().__init__()
        self.task = task

    def forward(self, image: Tensor) -> Tensor:
        return self.task.logits(image)


@torch.no_grad()
def program(task: Classification) -> Program:
    """See `lorgnette.systems.protocol.Room`.

    Raises:
        ValueError: the task has no classes.
    """
    model: Any = task.model
    assert isinstance(model, CLIPClassifier)
    if isinstance(model.head, nn.Identity):
        raise ValueError(
            "data.classes: this CLIP has no classes yet, so there is nothing to export; name them, or take an adapter"
        )
    folded = copy.copy(model)
    head = linear_head(model.prototypes(model.head.tokens)) if isinstance(model.head, TextHead) else model.head
    folded._modules = {"vision_model": model.vision_model, "visual_projection": model.visual_projection, "head": head}
    of_pictures = copy.copy(task)
    of_pictures._modules = {"model": folded}
    side = model.image_size

    def example(number: int) -> tuple[Tensor, ...]:
        return (waves((2 if number == 0 else (1, 3, 5, 8, 16)[number % 5], 3, side, side), number),)

    def answering(run: Callable[..., Tensor]) -> Task:
        return with_functions(task, logits=run)

    return Program(
        module=Classifier(of_pictures),
        inputs={"image": {0: "n"}},
        output="logits",
        example=example,
        answering=answering,
        facts={"classes": list(task.classes), "image_size": side, "middle": "square, resized by bicubic"},
    )
