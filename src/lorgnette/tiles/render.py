"""A picture through a network, tile by tile: precision, alpha, grey, and the cache for frames."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lorgnette.common.identity import identity
from lorgnette.images.file import Image, imresize
from lorgnette.images.patches import channels_first
from lorgnette.tiles.cache import TILINGS, ExactReuse, TileCache
from lorgnette.tiles.near import NearReuse
from lorgnette.tiles.plan import Render, Tile, Tiling, process_in_tiles

LEAST_TILE = 16


def enhance_image(
    model: nn.Module,
    image: Image,
    render: Render,
    out_size: tuple[int, int],
    *,
    usual: Tiling,
    corrected: bool,
    channels: int = 3,
    tile: int | None = None,
    precision: str = "fp32",
    progress: Callable[[list[Tile]], Iterable[Tile]] = iter,
    halo: int | None = None,
    cache: TileCache | None = None,
    stream: Hashable = "",
) -> Image:
    """A picture, or a frame of a stream, through a network, tile by tile, in eval mode.

    Args:
        model: what `render` runs, on any device.
        image: the picture.
        render: `render(crop, tile)` is called with `crop` (B, channels, h, w) in [0, 1] on the model's device, under
            autocast where `precision` asks for it; returns the pixels of `tile.target`, which are clamped to [0, 1].
        out_size: (H', W') of the result.
        usual: the tiling where the caller says nothing; its `tile` is also the largest that near tiles are joined to.
        corrected: see `lorgnette.tiles.near.NearReuse`.
        channels: that the network takes: 3, or 1 for each colour by itself.
        tile: side of the tiles in input pixels.
        precision: 'fp32' or 'bf16'.
        progress: wraps the list of tiles.
        halo: input pixels that a tile sees beyond its own.
        cache: reuses tiles of earlier frames of the stream.
        stream: to which the frame belongs.

    Returns:
        The picture with new pixels and alpha; everything else as it was.

    Raises:
        ValueError: tile, halo or precision does not work.
    """
    check_rendering(precision, tile, halo, usual)
    device = next(model.parameters()).device
    pixels = channels_first(np.ascontiguousarray(image.pixels))[None]
    if channels == 1:  # (3, 1, H, W); of a grey picture all three are the same
        pixels = pixels[:, :1] if image.grey else pixels.transpose(0, 1)

    def rendered(crop: Tensor, part: Tile) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            out = render(crop.to(device), part)
        return out.float().clamp(0, 1).cpu()

    with evaluating(model):
        result = render_picture(
            model,
            pixels,
            rendered,
            out_size,
            tiling=chosen_tiling(tile, halo, usual, cache),
            largest=usual.tile,
            progress=progress,
            cache=cache,
            stream=stream,
            settings=precision,
            corrected=corrected,
        )
    planes = result.flatten(0, 1)
    planes = planes if len(planes) == 3 else planes.repeat(3, 1, 1)
    return replace(image, pixels=planes.permute(1, 2, 0).numpy(), alpha=alpha_at(image.alpha, out_size))


def check_rendering(precision: str, tile: int | None, halo: int | None, usual: Tiling) -> None:
    """Refuse what does not work with any network, in one line."""
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision: {precision!r} is not known; 'fp32' and 'bf16' are")
    if tile is not None and tile < LEAST_TILE:
        raise ValueError(f"tile: {tile} is too small; {LEAST_TILE} or more works, {usual.tile} is usual")
    if halo is not None and halo < 0:
        raise ValueError(f"halo: {halo} is negative; {usual.halo} is usual")


def chosen_tiling(tile: int | None, halo: int | None, usual: Tiling, cache: TileCache | None) -> Tiling:
    """The network's usual tiling, or that of the cache, with what the caller has asked for."""
    default = usual if cache is None else TILINGS[cache.mode]
    blend = default.blend if halo is None else min(usual.blend, halo // 2)
    return Tiling(default.tile if tile is None else tile, default.halo if halo is None else halo, blend)


def render_picture(
    model: nn.Module,
    image: Tensor,
    render: Render,
    out_size: tuple[int, int],
    *,
    tiling: Tiling,
    largest: int,
    progress: Callable[[list[Tile]], Iterable[Tile]] = iter,
    cache: TileCache | None = None,
    stream: Hashable = "",
    settings: Hashable = (),
    corrected: bool = False,
) -> Tensor:
    """The same with tensors: no device, precision or mode is chosen here.

    Args:
        model: what `render` runs, in eval mode; the cache has to know which one it is.
        image: (B, C, H, W).
        render: see `lorgnette.tiles.plan.process_in_tiles`.
        out_size: (H', W').
        tiling: into tiles.
        largest: side up to which near tiles are joined.
        progress: wraps the list of tiles.
        cache: reuses tiles of earlier frames of the stream.
        stream: to which the frame belongs.
        settings: what else the result depends on, such as the precision.
        corrected: see `lorgnette.tiles.near.NearReuse`.

    Returns:
        (B, C', H', W').
    """
    if cache is None:
        return process_in_tiles(image, render, out_size, *tiling, progress=progress)
    owner = (stream, identity(model), settings)
    if cache.mode == "near":
        return NearReuse(cache, render, owner, corrected).frame(image, out_size, tiling, largest, stream, progress)
    exact = ExactReuse(cache, render, owner)
    result = process_in_tiles(image, exact, out_size, *tiling, progress=progress)
    exact.count(stream)
    return result


def alpha_at(alpha: NDArray[np.float32] | None, size: tuple[int, int]) -> NDArray[np.float32] | None:
    """An alpha plane (H, W) in [0, 1] at another size, by bicubic; at its own size it stays as it is."""
    if alpha is None or alpha.shape == size:
        return alpha
    plane = imresize(torch.from_numpy(np.ascontiguousarray(alpha))[None], size=size)
    return plane[0].clamp(0, 1).numpy()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this context the model is in eval mode."""
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()
