"""Scores by damage on a folder of images: classical methods beside networks, as the tables of the field show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from lorgnette.images.division import judged
from lorgnette.images.evaluation import Batch, Method, Seen, by_network, compare, interpolated
from lorgnette.images.folders import Folders, find_items
from lorgnette.images.kinds import kind
from lorgnette.images.pixels import to_uint8
from lorgnette.systems.restore.data import TestImages, check_pair, matched_by
from lorgnette.systems.restore.recipe import Data
from lorgnette.systems.restore.task import Restoration

NLM_STRENGTH = 0.6
"""Filter strength of non-local means, in multiples of the noise. The best of 0.4 to 1.2 on images of BSDS500 train, at
noise of 15, 25 and 50."""


def evaluation(
    tasks: Mapping[str, Restoration],
    folder: Folders,
    levels: Sequence[float] | None = None,
    lr_folder: Folders | None = None,
    damage: str | None = None,
    peers: Sequence[str] | None = None,
    crop: int = 0,
    progress: Callable[[TestImages], Iterable[dict[str, Any]]] = iter,
    seen: Seen | None = None,
) -> dict[str, dict[str, float]]:
    """PSNR and SSIM of the damaged images, of non-local means (for noise), and of each network.

    Args:
        tasks: row name -> task, all for one kind of damage; each on any device.
        folder: of clean images, or several.
        levels: deviations of noise (of 255) or JPEG qualities; None: those of the first task.
        lr_folder: of their damaged namesakes, instead of damage made here; as many as `folder`.
        damage: a kind as in `data.damage`, or 'none'; None: that of the first task.
        peers: a row also for these programs of `lorgnette.peers.restoring`; empty: for each that is installed.
        crop: side to which images are cut around their centre. 0: whole, as published tables do.
        progress: wraps the images that the loop runs over, such as `tqdm.tqdm`.
        seen: is shown each batch with what every method made of it.

    Returns:
        Row name -> metric -> mean over the images; the first row is "input".

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: a level that does not work, or no image that can be read and scored, in one line.

    Warns:
        LeftOut: of images that cannot be read, and of pairs that do not fit or are unlike all others.
    """
    task = next(iter(tasks.values()), None)
    if task is None:
        raise ValueError("there is no network to score: an untrained one is not scored; give an adapter or model.base")
    data = _test_data(task, levels)
    if damage is not None:
        data = replace(data, damage=kind(damage))
    methods: dict[str, Method] = {"input": interpolated}
    if data.degradation == "denoise" and not data.damage and lr_folder is None:  # the strength of the noise is known
        methods["non-local means"] = _denoised
    if peers is not None:
        from lorgnette.peers.restoring import restoring_methods

        if data.scale > 1:
            raise ValueError(f"peers: none is known for a network that enlarges by {data.scale}; leave it out")
        methods |= restoring_methods(peers) | methods  # what is told the noise stays
    methods |= {name: by_network(task) for name, task in tasks.items()}
    fits = partial(check_pair, scale=data.scale)
    items = judged(find_items(folder, lr_folder, matched_by(data.filename_tmpl)), fits).said().items.values()
    return compare(methods, progress(TestImages(items, data, crop)), seen)


def non_local_means(noisy: Tensor, sigma: float) -> Tensor:
    """OpenCV's non-local means for noise of known deviation (of 255): (1, C, H, W) in [0, 1] -> the same."""
    strength = max(NLM_STRENGTH * sigma, 0.1)
    levels = np.ascontiguousarray(to_uint8(noisy[0].clamp(0, 1).permute(1, 2, 0)))
    if levels.shape[2] == 3:
        cleaned = cv2.fastNlMeansDenoisingColored(levels[..., ::-1].copy(), None, strength, strength, 7, 21)[..., ::-1]
    else:
        cleaned = np.atleast_3d(cv2.fastNlMeansDenoising(levels[..., 0], None, strength, 7, 21))
        cleaned = cleaned.reshape(levels.shape)
    return torch.from_numpy(np.ascontiguousarray(cleaned)).permute(2, 0, 1)[None].float() / 255


def _denoised(batch: Batch) -> Tensor:
    return non_local_means(batch["lq"], float(batch["label"].removeprefix("sigma")))


def _test_data(task: Restoration, levels: Sequence[float] | None) -> Data:
    if levels is None:
        return task.data
    if task.data.degradation == "denoise":
        return replace(task.data, test_sigmas=tuple(levels))
    if task.data.degradation == "jpeg":
        return replace(task.data, test_qualities=tuple(round(level) for level in levels))
    raise ValueError(f"levels: {levels} cannot be set for a network that enlarges by {task.data.scale}; leave it out")
