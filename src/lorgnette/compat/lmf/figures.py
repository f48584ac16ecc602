"""Pictures of features and of attention."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray
from torch import Tensor

from lorgnette.common.files import atomic_write

SIDE, GAP, MOST = 240, 10, 16


def visualize_feature_maps(feature: Tensor, save_path: str | os.PathLike[str]) -> Path:
    """Up to 16 features in a grid of 4 x 4, each the mean of its channels from its smallest to its largest value.

    Args:
        feature: (B, C, h, w); the features of `gen_feats`, for example.
        save_path: of the picture, such as maps.png.

    Raises:
        ValueError: another shape.
    """
    if feature.ndim != 4:
        raise ValueError(f"feature: {tuple(feature.shape)} does not work; (B, C, h, w) does")
    width = 4 * (SIDE + GAP) + GAP
    canvas = PIL.Image.new("RGB", (width, width), "white")
    for number, own in enumerate(feature.detach().float().mean(1).cpu().numpy()[:MOST]):
        row, column = divmod(number, 4)
        canvas.paste(_mapped(own, cv2.COLORMAP_VIRIDIS, SIDE), (GAP + column * (SIDE + GAP), GAP + row * (SIDE + GAP)))
    return _written(canvas, save_path)


def visualize_attention(attn_weights: Tensor, save_path: str | os.PathLike[str]) -> Path:
    """Weights as a map from black through red to white, with a bar that says what the colours mean.

    Args:
        attn_weights: (h, w), or (1, ..., 1, h, w).
        save_path: of the picture.

    Raises:
        ValueError: another shape.
    """
    if attn_weights.ndim < 2 or attn_weights.numel() != attn_weights.shape[-2] * attn_weights.shape[-1]:
        raise ValueError(f"attn_weights: {tuple(attn_weights.shape)} does not work; (h, w) does")
    weights = attn_weights.detach().float().reshape(attn_weights.shape[-2:]).cpu().numpy()
    side = 3 * SIDE
    canvas = PIL.Image.new("RGB", (side + 5 * GAP + 100, side + 2 * GAP), "white")
    canvas.paste(_mapped(weights, cv2.COLORMAP_HOT, side), (GAP, GAP))
    bar = _mapped(np.linspace(1, 0, 256, dtype=np.float32)[:, None], cv2.COLORMAP_HOT, side)
    canvas.paste(bar.resize((2 * GAP, side)), (side + 2 * GAP, GAP))
    draw, font = PIL.ImageDraw.Draw(canvas), PIL.ImageFont.load_default(16)
    for share in (0, 0.5, 1):
        value = weights.min() + share * (weights.max() - weights.min())
        draw.text((side + 5 * GAP, GAP + (1 - share) * side), f"{value:.3g}", fill="black", font=font, anchor="lm")
    return _written(canvas, save_path)


def _mapped(values: NDArray[np.float32], colours: int, side: int) -> PIL.Image.Image:
    """(h, w) in colours, as large as fits a square."""
    low, high = float(values.min()), float(values.max())
    level = np.zeros(values.shape, np.uint8) if high <= low else ((values - low) / (high - low) * 255).astype(np.uint8)
    image = PIL.Image.fromarray(cv2.cvtColor(cv2.applyColorMap(level, colours), cv2.COLOR_BGR2RGB))
    share = side / max(image.size)
    return image.resize(
        (max(1, round(image.width * share)), max(1, round(image.height * share))), PIL.Image.Resampling.NEAREST
    )


def _written(image: PIL.Image.Image, save_path: str | os.PathLike[str]) -> Path:
    with atomic_write(save_path) as temporary:
        image.save(temporary)
    return Path(save_path)
