"""Enlarge a picture of any size: grey, alpha, colour profile and bit depth kept, tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from typing import cast

import torch
from torch import Tensor

from lorgnette.images.file import Image
from lorgnette.lora.strength import at_strength
from lorgnette.systems.superres.decoders.continuous import (
    TRAINED_SCALE,
    ContinuousImage,
    from_network,
    to_network,
)
from lorgnette.systems.superres.levels import Levels
from lorgnette.systems.superres.recipe import ABOUT
from lorgnette.systems.superres.task import SuperResolution
from lorgnette.tiles.cache import TileCache
from lorgnette.tiles.plan import Tile, Tiling
from lorgnette.tiles.render import Rendering, check_strength, resized

MIN_SCALE, MAX_SCALE = 0.01, 32.0
TILE, BLEND = 320, 8  # usual, in input pixels


def output_size(
    size: tuple[int, int],
    scale: float | tuple[float, float] | None = None,
    wanted: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """(H, W) of the new image from a factor (or one for each axis: y, x) or a wanted size.

    Raises:
        ValueError: neither or both given, or a factor outside [0.01, 32], in one line.
    """
    if (scale is None) == (wanted is None):
        raise ValueError("give either scale or size")
    if scale is not None:
        factors = (scale, scale) if isinstance(scale, int | float) else scale
        for factor in factors:
            if not (math.isfinite(factor) and MIN_SCALE <= factor <= MAX_SCALE):
                works = f"a number from {MIN_SCALE:g} to {MAX_SCALE:g}"
                raise ValueError(f"scale: {factor:g} does not work; {works} does, such as 3.3")
        return max(1, round(size[0] * factors[0])), max(1, round(size[1] * factors[1]))
    assert wanted is not None
    for out, n in zip(wanted, size, strict=True):
        if not 1 <= out <= n * MAX_SCALE:
            raise ValueError(
                f"size: {wanted[1]}x{wanted[0]} is more than {MAX_SCALE:g} times the image's {size[1]}x{size[0]}, or "
                "nothing (width x height)"
            )
    return wanted


def enhance(
    task: SuperResolution,
    image: Image,
    scale: float | tuple[float, float] | None = None,
    size: tuple[int, int] | None = None,
    tile: int | None = None,
    precision: str = "fp32",
    progress: Callable[[list[Tile]], Iterable[Tile]] = iter,
    halo: int | None = None,
    cache: TileCache | None = None,
    stream: Hashable = "",
    strength: float = 1.0,
    cmsr: Levels | None = None,
) -> Image:
    """Enlarge one picture, or a frame of a stream.

    Tiles overlap by the network's receptive field, so there are no seams: tiled and untiled differ by rounding alone.
    (Attention across scales, of LM-CiaoSR, looks at blocks within a tile, and the blend hides where they end.)
    An alpha plane is enlarged by bicubic. What becomes smaller is made so by bicubic with antialiasing: a network has
    nothing to add there.

    Args:
        task: from `lorgnette.load` or `lorgnette.build`, on any device.
        image: from `lorgnette.images.file.read_image`.
        scale: factor, or (y, x); any real number from 0.01 to 32. With neither it nor `size`: 2.
        size: (H, W) instead of `scale`.
        tile: side of the tiles in input pixels; smaller needs less memory. Unset: 320, or 48 with a cache, 32 in its
            near mode.
        precision: 'fp32' or 'bf16'.
        progress: wraps the list of tiles, such as `tqdm.tqdm`.
        halo: input pixels that a tile sees beyond its own. Unset: the receptive field's radius, or 5 with a cache.
        cache: keeps tiles of earlier frames of the stream, so that what has not changed is not computed again.
        stream: name of the clip or camera that the frame belongs to.
        strength: of the adapter, from 0 (the base alone) to 1.5.
        cmsr: renders smooth parts at lower scales, by tables that `lorgnette.systems.superres.cmsr` makes. It counts
            what that saves, and says where no table fits: there it renders exactly. Not with a cache.

    Returns:
        The picture with new pixels, alpha and resolution (it prints as large); everything else as it was.

    Raises:
        ValueError: scale, size, tile, halo, precision or strength does not work, or there is not the memory for the
            result.
    """
    if cmsr is not None and cache is not None:
        raise ValueError("cmsr: does not go with a cache of tiles; leave one of them out")
    how = Rendering(tile, precision, progress, halo, cache, stream)
    model = cast(ContinuousImage, task.model)
    check_strength(strength)
    in_size = (image.pixels.shape[0], image.pixels.shape[1])
    out_size = output_size(in_size, factor_of(scale, size), size)
    rendered = (max(in_size[0], out_size[0]), max(in_size[1], out_size[1]))
    if rendered == in_size != out_size:
        return resized(image, out_size)

    def render(crop: Tensor, part: Tile) -> Tensor:
        inp = to_network(crop).contiguous(memory_format=torch.channels_last)
        return from_network(window(inp, *points_of(part, crop.device)))

    usual = Tiling(tile=TILE, halo=model.receptive_radius, blend=BLEND, align=model.encoder.window)
    with at_strength(model, strength):
        scales = rendered[0] / in_size[0], rendered[1] / in_size[1]
        window = model.render_window if cmsr is None else cmsr.renderer(model, scales)
        enlarged = how.image(model, image, render, rendered, usual, corrected=True)
    return enlarged if rendered == out_size else resized(enlarged, out_size)


def points_of(part: Tile, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates of a tile's rows (H,) and columns (W,) in its crop, and the cell (2,)."""
    y, x = (torch.from_numpy(axis.coordinates()).float().to(device) for axis in (part.y, part.x))
    cells = [axis.cell_no_finer(TRAINED_SCALE) for axis in (part.y, part.x)]
    return y, x, torch.tensor(cells, dtype=torch.float32, device=device)


def plain(image: Image, scale: float | tuple[float, float] | None = None, size: tuple[int, int] | None = None) -> Image:
    """The picture enlarged by bicubic, to the size that `enhance` would give it."""
    return resized(image, output_size(image.pixels.shape[:2], factor_of(scale, size), size))


def factor_of(
    scale: float | tuple[float, float] | None, size: tuple[int, int] | None
) -> float | tuple[float, float] | None:
    """The factor that is meant: without it and a size, the usual one."""
    return ABOUT.usual_scale if scale is None and size is None else scale
