"""What is done to pictures around a network: other sizes, and mixtures of two. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lorgnette.images.file import Image
from lorgnette.images.pixels import seen_colours
from lorgnette.images.resize import imresize

STRONGEST = 1.5


def alpha_at(alpha: NDArray[np.float32] | None, size: tuple[int, int]) -> NDArray[np.float32] | None:
    """An alpha plane (H, W) in [0, 1] at another size, by bicubic; at its own size it stays as it is."""
    if alpha is None or alpha.shape == size:
        return alpha
    return imresize(alpha, size=size).clip(0, 1)


def resized(image: Image, size: tuple[int, int]) -> Image:
    """A picture of (H, W) by the cubic kernel, antialiased where it becomes smaller; a pixel counts as much as it is
    seen. Of its own size it is the same picture."""
    if image.pixels.shape[:2] == size:
        return image
    pixels, alpha = seen_colours(image.pixels, image.alpha), alpha_at(image.alpha, size)
    planes = _planes(pixels, size)
    if image.alpha is not None and alpha is not None:
        seen = _planes(pixels * image.alpha[..., None], size)
        planes = np.where(alpha > 1 / 255, seen / alpha.clip(min=1 / 255), planes)
    return of_size(image, planes.clip(0, 1).transpose(1, 2, 0), alpha)


def between(first: Image, second: Image, share: float) -> Image:
    """The picture that lies `share` of the way from one to another of its size; 0 is the first, bit for bit."""
    if share == 0:
        return replace(second, pixels=first.pixels)
    pixels = first.pixels + np.float32(share) * (second.pixels - first.pixels)
    return replace(second, pixels=pixels.clip(0, 1))


def check_strength(strength: float) -> None:
    """Refuse what is no strength, in one line."""
    if not 0 <= strength <= STRONGEST:
        raise ValueError(f"strength: {strength:g} does not work; 0 to {STRONGEST:g} does, and 1 is as trained")


def of_size(image: Image, pixels: NDArray[np.float32], alpha: NDArray[np.float32] | None) -> Image:
    """A picture of new pixels (H, W, 3) that were made of another's: it prints as large."""
    before, after = (image.pixels.shape[0], image.pixels.shape[1]), (pixels.shape[0], pixels.shape[1])
    return replace(image, pixels=pixels, alpha=alpha, about=image.about.resized(before, after))


def _planes(pixels: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W, 3) -> (3, *size)."""
    return imresize(np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32), size=size)
