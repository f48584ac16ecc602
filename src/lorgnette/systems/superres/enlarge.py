"""Enlarge a picture of any size: grey, alpha, colour profile and bit depth kept, tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from lorgnette.images import Image, imresize
from lorgnette.systems.superres.model import LMLTE, TRAINED_SCALE
from lorgnette.systems.superres.task import SuperResolution
from lorgnette.tiling import Tile, process_in_tiles

MAX_SCALE = 32.0
DEFAULT_SCALE = 2.0


def output_size(
    size: tuple[int, int],
    scale: float | tuple[float, float] | None = None,
    wanted: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """(H, W) of the enlarged image from a factor (or one for each axis: y, x) or a wanted size.

    Raises:
        ValueError: neither or both given, or a factor outside [1, 32], in one line.
    """
    if (scale is None) == (wanted is None):
        raise ValueError("give either scale or size")
    if scale is not None:
        factors = (scale, scale) if isinstance(scale, int | float) else scale
        for factor in factors:
            if not (math.isfinite(factor) and 1 <= factor <= MAX_SCALE):
                raise ValueError(f"scale: {factor:g} does not work; a number from 1 to {MAX_SCALE:g} does, such as 3.3")
        return round(size[0] * factors[0]), round(size[1] * factors[1])
    assert wanted is not None
    for out, n in zip(wanted, size, strict=True):
        if not n <= out <= n * MAX_SCALE:
            raise ValueError(
                f"size: {wanted[1]}x{wanted[0]} is not 1 to {MAX_SCALE:g} times the image's {size[1]}x{size[0]} "
                "(width x height)"
            )
    return wanted


def enhance(
    task: SuperResolution,
    image: Image,
    scale: float | tuple[float, float] | None = None,
    size: tuple[int, int] | None = None,
    tile: int = 320,
    precision: str = "fp32",
    progress: Callable[[list[Tile]], Iterable[Tile]] = iter,
) -> Image:
    """Enlarge one picture.

    Tiles overlap by the network's receptive field, so their seams do not show: tiled and untiled differ by rounding.
    An alpha plane is enlarged by bicubic.

    Args:
        task: from `lorgnette.load` or `lorgnette.build`, on any device.
        image: from `lorgnette.images.read_image`.
        scale: factor, or (y, x); any real number from 1 to 32. With neither it nor `size`: 2.
        size: (H, W) instead of `scale`.
        tile: side of the tiles in input pixels; smaller needs less memory.
        precision: 'fp32' or 'bf16'.
        progress: wraps the list of tiles, such as `tqdm.tqdm`.

    Returns:
        The picture with new pixels and alpha; everything else as it was.

    Raises:
        ValueError: scale, size, tile or precision does not work.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision: {precision!r} is not known; 'fp32' and 'bf16' are")
    if tile < 16:
        raise ValueError(f"tile: {tile} is too small; 16 or more works, 320 is usual")
    model = cast(LMLTE, task.model)
    device = next(model.parameters()).device
    scale = DEFAULT_SCALE if scale is None and size is None else scale
    out_size = output_size(image.pixels.shape[:2], scale, size)
    was_training = task.training
    task.eval()

    def render(crop: Tensor, part: Tile) -> Tensor:
        inp = (crop.to(device) * 2 - 1).contiguous(memory_format=torch.channels_last)
        y, x = (torch.from_numpy(axis.coordinates()).float().to(device) for axis in (part.y, part.x))
        cells = [axis.cell * max(axis.n_out / axis.n_in / TRAINED_SCALE, 1.0) for axis in (part.y, part.x)]
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            out = model.render_window(inp, y, x, torch.tensor(cells, dtype=torch.float32, device=device))
        return (out * 0.5 + 0.5).clamp(0, 1).cpu()

    try:
        pixels = process_in_tiles(
            torch.from_numpy(image.pixels).permute(2, 0, 1)[None],
            render,
            out_size,
            tile=tile,
            halo=model.receptive_radius,
            progress=progress,
        )
    finally:
        task.train(was_training)
    alpha = None
    if image.alpha is not None:
        plane = imresize(torch.from_numpy(np.ascontiguousarray(image.alpha))[None], size=out_size)
        alpha = plane[0].clamp(0, 1).numpy()
    return replace(image, pixels=pixels[0].permute(1, 2, 0).numpy(), alpha=alpha)
