"""The pictures a network learns from, on the device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lorgnette.images.resize import imresize

TILE = (320, 480)
LEVELS = 1020  # stored pixels: ten bits a channel, so that 8-bit pixels are exact and the teacher's nearly so


def pictures(root: Path, more: Path | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(training, held out): uint8 (H, W, 3), lying; every 49th below `root` is held out."""

    def read(path):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        return pixels if pixels.shape[0] <= pixels.shape[1] else np.ascontiguousarray(pixels.transpose(1, 0, 2))

    def found(folder):
        return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))

    with ThreadPoolExecutor(8) as pool:
        own = list(pool.map(read, found(root)))
        further = list(pool.map(read, found(more))) if more else []
    return [p for i, p in enumerate(own) if i % 49] + further, own[::49]


def stacks(train: list[np.ndarray], device) -> list[Tensor]:
    """The pictures as (N, 3, H, W) in [0, 1] on the device, cut to one size; once more at 0.8 of it; the small ones."""
    h, w = TILE
    common = [p[:h, :w] for p in train if p.shape[0] >= h and p.shape[1] >= w]
    rest = [p for p in train if p.shape[0] < h or p.shape[1] < w]
    big = torch.from_numpy(np.stack(common)).to(device).permute(0, 3, 1, 2).float() / 255
    small = torch.cat([quantised(imresize(part, size=(h * 4 // 5, w * 4 // 5))) for part in big.split(64)])
    return [big, small, *(torch.from_numpy(p).to(device).permute(2, 0, 1)[None].float() / 255 for p in rest)]


def quantised(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255).round() / 255


def packed(x: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> (N * H * W,) int32, ten bits a channel."""
    v = (x.clamp(0, 1) * LEVELS).round().int()
    return (v[:, 0] | v[:, 1] << 10 | v[:, 2] << 20).flatten()


def unpacked(v: Tensor) -> Tensor:
    """(...,) int32 -> (..., 3) in [0, 1]."""
    return torch.stack([v & 1023, (v >> 10) & 1023, (v >> 20) & 1023], dim=-1).float() / LEVELS
