"""Say what is on a picture."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

import torch

from lorgnette.common.modules import evaluating
from lorgnette.images.file import Image
from lorgnette.systems.clip.preprocess import levels, square, unit
from lorgnette.systems.clip.task import CHUNK, Classification


class Label(NamedTuple):
    """One answer."""

    name: str
    """Of the class."""
    probability: float


@torch.no_grad()
def classify(task: Classification, images: Iterable[Image], top: int = 1) -> list[list[Label]]:
    """The likeliest classes of pictures.

    Args:
        task: from `lorgnette.load` or `lorgnette.build`, on any device.
        images: from `lorgnette.images.file.read_image`, of any size: CLIP sees their middle square. Taken one at a
            time, so that a generator that reads files holds one of them in memory.
        top: answers for each picture.

    Returns:
        For each picture, `top` labels (or as many as there are classes), the likeliest first.

    Raises:
        ValueError: `top` is below 1, or the task has no classes.
    """
    if top < 1:
        raise ValueError(f"top: {top} is too small; 1 or more works")
    model: Any = task.model
    side = model.image_size
    answers: list[list[Label]] = []
    with evaluating(task):
        squares = (torch.from_numpy(unit(square(levels(image), side))) for image in images)
        while chunk := list(islice(squares, CHUNK)):
            shares = task.logits(torch.stack(chunk)).softmax(-1).cpu()
            best = shares.topk(min(top, shares.shape[1]))
            for values, places in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                answers.append([Label(task.classes[i], value) for i, value in zip(places, values, strict=True)])
    return answers
