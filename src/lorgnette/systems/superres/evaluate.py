"""Scores by scale on a folder of images: bicubic beside networks, as the tables of the field show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lorgnette.images.division import judged
from lorgnette.images.evaluation import Scoring, Seen, by_network, compare, interpolated
from lorgnette.images.folders import Folders, find_items
from lorgnette.images.kinds import kind
from lorgnette.systems.superres.data import TestImages, pair_scale
from lorgnette.systems.superres.task import SuperResolution


def evaluation(
    tasks: Mapping[str, SuperResolution],
    folder: Folders,
    scales: Sequence[float] = (2.0, 3.0, 4.0),
    lr_folder: Folders | None = None,
    damage: str = "none",
    colour: str = "y",
    grey: str = "full",
    peers: Sequence[str] | None = None,
    crop: int = 0,
    progress: Callable[[TestImages], Iterable[dict[str, Any]]] = iter,
    seen: Seen | None = None,
) -> dict[str, dict[str, float]]:
    """PSNR and SSIM of bicubic enlargement and of each network, on 8-bit levels, shaved by the scale.

    Args:
        tasks: row name -> task, each on any device.
        folder: of high-resolution images, or several.
        scales: factors; the low-resolution images are made by bicubic.
        lr_folder: low-resolution namesakes instead; the files then decide the factor.
        damage: what is done to the small images beside making them small: 'none', or a kind as in `data.damage`.
        colour: 'y' scores on luma Y, 'rgb' on all three channels.
        grey: 'full' scores grey images in their full range; 'rgb' as colour images of three equal channels, as most
            published tables do (on Y that is 1.3 dB more).
        peers: a row also for these programs of `lorgnette.peers.enlarging`; empty: for each that is installed.
        crop: side to which images are cut around their centre. 0: whole, as published tables do.
        progress: wraps the images that the loop runs over, such as `tqdm.tqdm`.
        seen: is shown each batch with what every method made of it.

    Returns:
        Row name -> metric -> mean over the images; the first row is "bicubic".

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: a setting that is unknown, or no image that can be read and scored, in one line.

    Warns:
        LeftOut: of images that cannot be read, and of pairs that do not fit or are unlike all others.
    """
    scoring = Scoring(colour, grey)  # type: ignore[arg-type]
    methods = {"bicubic": interpolated}
    if peers is not None:
        from lorgnette.peers.enlarging import enlarging_methods

        methods |= enlarging_methods(peers)
    methods |= {name: by_network(task) for name, task in tasks.items()}
    items = judged(find_items(folder, lr_folder), pair_scale).said().items.values()
    rows = compare(methods, progress(TestImages(items, scales, crop, kind(damage), scoring)), seen)
    return {name: dict(sorted(metrics.items())) for name, metrics in rows.items()}
