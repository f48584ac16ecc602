"""What damages an image: noise, compression, shrinking."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from lorgnette.images.resize import imresize

GREY = (0.299, 0.587, 0.114)  # BT.601 in full range, as OpenCV makes grey


def noisy(image: Tensor, sigma: float, rng: np.random.Generator) -> Tensor:
    """White Gaussian noise of deviation `sigma` (of 255) added, not clipped: (C, H, W) in [0, 1] -> the same."""
    noise = rng.standard_normal(tuple(image.shape), dtype=np.float32)
    return image + torch.from_numpy(noise) * (sigma / 255)


def noisy_for_tables(image: Tensor, sigma: float) -> Tensor:
    """The same noise that BasicSR's tables were made with: seed 0 for every image, drawn as (H, W, BGR) in float64.

    Args:
        image: (C, H, W) in [0, 1], C 1 or 3.
        sigma: deviation, of 255.
    """
    c, h, w = image.shape
    noise = np.random.RandomState(0).normal(0, sigma / 255.0, (h, w, c))[..., ::-1].copy()
    return (image.double() + torch.from_numpy(noise).permute(2, 0, 1)).float()


def compressed(image: Tensor, quality: int) -> Tensor:
    """The image after JPEG: (C, H, W) in [0, 1] -> the same in 8-bit levels. C 1 or 3; colour at half resolution."""
    levels = image.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).flip(-1)  # BGR
    _, code = cv2.imencode(".jpg", np.ascontiguousarray(levels.numpy()), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    flag = cv2.IMREAD_COLOR if image.shape[0] == 3 else cv2.IMREAD_GRAYSCALE
    decoded = cv2.imdecode(code, flag)
    assert decoded is not None, "it was encoded here"
    decoded = decoded.reshape(levels.shape)[..., ::-1].copy()
    return torch.from_numpy(decoded).permute(2, 0, 1).float() / 255


def shrunk(image: Tensor, scale: int) -> Tensor:
    """Smaller by bicubic, rounded to 8 bits as a file would be: (C, H, W) in [0, 1] -> (C, H / scale, W / scale)."""
    size = (image.shape[-2] // scale, image.shape[-1] // scale)
    return (imresize(image, size=size).clamp(0, 1) * 255).round() / 255


def as_grey(image: Tensor) -> Tensor:
    """Luma in full range, in 8-bit levels: (3, H, W) in [0, 1] -> (1, H, W)."""
    weights = torch.tensor(GREY, dtype=image.dtype).view(3, 1, 1)
    return ((image * weights).sum(0, keepdim=True) * 255).round() / 255
