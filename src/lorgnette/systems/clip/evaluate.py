"""Scores on a folder of classes, networks side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from lorgnette.systems.clip.classes import PRESET_CLASSES, class_names
from lorgnette.systems.clip.data import TestPictures, loaders, test_pictures
from lorgnette.systems.clip.recipe import Data
from lorgnette.systems.clip.scores import class_accuracies, scores
from lorgnette.systems.clip.task import Classification

MOST_CLASSES = 20  # beyond, classes are not listed one by one


@torch.no_grad()
def evaluation(
    tasks: Mapping[str, Classification],
    folder: str,
    progress: Callable[[TestPictures], Iterable[dict[str, Any]]] = iter,
) -> dict[str, dict[str, float]]:
    """Accuracy and calibration of each network, and its accuracy within each class.

    Args:
        tasks: row name -> task, all of the same classes, or of none yet (they then take those of the folder); each
            on any device, in eval mode.
        folder: with a subfolder for each class, or the name of a preset such as 'digits' (its held-out part).
        progress: wraps the batches that the loop runs over, such as `tqdm.tqdm`.

    Returns:
        Row name -> metric -> value.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: a subfolder that is no class, in one line.
    """
    task = next(iter(tasks.values()), None)
    if task is None:
        raise ValueError("there is no network to score: an untrained one is nothing to compare with")
    model: Any = task.model
    data = Data(classes=task.classes, image_size=model.image_size, holdout=task.recipe.data.holdout)
    data = replace(data, samples=task.recipe.data.samples)
    data = replace(data, **({"preset": folder} if folder in PRESET_CLASSES else {"root": folder}))
    classes = class_names(data)
    for each in tasks.values():
        if not each.classes:
            each.take_classes(classes)
    pictures = loaders(data, task.recipe.train)[1] if data.preset else test_pictures(folder, classes, data.image_size)
    (test,) = progress(pictures)
    rows = {}
    for name, each in tasks.items():
        logits = each.predict(test).cpu()
        rows[name] = scores(logits, test["label"])
        if len(each.classes) <= MOST_CLASSES:
            within = class_accuracies(logits, test["label"])
            rows[name] |= {f"accuracy {each.classes[number]}": value for number, value in within.items()}
    return rows
