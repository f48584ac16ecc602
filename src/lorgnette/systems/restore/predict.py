"""Restore a picture of any size: grey, alpha, colour profile and bit depth kept, tile by tile."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterable
from typing import cast

import numpy as np
from torch import Tensor

from lorgnette.images.file import Image
from lorgnette.systems.restore.model import MambaIR
from lorgnette.systems.restore.task import Restoration
from lorgnette.tiles.cache import TileCache
from lorgnette.tiles.plan import Tile, Tiling
from lorgnette.tiles.render import Rendering, between, check_strength, resized

USUAL = Tiling(tile=256, halo=32, blend=16)
"""The scan sees the whole image, but pixels further away than this halo hardly count."""


def enhance(
    task: Restoration,
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
) -> Image:
    """Restore one picture, or a frame of a stream.

    Tiles overlap and are blended. The network's scan crosses the whole image, so tiled and untiled results differ; the
    larger the tile, the less. A network for grey images restores each colour by itself. An alpha plane is kept, or
    enlarged by bicubic.

    Args:
        task: from `lorgnette.load` or `lorgnette.build`, on any device.
        image: from `lorgnette.images.file.read_image`.
        scale: None for the network's own factor; what is less, down to 0.01, is made of its result by bicubic.
        size: (H, W) instead of `scale`, within what the network's factor gives.
        tile: side of the tiles in input pixels; smaller needs less memory. Unset: 256, or 48 with a cache, 32 in its
            near mode.
        precision: 'fp32' or 'bf16'.
        progress: wraps the list of tiles, such as `tqdm.tqdm`.
        halo: input pixels that a tile sees beyond its own. Unset: 32, or 5 with a cache.
        cache: keeps tiles of earlier frames of the stream, so that what has not changed is not computed again.
        stream: name of the clip or camera that the frame belongs to. Without `cache` it is the key of the network's
            feature cache, where a share of that is learnt (`Restoration.remembers`): then frames are given in order.
        strength: how much of the network's change is made, from 0 (none: the picture itself, or bicubic) to 1.5.

    Returns:
        The picture with new pixels, alpha and resolution (it prints as large); everything else as it was.

    Raises:
        ValueError: scale, size, tile, halo, precision or strength does not work, or the image holds values that are
            no numbers.
    """
    if not np.isfinite(image.pixels).all():
        raise ValueError("image: holds values that are not finite (NaN or infinity)")
    check_strength(strength)
    model = cast(MambaIR, task.model)
    in_size = (image.pixels.shape[0], image.pixels.shape[1])
    own = (in_size[0] * model.upscale, in_size[1] * model.upscale)
    out_size = _output_size(in_size, model.upscale, scale, size)

    keyed = stream != "" and cache is None and task.remembers
    pieces: list[Tile] = []

    def counted(tiles: list[Tile]) -> Iterable[Tile]:
        pieces.extend(tiles)
        if keyed:
            model.hold(len(pieces))
        return progress(tiles)

    def render(crop: Tensor, part: Tile) -> Tensor:
        return part.cut(model(crop, (stream, part) if keyed else None))

    how = Rendering(tile, precision, counted, halo, cache, stream)
    restored = how.image(model, image, render, own, USUAL, corrected=model.upscale > 1, channels=model.in_chans)
    if keyed and not model.hold(len(pieces)):
        warnings.warn(
            f"model.max_bytes: the feature maps of a frame of {len(pieces)} tiles do not fit, so that the feature cache"
            " finds nothing of the frame before",
            stacklevel=2,
        )
    if strength != 1:
        restored = between(resized(image, own), restored, strength)
    return restored if out_size == own else resized(restored, out_size)


def plain(image: Image, scale: float | tuple[float, float] | None = None, size: tuple[int, int] | None = None) -> Image:
    """The picture as it is, or made smaller by bicubic, as `enhance` would."""
    return resized(image, _output_size(image.pixels.shape[:2], 1, scale, size))


def _output_size(
    size: tuple[int, ...],
    factor: int,
    scale: float | tuple[float, float] | None,
    wanted: tuple[int, int] | None,
) -> tuple[int, int]:
    own = (size[0] * factor, size[1] * factor)
    if scale is not None:
        scales = (scale, scale) if isinstance(scale, int | float) else scale
        if not all(math.isfinite(s) and 0.01 <= s <= factor for s in scales):
            gives = "keeps the size" if factor == 1 else f"gives {factor} times the size"
            raise ValueError(f"scale: {scale} does not work; this network {gives}, and less by bicubic after it")
        scaled = max(1, round(size[0] * scales[0])), max(1, round(size[1] * scales[1]))
        if wanted not in (None, scaled):
            raise ValueError("give either scale or size")
        wanted = scaled
    if wanted is not None and not all(1 <= out <= most for out, most in zip(wanted, own, strict=True)):
        raise ValueError(
            f"size: {wanted[1]}x{wanted[0]} does not work; this network makes {own[1]}x{own[0]} of this image, "
            "and less by bicubic after it"
        )
    return wanted or own
