"""PSNR and SSIM of arrays from 0 to 255."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorgnette.images.metrics import psnr, ssim


def calculate_psnr(img1: NDArray[Any], img2: NDArray[Any], crop_border: int = 0, test_y_channel: bool = False) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images.

    As the original has it: of all channels, and all pixels. The field's tables are of Y, shaved by the scale.

    Args:
        img1: (H, W, 3) or (H, W), from 0 to 255, of any type (uint8 too).
        img2: the other.
        crop_border: pixels left out on each side.
        test_y_channel: compare Y of BT.601 instead.

    Raises:
        ValueError: shapes that differ or are no images.
    """
    return psnr(_image(img1), _image(img2), crop_border, test_y_channel)


def calculate_ssim(img1: NDArray[Any], img2: NDArray[Any], crop_border: int = 0, test_y_channel: bool = False) -> float:
    """Structural similarity: Gaussian window of 11 pixels, sigma 1.5. Arguments and errors as of `calculate_psnr`."""
    return ssim(_image(img1), _image(img2), crop_border, test_y_channel)


def _image(array: NDArray[Any]) -> Tensor:
    """(3, H, W) in [0, 1], in double precision: differences of bytes do not wrap around."""
    image = torch.from_numpy(np.asarray(array, dtype=np.float64) / 255)
    if image.ndim == 2:
        image = image[..., None]
    return image.permute(2, 0, 1).expand(3, -1, -1) if image.ndim == 3 and image.shape[2] == 1 else image.movedim(-1, 0)
