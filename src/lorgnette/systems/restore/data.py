"""Training crops and held-out images, damaged on the way or in pairs of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lorgnette.images.file import read_image
from lorgnette.images.folders import find_images, pair_images
from lorgnette.images.patches import PixelCache, at_least, augmented, centre, channels_first, split, unit
from lorgnette.systems.restore.degradations import as_grey, compressed, noisy, noisy_for_tables, shrunk
from lorgnette.systems.restore.recipe import Data, Folders, folders
from lorgnette.train.batches import Draw, DrawnBatches, HeldOut
from lorgnette.train.config import TrainConfig

JPEG_BLOCK = 8


class ImageFolder:
    """Crops of clean images and what damage makes of them; all of it a function of the draw.

    Args:
        files: clean images.
        data: crop size and damage.
    """

    def __init__(self, files: Sequence[Path], data: Data):
        self.files, self.data, self.pixels = list(files), data, PixelCache()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        """lq (C, p, p) and gt (C, s p, s p) in [0, 1]; noise goes beyond."""
        data, rng = self.data, draw.rng()
        # A crop of a compressed image starts anywhere within a block: more is compressed, and then cut off.
        spare = JPEG_BLOCK - 1 if data.degradation == "jpeg" else 0
        side = data.patch * data.scale + spare
        pixels = at_least(self.pixels(self.files[draw.index]), side)
        top, left = (int(rng.integers(n - side + 1)) for n in pixels.shape[-2:])
        gt = unit(pixels[:, top : top + side, left : left + side])
        if data.augment:
            gt = augmented(rng, gt)
        gt = as_grey(gt) if data.grey else gt
        if data.degradation == "denoise":
            lq = noisy(gt, rng.uniform(*data.sigmas), rng)
        elif data.degradation == "jpeg":
            lq = compressed(gt, int(rng.integers(data.qualities[0], data.qualities[1] + 1)))
            y, x = rng.integers(JPEG_BLOCK, size=2)
            lq, gt = (image[:, y : y + data.patch, x : x + data.patch] for image in (lq, gt))
        else:
            lq = shrunk(gt, data.scale)
        return {"lq": lq.contiguous(), "gt": gt.contiguous()}


class PairedFolders:
    """Crops of images that exist damaged and clean; the clean ones are `data.scale` times as large."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]], data: Data):
        self.pairs, self.data, self.pixels = list(pairs), data, PixelCache()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        """As `ImageFolder`."""
        scale, rng = self.data.scale, draw.rng()
        files = self.pairs[draw.index]
        lq, gt = self.pixels(files[0]), self.pixels(files[1])
        check_pair(files, lq, gt, scale)
        side = self.data.patch
        lq, gt = at_least(lq, side), at_least(gt, side * scale)
        top, left = (int(rng.integers(n - side + 1)) for n in lq.shape[-2:])
        lq = unit(lq[:, top : top + side, left : left + side])
        gt = unit(gt[:, top * scale : (top + side) * scale, left * scale : (left + side) * scale])
        if self.data.augment:
            turns = rng.bit_generator.state
            lq = augmented(rng, lq)
            rng.bit_generator.state = turns  # the same turn for both
            gt = augmented(rng, gt)
        if self.data.grey:
            lq, gt = as_grey(lq), as_grey(gt)
        return {"lq": lq.contiguous(), "gt": gt.contiguous()}


def check_pair(files: tuple[Path, Path], lq: Tensor, gt: Tensor, scale: int) -> None:
    """A one-line ValueError where the clean image is not `scale` times as large as the damaged one."""
    small, large = tuple(lq.shape[-2:]), tuple(gt.shape[-2:])
    if large != (small[0] * scale, small[1] * scale):
        raise ValueError(
            f"data.gt: {files[1]} has {large[0]} x {large[1]} pixels and {files[0]} has {small[0]} x {small[1]};"
            f" the first must be {scale} times as large (data.scale)"
        )


