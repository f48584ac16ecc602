"""Scores by scale on a folder of images: bicubic beside networks, as the tables of the field show them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lorgnette.images.evaluation import by_network, compare, interpolated
from lorgnette.images.folders import find_items
from lorgnette.systems.superres.data import TestImages
from lorgnette.systems.superres.task import SuperResolution


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
    methods = {"bicubic": interpolated} | {name: by_network(task) for name, task in tasks.items()}
    rows = compare(methods, progress(TestImages(find_items(folder, lr_folder), scales, crop)))
    return {name: dict(sorted(metrics.items())) for name, metrics in rows.items()}
