"""Training crops with random points, and held-out images, from folders."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorgnette.images.file import read_image
from lorgnette.images.folders import find_images, pair_images
from lorgnette.images.patches import PixelCache, at_least, augmented, centre, channels_first, split, unit
from lorgnette.images.resize import imresize
from lorgnette.systems.superres.coords import axis_coords
from lorgnette.systems.superres.recipe import Data
from lorgnette.train.batches import Draw, DrawnBatches, HeldOut
from lorgnette.train.config import TrainConfig


def shrink(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A low-resolution version, rounded to 8 bits as a file would be: (3, H, W) in [0, 1] -> (3, *size)."""
    return (imresize(image, size=size).clamp(0, 1) * 255).round() / 255


def _sample(lr: Tensor, hr: Tensor, y: Tensor, x: Tensor, cell: list[float], chosen: np.ndarray) -> dict[str, Tensor]:
    """One training sample: crops in [0, 1], the axes' coordinates of `hr`, flat indices of the points."""
    chosen_t = torch.from_numpy(chosen)
    rows, columns = chosen_t // len(x), chosen_t % len(x)
    return {
        "inp": lr.contiguous() * 2 - 1,
        "coord": torch.stack([y[rows], x[columns]], dim=-1),
        "cell": torch.tensor(cell).expand(len(chosen), 2),
        "gt": hr[:, rows, columns].T.contiguous() * 2 - 1,
    }


class ImageFolder:
    """Crops of images, made small by bicubic: the protocol of LIIF (Chen et al., CVPR 2021, section 4)."""

    def __init__(self, files: Sequence[Path], data: Data):
        self.files, self.data, self.pixels = list(files), data, PixelCache()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        """inp (3, p, p), coord (Q, 2), cell (Q, 2), gt (Q, 3); images in [-1, 1]. The factor is the batch's."""
        data, rng = self.data, draw.rng()
        side = round(data.patch * draw.batch_rng().uniform(*data.scales))
        pixels = at_least(self.pixels(self.files[draw.index]), side)
        top, left = (int(rng.integers(n - side + 1)) for n in pixels.shape[-2:])
        hr = unit(pixels[:, top : top + side, left : left + side])
        if data.augment:
            hr = augmented(rng, hr)
        lr = shrink(hr, (data.patch, data.patch))
        axis = axis_coords(side)
        chosen = rng.choice(side * side, data.points, replace=data.points > side * side)
        return _sample(lr, hr, axis, axis, [2 / side, 2 / side], chosen)


class PairedFolders:
    """Crops of images that exist at low and at high resolution; any factor, not necessarily whole."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]], data: Data):
        self.pairs, self.data, self.pixels = list(pairs), data, PixelCache()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        """As `ImageFolder`; the factor of each pair is that of its files."""
        data, rng = self.data, draw.rng()
        lr_file, hr_file = self.pairs[draw.index]
        lr, hr = self.pixels(lr_file), self.pixels(hr_file)
        sy, sx = pair_scale(lr_file, hr_file, lr.shape[-2:], hr.shape[-2:])
        side = min(data.patch, *lr.shape[-2:])
        if side < data.patch:
            raise ValueError(f"data.patch: {data.patch} is more than the side of {lr_file}; at most {side} works")
        top, left = (int(rng.integers(n - side + 1)) for n in lr.shape[-2:])
        rows, y = _pixels_inside(top, side, sy, hr.shape[-2])
        columns, x = _pixels_inside(left, side, sx, hr.shape[-1])
        lr, hr = unit(lr[:, top : top + side, left : left + side]), unit(hr[:, rows, columns])
        cell = [2 / side / sy, 2 / side / sx]
        if data.augment:  # the two grids need not be symmetric to each other: the coordinates turn with them
            flip_y, flip_x, transpose = rng.random(3) < 0.5
            if flip_y:
                lr, hr, y = lr.flip(-2), hr.flip(-2), -y.flip(0)
            if flip_x:
                lr, hr, x = lr.flip(-1), hr.flip(-1), -x.flip(0)
            if transpose and sy == sx:  # else the camera's two axes differ
                lr, hr, y, x = lr.mT, hr.mT, x, y
        chosen = rng.choice(len(y) * len(x), data.points, replace=data.points > len(y) * len(x))
        return _sample(lr, hr, y, x, cell, chosen)


def pair_scale(lr_file: Path, hr_file: Path, small: Sequence[int], large: Sequence[int]) -> tuple[float, float]:
    """The factors (y, x) between two images; a one-line ValueError where the large one is the smaller."""
    sy, sx = large[0] / small[0], large[1] / small[1]
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


class TestImages(HeldOut):
    """Held-out images as evaluation batches of one: inp (1, 3, h, w) in [-1, 1], image (1, 3, H, W) in [0, 1].

    Args:
        items: (low-resolution file or None, high-resolution file).
        scales: factors, for the items without a low-resolution file.
        crop: side to which images are cut around their centre. 0: whole.
    """

    __test__ = False  # not a test case for pytest

    def __init__(self, items: Sequence[tuple[Path | None, Path]], scales: Sequence[float], crop: int = 0):
        self.jobs = [(lr, hr, s) for lr, hr in items for s in (scales if lr is None else (0.0,))]
        self.crop = crop

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        lr_file, hr_file, scale = self.jobs[index]
        picture = read_image(hr_file)
        hr = channels_first(picture.pixels)
        if lr_file is None:
            hr = centre(hr, self.crop) if self.crop else hr
            small = [max(1, math.floor(n / scale)) for n in hr.shape[-2:]]
            hr = hr[:, : round(small[0] * scale), : round(small[1] * scale)]
            lr = shrink(hr, (small[0], small[1]))
        else:
            lr = channels_first(read_image(lr_file).pixels)
            scale = max(pair_scale(lr_file, hr_file, lr.shape[-2:], hr.shape[-2:]))
            whole = [n * scale for n in lr.shape[-2:]] == list(hr.shape[-2:]) and scale.is_integer()
            if self.crop and whole:  # only then do both crops show the same
                side = max(1, self.crop // int(scale))
                lr, hr = centre(lr, side), centre(hr, side, step=int(scale))
        return {
            "inp": lr[None] * 2 - 1,
            "image": hr[None].contiguous(),
            "scale": float(scale),
            "grey": picture.grey,
            "name": hr_file.stem,
        }


def loaders(data: Data, train: TrainConfig | None = None) -> tuple[DrawnBatches, TestImages]:
    """Training batches and held-out images of the settings; which images are held out depends on `train.seed`.

    Raises:
        FileNotFoundError: a folder that is not there, or holds no image.
        ValueError: no folder is given, or too few images to hold one out.
    """
    train = train or TrainConfig()
    if data.lr is not None and data.hr is not None:
        items: list[tuple[Path | None, Path]] = list(pair_images(data.lr, data.hr))
    elif data.root is not None:
        items = [(None, file) for file in find_images(data.root)]
    else:
        raise ValueError("data.root: not set; give a folder of images (or data.lr and data.hr)")
    if data.test is None:
        items, held_out = split(items, data.holdout, train.seed)
    elif data.test_lr is None:
        held_out = [(None, file) for file in find_images(data.test)]
    else:
        held_out = list(pair_images(data.test_lr, data.test))
    dataset = (
        PairedFolders([(lr, hr) for lr, hr in items if lr is not None], data)
        if data.lr is not None
        else ImageFolder([hr for _, hr in items], data)
    )
    batches = DrawnBatches(dataset, train.batch_size, train.seed, train.workers)
    return batches, TestImages(held_out, data.test_scales, data.test_crop)
