"""What damages an image: noise, compression, shrinking."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lorgnette.images.damage import jpeg
from lorgnette.images.patches import channels_first, shrink

GREY = (0.299, 0.587, 0.114)  # BT.601 in full range, as OpenCV makes grey


def noisy(image: Tensor, sigma: float, rng: np.random.Generator) -> Tensor:
    """White Gaussian noise of deviation `sigma` (of 255) added, not clipped: (C, H, W) in [0, 1] -> the same."""
    noise = rng.standard_normal(tuple(image.shape), dtype=np.float32)
    return image + torch.from_numpy(noise) * (sigma / 255)


def noisy_for_tables(image: Tensor, sigma: float) -> Tensor:
    """The noise that BasicSR's tables were made with: seed 0 for every image, drawn as (H, W, BGR) in float64.

    Args:
        image: (C, H, W) in [0, 1], C 1 or 3.
        sigma: deviation, of 255.
    """
    c, h, w = image.shape
    noise = np.random.RandomState(0).normal(0, sigma / 255.0, (h, w, c))[..., ::-1].copy()
    return (image.double() + torch.from_numpy(noise).permute(2, 0, 1)).float()


def compressed(image: Tensor, quality: int) -> Tensor:
    """The image after JPEG, in 8-bit levels: (C, H, W) in [0, 1] -> the same, C 1 or 3; chroma at half resolution."""
    return channels_first(jpeg(image.permute(1, 2, 0).numpy(), quality).copy())


def shrunk(image: Tensor, scale: int) -> Tensor:
    """Smaller by `shrink`: (C, H, W) in [0, 1] -> (C, H / scale, W / scale)."""
    return shrink(image, (image.shape[-2] // scale, image.shape[-1] // scale))


def as_grey(image: Tensor) -> Tensor:
    """Luma in full range, in 8-bit levels: (3, H, W) in [0, 1] -> (1, H, W)."""
    weights = torch.tensor(GREY, dtype=image.dtype).view(3, 1, 1)
    return ((image * weights).sum(0, keepdim=True) * 255).round() / 255
