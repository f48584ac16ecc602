"""A picture through a network, tile by tile: precision, alpha, grey, and the cache for frames."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lorgnette.common.identity import identity
from lorgnette.common.modules import evaluating
from lorgnette.images.file import Image
from lorgnette.images.limits import check_memory
from lorgnette.images.patches import channels_first
from lorgnette.images.pixels import seen_colours
from lorgnette.tiles.cache import TILINGS, ExactReuse, TileCache
from lorgnette.tiles.memory import within_memory
from lorgnette.tiles.near import NearReuse
from lorgnette.tiles.pictures import (
    alpha_at,
    between as between,
    check_strength as check_strength,
    of_size,
    resized as resized,
)
from lorgnette.tiles.plan import Render, Tile, Tiling, check_tile, process_in_tiles


@dataclass(frozen=True)
class Rendering:
    """How a picture is rendered: what the callers of `enhance` choose, in every image room. See there.

    Raises:
        ValueError: the precision is not known.
    """

    tile: int | None = None
    precision: str = "fp32"
    progress: Callable[[list[Tile]], Iterable[Tile]] = iter
    halo: int | None = None
    cache: TileCache | None = None
    stream: Hashable = ""

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision: {self.precision!r} is not known; 'fp32' and 'bf16' are")

    def image(
        self,
        model: nn.Module,
        image: Image,
        render: Render,
        out_size: tuple[int, int],
        usual: Tiling,
        corrected: bool,
        channels: int = 3,
    ) -> Image:
        """The picture with new pixels, alpha and resolution; everything else as it was.

        Colours under full transparency do not come into it: the network sees those of the nearest pixels that are seen.

        Where memory does not suffice, tiles become smaller, for this picture and those after it.

        Args:
            model: what `render` runs, on any device; it is in eval mode meanwhile.
            image: a picture, or a frame of the stream.
            render: `render(crop, tile)` is called with `crop` (B, channels, h, w) in [0, 1] on the model's device,
                under autocast as the precision says; returns the pixels of `tile.target`, which are clamped to [0, 1].
            out_size: (H', W') of the result.
            usual: the tiling without a cache; with one, near tiles are joined up to its `tile`.
            corrected: see `lorgnette.tiles.near.NearReuse`.
            channels: that the network takes: 3, or 1 for each colour by itself.

        Raises:
            ValueError: tile or halo does not work, or there is not the memory for such a result.
        """
        tiling = self._tiling(usual)
        device = next(model.parameters()).device
        check_memory(out_size)
        pixels = channels_first(np.ascontiguousarray(seen_colours(image.pixels, image.alpha)))[None]
        if channels == 1:  # (3, 1, H, W); of a grey picture all three are the same
            pixels = pixels[:, :1] if image.grey else pixels.transpose(0, 1)

        def rendered(crop: Tensor, part: Tile) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                out = render(crop.to(device), part)
            return out.float().clamp(0, 1).cpu()

        def in_tiles(side: int) -> Tensor:
            smaller = tiling._replace(tile=min(tiling.tile, side))
            return self.tensor(model, pixels, rendered, out_size, smaller, min(usual.tile, side), corrected)

        largest = tiling.tile if self.cache is None else max(tiling.tile, usual.tile)
        with evaluating(model):
            result = within_memory(model, min(largest, max(pixels.shape[-2:])), in_tiles)
        planes = result.flatten(0, 1)  # three of one picture or one of each colour; of a grey picture one for all
        planes = planes if len(planes) == 3 else planes.repeat(3, 1, 1)
        return of_size(image, planes.permute(1, 2, 0).numpy(), alpha_at(image.alpha, out_size))

    def tensor(
        self,
        model: nn.Module,
        pixels: Tensor,
        render: Render,
        out_size: tuple[int, int],
        tiling: Tiling,
        largest: int,
        corrected: bool,
    ) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'), tile by tile, with the cache or without.

        Args:
            model: what `render` runs, in eval mode; the cache keeps its tiles apart from those of other models.
            pixels: as for `lorgnette.tiles.plan.process_in_tiles`; so are `render` and `out_size`.
            tiling: into tiles.
            largest: side up to which near tiles are joined.
            corrected: see `lorgnette.tiles.near.NearReuse`.
        """
        cache, stream, progress = self.cache, self.stream, self.progress
        if cache is None:
            return process_in_tiles(pixels, render, out_size, *tiling, progress=progress)
        owner = (stream, identity(model), self.precision)
        if cache.mode == "near":
            near = NearReuse(cache, render, owner, corrected)
            return near.frame(pixels, out_size, tiling, largest, stream, progress)
        exact = ExactReuse(cache, render, owner)
        result = process_in_tiles(pixels, exact, out_size, *tiling, progress=progress)
        exact.count(stream)
        return result

    def _tiling(self, usual: Tiling) -> Tiling:
        """The network's usual tiling, or that of the cache, with what the caller has asked for."""
        tile, halo = self.tile, self.halo
        check_tile(usual.tile if tile is None else tile, usual.halo if halo is None else halo)
        default = usual if self.cache is None else TILINGS[self.cache.mode]
        blend = default.blend if halo is None else min(usual.blend, halo // 2)
        tile, halo = default.tile if tile is None else tile, default.halo if halo is None else halo
        return Tiling(tile, halo, blend, usual.align)
