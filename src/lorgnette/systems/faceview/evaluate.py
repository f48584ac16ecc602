"""Scores on a folder of faces, networks side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from lorgnette.common.modules import moved
from lorgnette.systems.faceview.curves import Picture, histogram_picture, roc_picture, similarity_picture
from lorgnette.systems.faceview.data import HeldOutFaces, test_people
from lorgnette.systems.faceview.recipe import Data
from lorgnette.systems.faceview.scores import (
    BUCKETS,
    Trials,
    bucket_name,
    calibrated,
    false_acceptance,
    interval,
    scores,
    tar_at,
)
from lorgnette.systems.faceview.task import FaceMapping, compared

AS_THEY_ARE = "as they are"


@torch.no_grad()
def evaluation(
    tasks: Mapping[str, FaceMapping],
    folder: str,
    intervals: int = 0,
    progress: Callable[[HeldOutFaces], Iterable[dict[str, Any]]] = iter,
    plot: Callable[[str, Picture], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Verification and identification of each network, beside the embeddings as they are.

    The first frontal view of each person is the gallery, all others are probes. `far@1e-3 65-75` is the share of
    strangers that is accepted in that range at the one threshold that accepts 1e-3 of all.

    Args:
        tasks: row name -> task; each on any device, in eval mode.
        folder: as `data.root` takes it, or the name of a preset (its held-out heads).
        intervals: bootstrap draws over persons for `tar@1e-3` of each range, which then has a low and a high row in the
            table; 0: none.
        progress: wraps the batches that the loop runs over, such as `tqdm.tqdm`.
        plot: is given similarity against yaw and the ROC of all rows, and a histogram of cosines of each row.

    Returns:
        Row name -> metric -> value.

    Raises:
        FileNotFoundError: no such folder, or no faces in it.
        ValueError: arrays that do not do, or a single person.
    """
    data = next(iter(tasks.values())).recipe.data if tasks else Data()
    (batch,) = progress(HeldOutFaces(test_people(folder, data)))
    rows: dict[str, dict[str, float]] = {}
    trials: dict[str, Trials] = {}
    for name, task in {AS_THEY_ARE: None, **tasks}.items():
        mapped = batch["src"] if task is None else task.predict(moved(batch, next(task.parameters()).device))
        found = trials[name] = compared(mapped, batch)
        limit = calibrated(found).overall
        rows[name] = scores(found)
        rows[name] |= {f"far@1e-3 {label}": rate for label, rate in false_acceptance(found, limit).items()}
        for low, high in BUCKETS if intervals else ():
            part = found.turned(low, high)
            if len(part.person):
                ends = interval(part, lambda trials: tar_at(trials, 1e-3), intervals)
                label = f"tar@1e-3 {bucket_name(low, high)}"
                rows[name] |= {f"{label} {end}": value for end, value in zip(("low", "high"), ends, strict=True)}
    if plot:
        plot("similarity", similarity_picture(trials))
        plot("roc", roc_picture(trials))
        for name, found in trials.items():
            plot(f"cosines {name}", histogram_picture(found))
    return rows
