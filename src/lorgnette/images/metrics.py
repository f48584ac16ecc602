"""PSNR and SSIM as super-resolution and restoration tables report them.

Images are in [0, 1]. Tables in the literature measure the luma Y of BT.601 (studio swing), after rounding
both images to 8 bits, and leave out a border as wide as the scale ("shave").
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5  # Wang et al., "Image quality assessment", 2004


def luma(rgb: Tensor) -> Tensor:
    """Luma Y of ITU-R BT.601 in studio swing (MATLAB's `rgb2ycbcr`), neither clipped nor rounded.

    Args:
        rgb: `(..., 3, H, W)` in [0, 1].

    Returns:
        `(..., 1, H, W)` from 16/255 (black) to 235/255 (white).
    """
    if rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise ValueError(f"luma: needs (..., 3, H, W), got {tuple(rgb.shape)}")
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=rgb.dtype, device=rgb.device).view(3, 1, 1)
    return ((rgb * weights).sum(-3, keepdim=True) + 16) / 255


def psnr(a: Tensor, b: Tensor, shave: int = 0, luma: bool = True, grey: bool = False, quantise: bool = False) -> float:
    """Peak signal-to-noise ratio in dB, peak 1; the mean over the images of the batch.

    Args:
        a: `(3, H, W)` or `(B, 3, H, W)` in [0, 1].
        b: The other images, same shape.
        shave: Pixels left out on each side.
        luma: Compare Y of BT.601 in studio swing; otherwise all three channels.
        grey: The three channels are copies of one grey image: compare that in its full range, without the
            conversion to Y (which squeezes it to 16..235 and so adds 1.3 dB).
        quantise: First clip to [0, 1] and round to 8 bits, as published tables do.

    Returns:
        dB; infinite for equal images.

    Raises:
        ValueError: The shapes differ, are no images, or nothing is left after shaving.
    """
    x, y = (_prepare(image, shave, luma, grey, quantise) for image in _same_shape(a, b))
    errors = (x - y).square().flatten(1).mean(1).tolist()
    return sum(-10 * math.log10(error) if error else math.inf for error in errors) / len(errors)


def ssim(a: Tensor, b: Tensor, shave: int = 0, luma: bool = True, grey: bool = False, quantise: bool = False) -> float:
    """Structural similarity (Wang et al. 2004); the mean over the images of the batch.

    Gaussian window 11x11 of sigma 1.5 at all positions where it fits, population covariances, K1 = 0.01,
    K2 = 0.03: scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)`. Without `luma`, the mean over the channels.

    Args and errors are those of `psnr`; 11 pixels must be left on each axis.
    """
    x, y = (_prepare(image, shave, luma, grey, quantise) for image in _same_shape(a, b))
    if min(x.shape[-2:]) < _WINDOW:
        raise ValueError(f"ssim: needs {_WINDOW} pixels on each side after shaving, got {tuple(x.shape[-2:])}")
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x * mean_x
    variance_y = _blur(y * y) - mean_y * mean_y
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2)
    )
    return similarity.mean().item()


def _same_shape(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise ValueError(f"the two images must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return a, b


def _prepare(image: Tensor, shave: int, y_channel: bool, grey: bool, quantise: bool) -> Tensor:
    """`(B, C, H, W)` in float64 (MPS, which has none: on the CPU), what is to be compared."""
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"metrics need (3, H, W) or (B, 3, H, W), got {tuple(image.shape)}")
    height, width = image.shape[-2:]
    if shave < 0 or min(height, width) <= 2 * shave:
        raise ValueError(f"shave={shave} leaves nothing of an image of {height} x {width}")
    image = image[..., shave : height - shave, shave : width - shave].detach()
    if image.device.type == "mps":
        image = image.cpu()
    image = image.double()
    if quantise:
        image = (image.clamp(0, 1) * 255 + 0.5).floor() / 255
    if grey:
        return image.mean(1, keepdim=True)
    return luma(image) if y_channel else image


def _blur(x: Tensor) -> Tensor:
    offset = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    kernel = torch.exp(-0.5 * (offset / _SIGMA) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, _WINDOW)
    x = F.conv2d(x, kernel, groups=x.shape[1])
    return F.conv2d(x, kernel.transpose(2, 3), groups=x.shape[1])
