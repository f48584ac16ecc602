"""Scores by scale on a folder of images: bicubic beside networks, as the tables of the field show them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lorgnette.images.folders import find_images, pair_images
from lorgnette.images.resize import imresize
from lorgnette.systems.superres.data import TestImages
from lorgnette.systems.superres.task import SuperResolution, image_scores


@torch.no_grad()
def evaluation(
    tasks: Mapping[str, SuperResolution],
    folder: str | os.PathLike[str],
    scales: Sequence[float] = (2.0, 3.0, 4.0),
    lr_folder: str | os.PathLike[str] | None = None,
    crop: int = 0,
    progress: Callable[[TestImages], Iterable[dict[str, Any]]] = iter,
) -> dict[str, dict[str, float]]:
    """PSNR and SSIM of bicubic enlargement and of each network: on Y (or grey), 8-bit, shaved by the scale.

    Args:
        tasks: row name -> task, each on any device.
        folder: high-resolution images.
        scales: factors; the low-resolution images are made by bicubic.
        lr_folder: low-resolution namesakes instead; the files then decide the factor.
        crop: side to which images are cut around their centre. 0: whole, as published tables do.
        progress: wraps the images that the loop runs over, such as `tqdm.tqdm`.

    Returns:
        Row name -> metric -> mean over the images; the first row is "bicubic".

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: an image that cannot be read or scored, in one line.
    """
    items: list[tuple[Path | None, Path]]
    if lr_folder is None:
        items = [(None, file) for file in find_images(folder)]
    else:
        items = list(pair_images(lr_folder, folder))
    sums: dict[str, dict[str, list[float]]] = {name: {} for name in ("bicubic", *tasks)}
    for batch in progress(TestImages(items, scales, crop)):
        for name in sums:
            if name == "bicubic":
                prediction = imresize(batch["inp"] * 0.5 + 0.5, size=batch["image"].shape[-2:])
            else:
                device = next(tasks[name].parameters()).device
                prediction = tasks[name].predict(batch | {"inp": batch["inp"].to(device)}).cpu()
            try:
                scores = image_scores(prediction, batch)
            except ValueError as error:
                raise ValueError(f"{batch['name']} x{batch['scale']:.3g} cannot be scored: {error}") from None
            for metric in ("psnr", "ssim"):
                sums[name].setdefault(f"{metric}_x{batch['scale']:.3g}", []).append(scores[metric])
    return {
        name: {metric: sum(values) / len(values) for metric, values in sorted(metrics.items())}
        for name, metrics in sums.items()
    }