class TestImages(HeldOut):
    """Held-out images as evaluation batches of one: lq (1, C, h, w), gt (1, C, H, W) in [0, 1].

    Args:
        items: (damaged file or None, clean file).
        data: damage, for the items without a damaged file.
        crop: side to which clean images are cut around their centre. 0: whole.
    """

    __test__ = False  # not a test case for pytest

    def __init__(self, items: Sequence[tuple[Path | None, Path]], data: Data, crop: int = 0):
        levels: Sequence[float]
        levels = {"denoise": data.test_sigmas, "jpeg": data.test_qualities, "sr": (data.scale,)}[data.degradation]
        self.jobs = [(lq, gt, level) for lq, gt in items for level in (levels if lq is None else (0.0,))]
        self.kind, self.grey, self.scale, self.crop = data.degradation, data.grey, data.scale, crop
        self.luma = data.degradation != "denoise" if data.test_y_channel is None else data.test_y_channel
        self.shave = (data.scale if data.degradation == "sr" else 0) if data.crop_border is None else data.crop_border

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        lq_file, gt_file, level = self.jobs[index]
        picture = read_image(gt_file)
        gt = channels_first(picture.pixels)
        gt = as_grey(gt) if self.grey else gt
        if lq_file is None:
            gt = centre(gt, self.crop) if self.crop else gt
            gt = gt[:, : gt.shape[1] // self.scale * self.scale, : gt.shape[2] // self.scale * self.scale]
            lq, label = self._damaged(gt, level)
        else:
            lq, label = channels_first(read_image(lq_file).pixels), "pairs"
            lq = as_grey(lq) if self.grey else lq
            check_pair((lq_file, gt_file), lq, gt, self.scale)
            if self.crop:
                side = max(1, self.crop // self.scale)
                lq, gt = centre(lq, side), centre(gt, side, step=self.scale)
        return {
            "lq": lq[None].contiguous(),
            "gt": gt[None].contiguous(),
            "grey": self.grey or (picture.grey and self.luma),  # RGB is RGB, though a file has one channel
            "luma": self.luma,
            "shave": self.shave,
            "label": label,
            "name": gt_file.stem,
        }

    def _damaged(self, gt: Tensor, level: float) -> tuple[Tensor, str]:
        if self.kind == "denoise":
            return noisy_for_tables(gt, level), f"sigma{level:g}"
        if self.kind == "jpeg":
            return compressed(gt, int(level)), f"q{level:g}"
        return shrunk(gt, self.scale), f"x{self.scale}"


def loaders(data: Data, train: TrainConfig | None = None) -> tuple[DrawnBatches, TestImages]:
    """Training batches and held-out images of the settings; which images are held out depends on `train.seed`.

    Raises:
        FileNotFoundError: a folder that is not there, or holds no image.
        ValueError: no folder is given, or too few images to hold one out.
    """
    train = train or TrainConfig()
    if data.lq is not None and data.gt is not None:
        items: list[tuple[Path | None, Path]] = pairs(data.lq, data.gt, data.filename_tmpl)
    elif data.root is not None:
        items = [(None, file) for folder in folders(data.root) for file in find_images(folder)]
    else:
        raise ValueError("data.root: not set; give a folder of clean images (or data.lq and data.gt)")
    if data.test is None:
        items, held_out = split(items, data.holdout, train.seed)
    else:
        held_out = pairs(data.test_lq, data.test, data.filename_tmpl)
    dataset = (
        PairedFolders([(lq, gt) for lq, gt in items if lq is not None], data)
        if data.lq is not None
        else ImageFolder([gt for _, gt in items], data)
    )
    batches = DrawnBatches(dataset, train.batch_size, train.seed, train.workers)
    return batches, TestImages(held_out, data, data.test_crop)


def pairs(lq: Folders | None, gt: Folders, filename_tmpl: str | None = None) -> list[tuple[Path | None, Path]]:
    """(damaged file, clean file) of the folders of both; where `lq` is None, clean files alone.

    Args:
        lq: as many folders as `gt`, or None.
        gt: one folder or several.
        filename_tmpl: how a damaged file is called after the clean one, without the suffix; None: see `pair_images`.

    Raises:
        FileNotFoundError: a folder is missing or holds no image, or a damaged file is missing.
        ValueError: a file has no partner, or more than one.
    """
    if lq is None:
        return [(None, file) for folder in folders(gt) for file in find_images(folder)]
    found: list[tuple[Path | None, Path]] = []
    for small, large in zip(folders(lq), folders(gt), strict=True):
        found += _by_template(small, large, filename_tmpl) if filename_tmpl else pair_images(small, large)
    return found


def _by_template(lq: str, gt: str, template: str) -> Iterator[tuple[Path, Path]]:
    damaged = {file.relative_to(lq).with_suffix(""): file for file in find_images(lq)}
    for clean in find_images(gt):
        name = clean.relative_to(gt).with_name(template.replace("{}", clean.stem))
        if name not in damaged:
            raise FileNotFoundError(
                f"data.filename_tmpl: {template!r} makes {name} of {clean}; {lq} holds no such image"
            )
        yield damaged[name], clean
