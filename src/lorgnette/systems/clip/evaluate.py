"""Scores on a folder of classes, networks side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from lorgnette.systems.clip.data import TestPictures, loaders
from lorgnette.systems.clip.recipe import Data
from lorgnette.systems.clip.task import Classification
from lorgnette.train import evaluate


def evaluation(
    tasks: Mapping[str, Classification],
    folder: str,
    progress: Callable[[TestPictures], Iterable[dict[str, Any]]] = iter,
) -> dict[str, dict[str, float]]:
    """Accuracy, calibration and the accuracy of each class, of each network.

    Args:
        tasks: row name -> task, all of the same classes; each on any device.
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
    test = test_pictures(folder, task.data, task.classes)
    return {name: evaluate(each, progress(test)) for name, each in tasks.items()}


def test_pictures(folder: str, data: Data, classes: tuple[str, ...]) -> TestPictures:
    """All pictures of a folder, or the held-out ones of a preset."""
    if folder in ("digits", "shapes", "glyphs"):
        return loaders(replace(data, root=None, test=None, preset=folder, classes=classes, loss="classes"))[1]
    plain = replace(data, root=folder, test=folder, preset="", classes=classes, loss="classes")
    return loaders(plain)[1]


test_pictures.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  not a test case for pytest
