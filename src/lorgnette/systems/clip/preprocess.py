"""Pictures as CLIP takes them: the shorter side resized by Pillow's bicubic, the middle cut out. No torchvision."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from lorgnette.images.file import Image
from lorgnette.images.pixels import to_uint8


class Normalisation(NamedTuple):
    """Mean and deviation of each channel, of values in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PUBLISHED = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""As OpenAI's CLIP and those after it take images."""


def levels(image: Image) -> NDArray[np.uint8]:
    """The picture in 8 bits: (H, W, 3). Transparency is dropped, as CLIP does."""
    return to_uint8(image.pixels)


def square(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(H, W, 3) -> (side, side, 3): the shorter side made `side` long, and the middle cut out."""
    height, width = pixels.shape[:2]
    short, long = min(height, width), max(height, width)
    size = (side, int(side * long / short)) if width >= height else (int(side * long / short), side)
    resized = PIL.Image.fromarray(pixels).resize((size[1], size[0]), PIL.Image.Resampling.BICUBIC)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return np.asarray(resized)[top : top + side, left : left + side]


def random_square(pixels: NDArray[np.uint8], side: int, rng: np.random.Generator, flip: bool) -> NDArray[np.uint8]:
    """A random part of 70 to 100 % of the area of the middle square, resized to (side, side, 3)."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    part = max(1, round(short * float(np.sqrt(rng.uniform(0.7, 1.0)))))
    top = (height - short) // 2 + int(rng.integers(short - part + 1))
    left = (width - short) // 2 + int(rng.integers(short - part + 1))
    cut = PIL.Image.fromarray(np.ascontiguousarray(pixels[top : top + part, left : left + part]))
    found = np.asarray(cut.resize((side, side), PIL.Image.Resampling.BICUBIC))
    return found[:, ::-1] if flip and rng.random() < 0.5 else found


def unit(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) levels -> (3, H, W) in [0, 1]."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
