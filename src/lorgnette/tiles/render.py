"""What the image rooms share in enhancing a picture: tiles, precision, and the cache for frames."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lorgnette.common.identity import identity
from lorgnette.images.resize import imresize
from lorgnette.tiles.cache import TILINGS, ExactReuse, TileCache
from lorgnette.tiles.near import NearReuse
from lorgnette.tiles.plan import Render, Tile, Tiling, process_in_tiles

LEAST_TILE = 16


def check_rendering(precision: str, tile: int | None, halo: int | None, usual: Tiling) -> None:
    """Refuse what no room can do, in one line."""
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision: {precision!r} is not known; 'fp32' and 'bf16' are")
    if tile is not None and tile < LEAST_TILE:
        raise ValueError(f"tile: {tile} is too small; {LEAST_TILE} or more works, {usual.tile} is usual")
    if halo is not None and halo < 0:
        raise ValueError(f"halo: {halo} is negative; {usual.halo} is usual")


def chosen_tiling(tile: int | None, halo: int | None, usual: Tiling, cache: TileCache | None) -> Tiling:
    """The room's tiling, or that of the cache, with what the caller has asked for."""
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
    """Render a picture, or a frame of a stream, tile by tile.

    Args:
        model: what `render` runs, in eval mode; the cache has to know which one it is.
        image: (B, C, H, W).
        render: see `lorgnette.tiles.plan.process_in_tiles`.
        out_size: (H', W').
        tiling: into tiles.
        largest: side of a tile that the room can do: near tiles are joined up to it.
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
def evaluating(task: nn.Module) -> Iterator[None]:
    """Within this context the task is in eval mode."""
    if not task.training:
        yield
        return
    task.eval()
    try:
        yield
    finally:
        task.train()
