"""Training crops with random points, and held-out images, from folders.

Settings and errors call the two images low and high resolution (`lr`, `hr`), as the field does; batches call them `lq`
and `gt`, as in every room of images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorgnette.common.parts import Parts
from lorgnette.images.division import divided
from lorgnette.images.evaluation import HeldOutImages, Scoring
from lorgnette.images.folders import Item, by_folder, folders
from lorgnette.images.kinds import Kind
from lorgnette.images.patches import (
    JPEG_BLOCK,
    TrainingCrops,
    damaged,
    damaged_for_tables,
    random_corner,
    random_crop,
    shrink,
    square,
    unit,
    usual_steps,
)
from lorgnette.systems.superres.coords import axis_coords
from lorgnette.systems.superres.recipe import Data, Recipe
from lorgnette.train.batches import Draw, DrawnBatches, HeldOut
from lorgnette.train.config import TrainConfig


def _sample(
    rng: np.random.Generator, lr: Tensor, hr: Tensor, y: Tensor, x: Tensor, cell: list[float], points: int
) -> dict[str, Tensor]:
    """One training sample: random points of `hr`, whose pixels lie at y and x in `lr`; both crops in [0, 1]."""
    n = len(y) * len(x)
    chosen = torch.from_numpy(rng.choice(n, points, replace=points > n))
    rows, columns = chosen // len(x), chosen % len(x)
    return {
        "lq": lr.contiguous(),
        "coord": torch.stack([y[rows], x[columns]], dim=-1),
        "cell": torch.tensor(cell).expand(points, 2),
        "gt": hr[:, rows, columns].T.contiguous(),
    }


class ImageFolder(TrainingCrops[Path, Data]):
    """Crops of images, made small by bicubic: the protocol of LIIF (Chen et al., CVPR 2021, section 4)."""

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        """lq (3, p, p) in [0, 1]; at Q points coord (Q, 2), cell (Q, 2) and gt (Q, 3) in [0, 1].

        The scale is the same for the whole batch.
        """
        data, rng = self.data, draw.rng()
        low, high = data.scales
        if data.progressive:
            high = low + (high - low) * min(1.0, (draw.step + 1) / data.progressive)
        scale = draw.batch_rng().uniform(low, high)
        small = data.patch + (JPEG_BLOCK if data.damage else 0)
        side = round(small * scale)
        hr = random_crop(rng, self.pixels(self.files[draw.index]), side, data.augment)
        if data.damage:
            lr, hr = damaged(hr, data.damage, rng, (small, small))
            return _crop_of_pair(rng, lr, hr, (side / small, side / small), data, augment=False)
        axis = axis_coords(side)
        return _sample(rng, shrink(hr, (small, small)), hr, axis, axis, [2 / side, 2 / side], data.points)


class PairedFolders(TrainingCrops[tuple[Path, Path], Data]):
    """Crops of images that exist at low and at high resolution; the scale need not be a whole number."""

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        """As `ImageFolder`; the scale of each pair is that of its files."""
        lr_file, hr_file = self.files[draw.index]
        lr, hr = self.pixels(lr_file), self.pixels(hr_file)
        scales = check_crops((lr_file, hr_file), lr.shape[-2:], hr.shape[-2:], self.data.patch)
        return _crop_of_pair(draw.rng(), lr, hr, scales, self.data, self.data.augment)


def _crop_of_pair(
    rng: np.random.Generator, lr: Tensor, hr: Tensor, scales: tuple[float, float], data: Data, augment: bool
) -> dict[str, Tensor]:
    (sy, sx), side = scales, data.patch
    top, left = random_corner(rng, lr, side)
    rows, y = _pixels_inside(top, side, sy, hr.shape[-2])
    columns, x = _pixels_inside(left, side, sx, hr.shape[-1])
    lr, hr = square(lr, top, left, side), unit(hr[:, rows, columns])
    cell = [2 / side / sy, 2 / side / sx]
    if augment:  # the pixels of `hr` need not lie symmetrically in `lr`: flip their coordinates too
        flip_y, flip_x, transpose = rng.random(3) < 0.5
        if flip_y:
            lr, hr, y = lr.flip(-2), hr.flip(-2), -y.flip(0)
        if flip_x:
            lr, hr, x = lr.flip(-1), hr.flip(-1), -x.flip(0)
        if transpose and sy == sx:  # with unequal scales it would be another camera's sample
            lr, hr, y, x = lr.mT, hr.mT, x, y
    return _sample(rng, lr, hr, y, x, cell, data.points)


def check_crops(
    files: tuple[Path, Path], small: Sequence[int], large: Sequence[int], patch: int
) -> tuple[float, float]:
    """As `pair_scale`; a ValueError also where the first is too small for a crop of `patch` pixels."""
    if min(small) < patch:
        raise ValueError(f"data.patch: {patch} is more than the side of {files[0]}; at most {min(small)} works")
    return pair_scale(files, small, large)


def pair_scale(files: tuple[Path, Path], small: Sequence[int], large: Sequence[int]) -> tuple[float, float]:
    """The factors (y, x) between two images; a one-line ValueError where one lies outside 1 to 32."""
    (lr_file, hr_file), (sy, sx) = files, (large[0] / small[0], large[1] / small[1])
    if not (1 <= sy <= 32 and 1 <= sx <= 32):
        raise ValueError(
            f"data.hr: {hr_file} has {large[0]} x {large[1]} pixels and {lr_file} has {small[0]} x {small[1]}; "
            "the first must be 1 to 32 times as large"
        )
    return sy, sx


def _pixels_inside(start: int, side: int, scale: float, n: int) -> tuple[slice, Tensor]:
    """High-resolution pixels whose centres lie in a low-resolution crop, and their coordinates in it."""
    first = math.ceil(start * scale - 0.5)
    stop = min(n, math.ceil((start + side) * scale - 0.5))
    centres = (torch.arange(first, stop, dtype=torch.float64) + 0.5) / scale - start
    return slice(first, stop), (centres / side * 2 - 1).float()


class TestImages(HeldOutImages, HeldOut):
    """Held-out images by scale; see `lorgnette.images.evaluation`.

    The levels are scales, for the items without a low-resolution file.

    Args:
        items: (low-resolution file or None, high-resolution file).
        scales: the levels.
        crop: side to which images are cut around their centre. 0: whole.
        damage: what is done to the small images beside making them small, as `data.damage`.
        scoring: on which numbers they are scored; published tables take luma.
    """

    __test__ = False  # not a test case for pytest

    def __init__(
        self,
        items: Iterable[Item],
        scales: Sequence[float],
        crop: int = 0,
        damage: Kind = "",
        scoring: Scoring | None = None,
    ):
        super().__init__(items, scales, crop)
        self.damage: Kind = damage
        self.scoring = scoring or Scoring()

    def degraded(self, gt: Tensor, level: float) -> tuple[Tensor, Tensor, dict[str, Any]]:
        h, w = (max(1, math.floor(n / level)) for n in gt.shape[-2:])
        gt = gt[:, : round(h * level), : round(w * level)]
        if self.damage:
            return *damaged_for_tables(gt, self.damage, 0, (h, w)), self._scored(level)
        return shrink(gt, (h, w)), gt, self._scored(level)

    def paired(self, lq: Tensor, gt: Tensor, files: tuple[Path, Path]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        scale = max(pair_scale(files, lq.shape[-2:], gt.shape[-2:]))
        if scale.is_integer() and [n * scale for n in lq.shape[-2:]] == list(gt.shape[-2:]):
            lq, gt = self.centred(lq, gt, int(scale))  # at any other scale the two crops would differ
        return lq, gt, self._scored(scale)

    def _scored(self, scale: float) -> dict[str, Any]:
        """A border as wide as the scale is left out, as published tables do."""
        return {"label": f"x{scale:.3g}", "shave": math.ceil(scale), **self.scoring.of()}


def loaders(
    data: Data, train: TrainConfig | None = None, before: Parts | None = None
) -> tuple[DrawnBatches, TestImages]:
    """Training batches and held-out images of the settings; which images are held out depends on `train.seed`.

    Args:
        data: the settings.
        train: how to train.
        before: the parts of a run that goes on, which are taken again.

    Raises:
        FileNotFoundError: a folder that is not there, or holds no image.
        ValueError: no folder is given, too few images to hold one out, or none that can be used.

    Warns:
        LeftOut: of images that cannot be read, and of pairs that do not fit or are unlike all others.
    """
    train = train or TrainConfig()
    clean = data.root if data.hr is None else data.hr
    if clean is None:
        raise ValueError("data.root: not set; give a folder of images (or data.lr and data.hr)")
    items, held_out, parts = divided(
        clean,
        data.lr,
        data.test,
        data.test_lr,
        data.holdout,
        train.seed,
        fits=partial(check_crops, patch=data.patch),
        test_fits=pair_scale,
        before=before,
    )
    dataset = (
        ImageFolder([hr for _, hr in items], data)
        if data.lr is None
        else PairedFolders([(lr, hr) for lr, hr in items if lr is not None], data)
    )
    of = by_folder([hr for _, hr in items], folders(clean))
    batches = DrawnBatches(dataset, train.batch_size, train.seed, train.workers, parts, of)
    return batches, TestImages(held_out, data.test_scales, data.test_crop, data.damage)


def default_steps(n_images: int, recipe: Recipe) -> int:
    """How long to train on `n_images` where the recipe does not say."""
    return usual_steps(n_images, recipe.train.batch_size)
