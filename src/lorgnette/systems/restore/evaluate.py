"""Scores by damage on a folder of images: classical methods beside networks, as the tables of the field show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from lorgnette.images.pixels import to_uint8
from lorgnette.images.resize import imresize
from lorgnette.systems.restore.data import TestImages, pairs
from lorgnette.systems.restore.recipe import Data, Folders
from lorgnette.systems.restore.task import Restoration, image_scores

NLM_STRENGTH = 0.6
"""Of non-local means, in multiples of the noise: best of 0.4 to 1.2 on images of BSDS500 train, at 15, 25 and 50."""


@torch.no_grad()
def evaluation(
    tasks: Mapping[str, Restoration],
    folder: Folders,
    levels: Sequence[float] | None = None,
    lr_folder: Folders | None = None,
    crop: int = 0,
    progress: Callable[[TestImages], Iterable[dict[str, Any]]] = iter,
) -> dict[str, dict[str, float]]:
    """PSNR and SSIM of the damaged images, of non-local means (for noise), and of each network.

    Args:
        tasks: row name -> task, all for one kind of damage; each on any device.
        folder: of clean images, or several.
        levels: deviations of noise (of 255) or JPEG qualities; None: those of the first task.
        lr_folder: of their damaged namesakes, instead of damage made here; as many as `folder`.
        crop: side to which images are cut around their centre. 0: whole, as published tables do.
        progress: wraps the images that the loop runs over, such as `tqdm.tqdm`.

    Returns:
        Row name -> metric -> mean over the images; the first row is "input".

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: a level that does not work, or an image that cannot be read or scored, in one line.
    """
    task = next(iter(tasks.values()), None)
    if task is None:
        raise ValueError("there is no network to score: an untrained one is nothing to compare with")
    data = _test_data(task, levels)
    items = pairs(lr_folder, folder, data.filename_tmpl)
    by_noise = data.degradation == "denoise" and lr_folder is None
    names = ["input", *(["non-local means"] if by_noise else []), *tasks]
    sums: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for batch in progress(TestImages(items, data, crop)):
        for name in names:
            if name == "input":
                prediction = _at_full_size(batch)
            elif name == "non-local means":
                prediction = non_local_means(batch["lq"], float(batch["label"].removeprefix("sigma")))
            else:
                device = next(tasks[name].parameters()).device
                prediction = tasks[name].predict(batch | {"lq": batch["lq"].to(device)}).cpu()
            try:
                scores = image_scores(prediction, batch)
            except ValueError as error:
                raise ValueError(f"{batch['name']} {batch['label']} cannot be scored: {error}") from None
            for metric in ("psnr", "ssim"):
                sums[name].setdefault(f"{metric}_{batch['label']}", []).append(scores[metric])
    return {
        name: {metric: sum(values) / len(values) for metric, values in metrics.items()}
        for name, metrics in sums.items()
    }


def non_local_means(noisy: Tensor, sigma: float) -> Tensor:
    """OpenCV's non-local means, told how strong the noise is: (1, C, H, W) in [0, 1] -> the same."""
    strength = max(NLM_STRENGTH * sigma, 0.1)
    levels = np.ascontiguousarray(to_uint8(noisy[0].clamp(0, 1).permute(1, 2, 0)))
    if levels.shape[2] == 3:
        cleaned = cv2.fastNlMeansDenoisingColored(levels[..., ::-1].copy(), None, strength, strength, 7, 21)[..., ::-1]
    else:
        cleaned = np.atleast_3d(cv2.fastNlMeansDenoising(levels[..., 0], None, strength, 7, 21))
        cleaned = cleaned.reshape(levels.shape)
    return torch.from_numpy(np.ascontiguousarray(cleaned)).permute(2, 0, 1)[None].float() / 255


def _test_data(task: Restoration, levels: Sequence[float] | None) -> Data:
    if levels is None:
        return task.data
    if task.data.degradation == "denoise":
        return replace(task.data, test_sigmas=tuple(levels))
    if task.data.degradation == "jpeg":
        return replace(task.data, test_qualities=tuple(round(level) for level in levels))
    raise ValueError(f"levels: {levels} mean nothing here; this network enlarges by {task.data.scale}")


def _at_full_size(batch: Mapping[str, Any]) -> Tensor:
    size = batch["gt"].shape[-2:]
    lq = batch["lq"]
    return (lq if lq.shape[-2:] == size else imresize(lq, size=tuple(size))).clamp(0, 1)
