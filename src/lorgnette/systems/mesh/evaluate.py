"""Scores on a folder of cases: networks beside what the places of the active voxels alone tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from lorgnette.common.modules import moved
from lorgnette.systems.mesh.cases import organs_of
from lorgnette.systems.mesh.data import TestOrgans, chosen
from lorgnette.systems.mesh.metrics import surface_scores
from lorgnette.systems.mesh.task import MeshDecoding


@torch.no_grad()
def evaluation(
    tasks: Mapping[str, MeshDecoding],
    folder: str,
    organs: Sequence[str] = (),
    progress: Callable[[TestOrgans], Iterable[dict[str, Any]]] = iter,
) -> dict[str, dict[str, float]]:
    """Dice, IoU, distances between surfaces in mm and error of the volume; and Dice of each organ.

    `surface_mm` is of the meshes; `hd95`, `assd` and `nsd` (within one cube) of the corners inside, as MONAI has.

    Args:
        tasks: row name -> task, each on any device, in eval mode; all of the same data settings.
        folder: of cases.
        organs: names of those that are scored. Empty: all.
        progress: wraps the batches that the loop runs over, such as `tqdm.tqdm`.

    Returns:
        Row name -> metric -> mean over the organs; the first row is "filled", all active voxels filled.

    Raises:
        FileNotFoundError: no such folder, or no case in it.
        ValueError: no organ that does, or no network.
    """
    first = next(iter(tasks.values()), None)
    if first is None:
        raise ValueError("there is no network to score: an untrained one is nothing to compare with")
    found = chosen(organs_of(folder, first.data), organs)
    sums: dict[str, dict[str, list[float]]] = {}
    for organ, batch in zip(found, progress(TestOrgans(found)), strict=True):
        for name, scores in _scores(tasks, batch).items():
            row = sums.setdefault(name, {})
            for metric, value in (scores | {f"dice {organ.organ}": scores["dice"]}).items():
                row.setdefault(metric, []).append(value)
    return {name: {metric: sum(v) / len(v) for metric, v in row.items()} for name, row in sums.items()}


def _scores(tasks: Mapping[str, MeshDecoding], batch: dict[str, Any]) -> dict[str, dict[str, float]]:
    first = next(iter(tasks.values()))
    rows = {"filled": _of_one(first, first.without_network(batch)["filled"], batch)}
    for name, task in tasks.items():
        own = moved(batch, next(task.parameters()).device)
        rows[name] = _of_one(task, task.predict(own), own)
    return rows


def _of_one(task: MeshDecoding, prediction: torch.Tensor, batch: dict[str, Any]) -> dict[str, float]:
    ((found, truth, mm),) = task.masks(prediction, batch)
    distances = surface_scores(found.cpu().numpy(), truth.cpu().numpy(), (mm, mm, mm), tolerance=mm)
    return task.score(prediction, batch) | distances
