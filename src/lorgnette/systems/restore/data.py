"""Training crops and held-out images, damaged on the way or in pairs of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorgnette.common.parts import Parts
from lorgnette.images.division import divided
from lorgnette.images.evaluation import HeldOutImages
from lorgnette.images.file import read_image
from lorgnette.images.folders import Item, by_folder, find_images, folders, pair_images
from lorgnette.images.patches import (
    JPEG_BLOCK,
    TrainingCrops,
    at_least,
    augmented,
    centre,
    channels_first,
    damaged,
    damaged_for_tables,
    random_corner,
    random_crop,
    square,
    usual_steps,
)
from lorgnette.systems.restore.clips import Windows, frames_before
from lorgnette.systems.restore.degradations import as_grey, compressed, noisy, noisy_for_tables, shrunk
from lorgnette.systems.restore.recipe import Data, Recipe
from lorgnette.train.batches import Draw, DrawnBatches, HeldOut
from lorgnette.train.config import TrainConfig

DRAWS = (1, 2, 3)  # of named damage, for each held-out image


class ImageFolder(TrainingCrops[Path, Data]):
    """Crops of clean images, and the same crops damaged; everything random is a function of the draw."""

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        """lq (C, p, p) and gt (C, s p, s p) in [0, 1]; noise goes beyond."""
        rng = draw.rng()
        return self.sample(self.files[draw.index], rng, rng)

    def sample(self, file: Path, /, rng: np.random.Generator, own: np.random.Generator) -> dict[str, Tensor]:
        """The same from a file; `own` makes the noise."""
        data = self.data
        spare = JPEG_BLOCK * data.scale if data.damage else JPEG_BLOCK - 1 if data.degradation == "jpeg" else 0
        gt = random_crop(rng, self.pixels(file), data.patch * data.scale + spare, data.augment)
        gt = as_grey(gt) if data.grey else gt
        if data.damage:
            side, scale = data.patch, data.scale
            y, x = rng.integers(JPEG_BLOCK, size=2)
            lq, gt = damaged(gt, data.damage, own, (side + JPEG_BLOCK, side + JPEG_BLOCK))
            lq, gt = square(lq, y, x, side), square(gt, y * scale, x * scale, side * scale)
        elif data.degradation == "denoise":
            lq = noisy(gt, rng.uniform(*data.sigmas), own)
        elif data.degradation == "jpeg":
            lq = compressed(gt, int(rng.integers(data.qualities[0], data.qualities[1] + 1)))
            y, x = rng.integers(JPEG_BLOCK, size=2)
            lq, gt = (image[:, y : y + data.patch, x : x + data.patch] for image in (lq, gt))
        else:
            lq = shrunk(gt, data.scale)
        return {"lq": lq.contiguous(), "gt": gt.contiguous()}


class PairedFolders(TrainingCrops[tuple[Path, Path], Data]):
    """Crops of images that exist both damaged and clean; the clean ones are `data.scale` times as large."""

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        """As `ImageFolder`."""
        rng = draw.rng()
        return self.sample(self.files[draw.index], rng, rng)

    def sample(
        self, files: tuple[Path, Path], /, rng: np.random.Generator, own: np.random.Generator
    ) -> dict[str, Tensor]:
        """The same from two files; nothing is left to `own`."""
        side, scale = self.data.patch, self.data.scale
        lq, gt = self.pixels(files[0]), self.pixels(files[1])
        check_pair(files, lq.shape[-2:], gt.shape[-2:], scale)
        lq, gt = at_least(lq, side), at_least(gt, side * scale)
        top, left = random_corner(rng, lq, side)
        lq, gt = square(lq, top, left, side), square(gt, top * scale, left * scale, side * scale)
        if self.data.augment:
            turns = rng.bit_generator.state
            lq = augmented(rng, lq)
            rng.bit_generator.state = turns  # so that both are flipped alike
            gt = augmented(rng, gt)
        if self.data.grey:
            lq, gt = as_grey(lq), as_grey(gt)
        return {"lq": lq.contiguous(), "gt": gt.contiguous()}


def check_pair(files: tuple[Path, Path], small: Sequence[int], large: Sequence[int], scale: int) -> None:
    """A one-line ValueError where the clean image is not `scale` times as large as the damaged one."""
    if tuple(large) != (small[0] * scale, small[1] * scale):
        raise ValueError(
            f"data.gt: {files[1]} has {large[0]} x {large[1]} pixels and {files[0]} has {small[0]} x {small[1]};"
            f" the first must be {scale} times as large (data.scale)"
        )


class TestImages(HeldOutImages, HeldOut):
    """Held-out images by kind and strength of damage; see `lorgnette.images.evaluation`.

    Denoising is scored on RGB, JPEG on Y, both on whole images; super-resolution on Y, shaved by the scale. The
    settings can say otherwise.

    Args:
        items: (damaged file or None, clean file).
        data: damage, for the items without a damaged file.
        crop: side to which clean images are cut around their centre. 0: whole.
    """

    __test__ = False  # not a test case for pytest

    def __init__(self, items: Iterable[Item], data: Data, crop: int = 0):
        levels: dict[str, Sequence[float]]
        levels = {"denoise": data.test_sigmas, "jpeg": data.test_qualities, "sr": (data.scale,)}
        super().__init__(items, DRAWS if data.damage else levels[data.degradation], crop)
        self.data = data
        luma = data.degradation != "denoise" and not data.damage if data.test_y_channel is None else data.test_y_channel
        shave = (data.scale if data.degradation == "sr" else 0) if data.crop_border is None else data.crop_border
        self.scoring = {"luma": luma, "shave": shave}

    def prepared(self, image: Tensor) -> Tensor:
        return as_grey(image) if self.data.grey else image

    def __getitem__(self, index: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As `HeldOutImages`; of a frame of a clip also `before`: the damaged frames before it, (n, 1, C, h, w)."""
        batch = super().__getitem__(index)
        if (self.data.frames or 1) > 1:
            batch["before"] = self._before(index, batch["lq"])
        return batch

    def _before(self, index: int, lq: Tensor) -> Tensor:
        """Damaged as the frame itself, but with other noise."""
        lq_file, gt_file, level = self.jobs[index]
        found = []
        for number, file in enumerate(frames_before(lq_file or gt_file, (self.data.frames or 1) - 1)):
            try:
                image = self.prepared(channels_first(read_image(file).pixels))
            except ValueError:  # a gap: frames before it are not those before this one
                found = []
                continue
            if lq_file is not None:
                image = centre(image, max(1, self.crop // self.data.scale)) if self.crop else image
            else:
                image = centre(image, self.crop) if self.crop else image
                if self.data.degradation == "denoise":
                    image = noisy(image, level, np.random.default_rng((number, 4)))
                else:
                    image = self.degraded(image, level)[0]
            found = [*found, image] if image.shape == lq.shape[1:] else []  # of another clip
        return torch.stack(found)[:, None] if found else lq.new_zeros(0, *lq.shape)

    def degraded(self, gt: Tensor, level: float) -> tuple[Tensor, Tensor, dict[str, Any]]:
        scale = self.data.scale
        gt = gt[:, : gt.shape[1] // scale * scale, : gt.shape[2] // scale * scale]
        if self.data.damage:
            size = (gt.shape[1] // scale, gt.shape[2] // scale)
            lq, gt = damaged_for_tables(gt, self.data.damage, int(level), size)
            label = self.data.damage
        elif self.data.degradation == "denoise":
            lq, label = noisy_for_tables(gt, level), f"sigma{level:g}"
        elif self.data.degradation == "jpeg":
            lq, label = compressed(gt, int(level)), f"q{level:g}"
        else:
            lq, label = shrunk(gt, scale), f"x{scale}"
        return lq, gt, self.scoring | {"label": label}

    def paired(self, lq: Tensor, gt: Tensor, files: tuple[Path, Path]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        check_pair(files, lq.shape[-2:], gt.shape[-2:], self.data.scale)
        return *self.centred(lq, gt, self.data.scale), self.scoring | {"label": "pairs"}


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
    clean = data.root if data.gt is None else data.gt
    if clean is None:
        raise ValueError("data.root: not set; give a folder of clean images (or data.lq and data.gt)")
    fits = partial(check_pair, scale=data.scale)
    items, held_out, parts = divided(
        clean,
        data.lq,
        data.test,
        data.test_lq,
        data.holdout,
        train.seed,
        matched_by(data.filename_tmpl),
        fits,
        fits,
        before,
    )
    files, frames = [gt for _, gt in items], data.frames or 1
    if data.lq is None:
        pictures = ImageFolder(files, data)
        dataset = pictures if frames == 1 else Windows(pictures, pictures.files, frames)
    else:
        pairs = PairedFolders([(lq, gt) for lq, gt in items if lq is not None], data)
        dataset = pairs if frames == 1 else Windows(pairs, pairs.files, frames)
    of = by_folder(dataset.first if isinstance(dataset, Windows) else files, folders(clean))
    batches = DrawnBatches(dataset, train.batch_size, train.seed, train.workers, parts, of)
    return batches, TestImages(held_out, data, data.test_crop)


def matched_by(filename_tmpl: str | None) -> Callable[[str, str], Iterable[tuple[Path, Path]]]:
    """How the files of a damaged and a clean folder are matched: by a template of names, or by `pair_images`."""
    return pair_images if filename_tmpl is None else partial(_by_template, template=filename_tmpl)


def _by_template(lq: str, gt: str, template: str) -> Iterator[tuple[Path, Path]]:
    damaged = {file.relative_to(lq).with_suffix(""): file for file in find_images(lq)}
    for clean in find_images(gt):
        name = clean.relative_to(gt).with_name(template.replace("{}", clean.stem))
        if name not in damaged:
            raise FileNotFoundError(
                f"data.filename_tmpl: {template!r} makes {name} of {clean}; {lq} holds no such image"
            )
        yield damaged[name], clean


def default_steps(n_images: int, recipe: Recipe) -> int:
    """How long to train on `n_images` where the recipe does not say."""
    return usual_steps(n_images, recipe.train.batch_size)
