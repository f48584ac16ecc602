"""Scoring on held-out images: the batches, PSNR and SSIM of a prediction, and tables of several methods.

An evaluation batch is one image: `lq` (1, C, h, w), degraded, and `gt` (1, C, H, W), clean, both in [0, 1] (noise goes
beyond); how it is scored (`shave`, `luma` and `grey`, see `lorgnette.images.metrics.psnr`); `label`, which names the
degradation (x4, sigma25); and `name`, which names the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lorgnette.common.parts import LeftOut
from lorgnette.common.values import check_choices
from lorgnette.images.file import Image, read_image
from lorgnette.images.folders import Item
from lorgnette.images.metrics import psnr, ssim
from lorgnette.images.patches import centre, channels_first
from lorgnette.images.pixels import seen_colours, to_uint8
from lorgnette.images.resize import imresize

Batch = Mapping[str, Any]
Method = Callable[[Batch], Tensor]
"""Makes (1, C, H, W) in [0, 1] of an evaluation batch."""
Seen = Callable[[Batch, Mapping[str, Tensor]], None]
"""Is shown each batch with what every method made of it."""


@dataclass(frozen=True)
class Scoring:
    """On which numbers of colour images, and how grey ones, are scored.

    Raises:
        ValueError: another word than these, in one line.
    """

    colour: Literal["y", "rgb"] = "y"
    """Luma Y of BT.601, or all three channels."""
    grey: Literal["full", "rgb"] = "full"
    """Grey images in their full range, or, as most published tables do, as colour images of three equal channels: on Y
    that is 1.3 dB more."""

    def __post_init__(self) -> None:
        check_choices(self, "")

    def of(self) -> dict[str, bool]:
        """What of an evaluation batch follows from it."""
        return {"luma": self.colour == "y"} | ({"grey": False} if self.grey == "rgb" else {})


class Network(Protocol):
    """A task, as far as it is scored here."""

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def predict(self, batch: Any) -> Any: ...


class HeldOutImages(Sequence[dict[str, Any]]):
    """Held-out images as evaluation batches, read when they are asked for. A room says how it degrades and pairs them.

    Args:
        items: (degraded file or None, clean file).
        levels: how much to degrade; each clean file without a degraded one comes once for each level.
        crop: side to which clean images are cut around their centre. 0: whole.
    """

    def __init__(self, items: Iterable[Item], levels: Sequence[float], crop: int = 0):
        self.jobs = [(lq, gt, level) for lq, gt in items for level in (levels if lq is None else (0.0,))]
        self.crop = crop

    def prepared(self, image: Tensor) -> Tensor:
        """What is done to each image of a file: (3, H, W) in [0, 1] -> (C, H, W). By default nothing."""
        return image

    def degraded(self, gt: Tensor, level: float) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """`lq` (C, h, w), `gt` (C, H, W), and the batch's `label`, `shave` and `luma`, from a clean image alone."""
        raise NotImplementedError

    def paired(self, lq: Tensor, gt: Tensor, files: tuple[Path, Path]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The same from two images that belong together, whole."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.jobs)

    @property
    def pictures(self) -> int:
        """How many clean images there are; each may be scored at several levels."""
        return len({gt for _, gt, _ in self.jobs})

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        lq_file, gt_file, level = self.jobs[index]
        picture = read_image(gt_file)
        gt = self.prepared(_seen(picture))
        if lq_file is None:
            lq, gt, how = self.degraded(centre(gt, self.crop) if self.crop else gt, level)
        else:
            lq = self.prepared(_seen(read_image(lq_file)))
            lq, gt, how = self.paired(lq, gt, (lq_file, gt_file))
        return {
            "lq": lq[None].contiguous(),
            "gt": gt[None].contiguous(),
            "grey": len(gt) == 1 or (picture.grey and how["luma"]),  # scored on RGB, a grey file counts as RGB
            "name": gt_file.stem,
            **how,
        }

    def centred(self, lq: Tensor, gt: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """The middle of both images of a pair, so that `gt` has about `crop` pixels and `lq` shows the same."""
        if not self.crop:
            return lq, gt
        side = max(1, self.crop // scale)
        return centre(lq, side), centre(gt, side, step=scale)


def _seen(picture: Image) -> Tensor:
    return channels_first(seen_colours(picture.pixels, picture.alpha))


EQUAL = 100.0
"""dB"""


def image_scores(prediction: Tensor, batch: Batch) -> dict[str, float]:
    """PSNR and SSIM of `prediction` (1, C, H, W) in [0, 1] as the field's tables report them, on 8-bit levels.

    A single channel, and the Y of grey images, are compared in their full range. PSNR comes once more under the
    batch's label, so that averages over several labels show each. Equal images count as `EQUAL` dB, so that a mean
    over many still says something.
    """
    how = {"shave": batch["shave"], "luma": batch["luma"], "grey": batch["grey"], "quantise": True}
    a, b = (image.expand(-1, 3, -1, -1) for image in (prediction, batch["gt"]))
    value = min(psnr(a, b, **how), EQUAL)
    return {"psnr": value, "ssim": ssim(a, b, **how), f"psnr_{batch['label']}": value}


def interpolated(batch: Batch) -> Tensor:
    """The degraded image at the size of the clean one, by bicubic: what needs no network. (1, C, H, W) in [0, 1]."""
    lq, size = batch["lq"], batch["gt"].shape[-2:]
    return (lq if lq.shape[-2:] == size else imresize(lq, size=size)).clamp(0, 1)


def side_by_side(prediction: Tensor, batch: Batch) -> dict[str, np.ndarray]:
    """The degraded image (enlarged by bicubic), the prediction and the clean image in a row: (H, 3 W, 3) uint8."""
    strip = torch.cat([interpolated(batch), prediction, batch["gt"]], dim=-1)[0].expand(3, -1, -1)
    return {f"{batch['name']} {batch['label']}": to_uint8(strip.permute(1, 2, 0))}


def as_pictures(batch: Batch, made: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """What methods made of a batch, and the clean image at last: (H, W, 3) uint8 each."""
    shown = {**made, "truth": batch["gt"]}
    return {name: to_uint8(picture[0].expand(3, -1, -1).permute(1, 2, 0)) for name, picture in shown.items()}


def by_network(task: Network) -> Method:
    """A task's prediction as a method: computed on the task's device."""
    device = next(task.parameters()).device
    return lambda batch: task.predict({**batch, "lq": batch["lq"].to(device)}).cpu()


@torch.no_grad()
def compare(
    methods: Mapping[str, Method], images: Iterable[Batch], seen: Seen | None = None
) -> dict[str, dict[str, float]]:
    """Scores of several methods on the same images: row name -> metric and label, such as psnr_x2 -> mean.

    Args:
        methods: by row name.
        images: evaluation batches.
        seen: is shown what was scored.

    Raises:
        ValueError: no image can be scored, in one line with the name of one.

    Warns:
        LeftOut: of images that cannot be scored, such as very small ones; the rows are those of the others.
    """
    sums: dict[str, dict[str, list[float]]] = {name: {} for name in methods}
    left_out: dict[str, str] = {}
    for batch in images:
        what = f"{batch['name']} {batch['label']}"
        try:
            made = {name: method(batch) for name, method in methods.items()}
            scores = {name: image_scores(prediction, batch) for name, prediction in made.items()}
        except ValueError as error:
            left_out[what] = f"{what} cannot be scored: {error}"
            continue
        if seen:
            seen(batch, made)
        for name, own in scores.items():
            for metric in ("psnr", "ssim"):
                sums[name].setdefault(f"{metric}_{batch['label']}", []).append(own[metric])
    if left_out and not any(sums.values()):
        raise ValueError(next(iter(left_out.values())))
    if left_out:
        warnings.warn(LeftOut("; ".join(left_out.values()), left_out), stacklevel=2)
    return {
        name: {metric: sum(values) / len(values) for metric, values in metrics.items()}
        for name, metrics in sums.items()
    }
