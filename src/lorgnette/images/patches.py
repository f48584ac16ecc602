"""Pictures to learn from: decoded pixels, crops of them, and which pictures are held out."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from lorgnette.common.store import BoundedStore
from lorgnette.images.file import read_image
from lorgnette.images.kinds import Kind
from lorgnette.images.pixels import seen_colours
from lorgnette.images.resize import imresize

T = TypeVar("T")
Settings = TypeVar("Settings")

JPEG_BLOCK = 8  # pixels; crops of real files rarely start at a block's edge: damage a larger crop, then cut within one
CACHE_BYTES = 2 * 2**30  # decoded images kept in memory, for each loading process


class PixelCache:
    """Decoded images, (3, H, W) uint8 or uint16 tensors, those that were used last; a loading process has its own."""

    def __init__(self, max_bytes: int = CACHE_BYTES):
        self.store = BoundedStore(max_bytes)

    def __call__(self, path: Path) -> Tensor:
        return self.store.get_or_make(path, lambda: _levels(path))


def _levels(path: Path) -> Tensor:
    image = read_image(path)
    most, dtype = (65535, torch.uint16) if image.bits > 8 else (255, torch.uint8)
    return channels_first(seen_colours(image.pixels, image.alpha)).mul(most).round().to(dtype)


class TrainingCrops(Generic[T, Settings]):
    """Files (or pairs of files) to cut crops from, with a room's settings. The room adds `__getitem__(draw)`."""

    def __init__(self, files: Iterable[T], data: Settings):
        self.files, self.data, self.pixels = list(files), data, PixelCache()

    def __len__(self) -> int:
        return len(self.files)


def unit(pixels: Tensor) -> Tensor:
    """Integer levels as float32 in [0, 1]; what is so already stays."""
    if pixels.is_floating_point():
        return pixels
    return pixels.float() / (65535 if pixels.dtype == torch.uint16 else 255)


def at_least(pixels: Tensor, size: int) -> Tensor:
    """The image mirrored at its right and lower edge until both sides have `size` pixels."""
    missing = [max(0, size - n) for n in pixels.shape[-2:]]
    if not any(missing):
        return pixels
    padded = np.pad(pixels.numpy(), [(0, 0), (0, missing[0]), (0, missing[1])], mode="symmetric")
    return torch.from_numpy(padded)


def random_corner(rng: np.random.Generator, pixels: Tensor, side: int) -> tuple[int, int]:
    """(top, left) of a square of `side` pixels somewhere in the image."""
    top, left = (int(rng.integers(n - side + 1)) for n in pixels.shape[-2:])
    return top, left


def square(pixels: Tensor, top: int, left: int, side: int) -> Tensor:
    """A crop of integer levels (C, H, W) as float32 in [0, 1]: (C, side, side)."""
    return unit(pixels[:, top : top + side, left : left + side])


def random_crop(rng: np.random.Generator, pixels: Tensor, side: int, augment: bool) -> Tensor:
    """As `square`, from anywhere in the image (mirrored where it is too small), `augmented` if asked."""
    pixels = at_least(pixels, side)
    crop = square(pixels, *random_corner(rng, pixels, side), side)
    return augmented(rng, crop) if augment else crop


def augmented(rng: np.random.Generator, image: Tensor) -> Tensor:
    """The image after random flips and transposition."""
    flip_y, flip_x, transpose = rng.random(3) < 0.5
    image = image.flip([dim for dim, chosen in ((-2, flip_y), (-1, flip_x)) if chosen])
    return image.mT if transpose else image


def shrink(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Smaller by bicubic, then rounded to 8 bits as a file would be: (C, H, W) in [0, 1] -> (C, *size)."""
    return (imresize(image, size=size).clamp(0, 1) * 255).round() / 255


def damaged(
    image: Tensor,
    kind: Kind,
    rng: np.random.Generator,
    size: tuple[int, int] | None = None,
    sound: bool = True,
) -> tuple[Tensor, Tensor]:
    """A damaged picture and its truth, by `lorgnette.images.damage`: (C, H, W) in [0, 1] -> (C, *size), (C, H, W).

    Without `sound`, none of the pictures that teach an adapter to leave good ones alone.
    """
    from lorgnette.images.damage import damage

    how = damage(kind) if sound else replace(damage(kind), clean=0)
    lq, gt = how.pair(image.permute(1, 2, 0).numpy(), rng, size)
    return channels_first(lq).contiguous(), channels_first(gt).contiguous()


def damaged_for_tables(
    image: Tensor, kind: Kind, draw: int, size: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """The same, each time alike: everything random is a function of the image and `draw`."""
    rng = np.random.default_rng((zlib.crc32(image.numpy().tobytes()), draw))
    return damaged(image, kind, rng, size, sound=False)


def channels_first(pixels: np.ndarray) -> Tensor:
    """(H, W, C) -> (C, H, W), without a copy."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def centre(image: Tensor, side: int, step: int = 1) -> Tensor:
    """The middle `side * step` pixels of each axis (or all), cut at multiples of `step`."""
    for dim in (1, 2):
        n = image.shape[dim] // step
        if n > side:
            image = image.narrow(dim, (n - side) // 2 * step, side * step)
    return image


def split(
    items: Sequence[T], share: float, seed: int, kinds: Sequence[Hashable] | None = None
) -> tuple[list[T], list[T]]:
    """(kept, held out): a random `share` of the items, at least one unless the share is 0.

    With `kinds`, the class of each item, it is that share of every class: one at least of two or more, none of one.
    """
    if share == 0:
        return list(items), []
    if len(items) < 2:
        raise ValueError("data.holdout: there is one image only; add images, set data.test, or hold out 0")
    order = np.random.default_rng((seed, 3)).permutation(len(items)).tolist()
    groups: dict[Hashable, list[int]] = {}
    for i in order:
        groups.setdefault(None if kinds is None else kinds[i], []).append(i)
    counts = {kind: min(len(own) - 1, max(1, int(share * len(own)))) for kind, own in groups.items()}
    while sum(counts.values()) < round(share * len(items)):  # the rest to those that are furthest below their share
        short = {kind: share * len(own) - counts[kind] for kind, own in groups.items() if counts[kind] < len(own) - 1}
        if max(short.values(), default=0) <= 0:
            break
        counts[max(short, key=short.__getitem__)] += 1
    chosen = {i for kind, own in groups.items() for i in own[: counts[kind]]}
    return [x for i, x in enumerate(items) if i not in chosen], [x for i, x in enumerate(items) if i in chosen]


def usual_steps(n_images: int, batch_size: int) -> int:
    """How long to train on `n_images` where nobody said: more for more images, within 200 to 2000 steps."""
    return max(200, min(2000, 40 * n_images * 8 // batch_size))
