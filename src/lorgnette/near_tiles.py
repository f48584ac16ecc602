"""Tiles that are near enough to earlier ones are reused: the near mode of `lorgnette.tile_cache.TileCache`.

A tile is compared with its anchors, the inputs that its kept outputs were computed from; never with the frame before,
so that small changes do not add up unseen. It is near if no block of 8 x 8 pixels differs by more than the
tolerance. The same is asked of means over larger cells first: they cannot differ by more than the blocks in them, so
that most of what has changed is found out by a glance.

What is not near is computed: neighbours together, so that they share their margins; or the whole frame, where that
costs no more. Both give new anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.tile_cache import TileCache, as_grid, compact
from lorgnette.tiling import Render, Tile, Tiling, covering, joined, plan_tiles, process_in_tiles

BLOCK = 8
CELLS = (32, BLOCK)
ANCHORS = 2
"""Kept for each tile: what blinks, and cuts to and fro, is found again."""
WHOLE = 0.9
"""Share of a whole frame's pixels, margins included, from which it is computed as a whole: that gives all tiles new
anchors."""


@dataclass
class Anchor:
    """An input, the output that was computed from it, and how often that was used since."""

    input: Tensor
    output: Tensor
    means: list[Tensor]
    uses: int = 0


class NearReuse:
    """Renders frames of a stream from near tiles and what has to be computed.

    Args:
        cache: where tiles are kept; its `tolerance` and `refresh` hold.
        render: what computes a tile.
        owner: stream, model and whatever else the result depends on.
        corrected: add the difference of the inputs, enlarged, to a reused output: for enlarging. What takes noise
            off must not: it would put it back.
    """

    def __init__(self, cache: TileCache, render: Render, owner: Hashable, corrected: bool) -> None:
        self.cache, self.render, self.owner, self.corrected = cache, render, owner, corrected
        self.limit = 10 ** (-cache.tolerance / 10)

    def frame(
        self,
        image: Tensor,
        out_size: tuple[int, int],
        tiling: Tiling,
        usual: Tiling,
        stream: Hashable,
        progress: Callable[[list[Tile]], Iterable[Tile]],
    ) -> Tensor:
        """(B, C, H, W) -> (B, C', *out_size).

        Args:
            image: the frame.
            out_size: (H', W').
            tiling: into tiles that are reused.
            usual: how a frame is cut that is computed as a whole, and how large a joined region may be.
            stream: whose statistics count it.
            progress: wraps the list of what is computed.
        """
        tiles = plan_tiles((image.shape[-2], image.shape[-1]), out_size, *tiling)
        outputs = {part: self._reused(image[..., *part.source], part) for part in tiles}
        reused = as_grid({part: output is not None for part, output in outputs.items()})
        regions = covering(~reused, tiles, usual.tile + 2 * (tiling.halo + tiling.blend))
        wide = [joined(tiles[r.start * reused.shape[1] + c.start], tiles[(r.stop - 1) * reused.shape[1] + c.stop - 1])
                for r, c in regions]  # fmt: skip
        whole = plan_tiles((image.shape[-2], image.shape[-1]), out_size, *usual)
        if _pixels(wide) > WHOLE * _pixels(whole):
            result = process_in_tiles(image, self.render, out_size, *usual, progress=progress)
            for part in tiles:
                self._keep(image[..., *part.source], result[..., *part.target], part)
            self.cache.count(stream, np.zeros_like(reused), whole=True)
            return result
        grid = np.array(range(len(tiles))).reshape(reused.shape)
        numbers = {region: grid[rows, columns].ravel() for region, (rows, columns) in zip(wide, regions, strict=True)}
        for region in progress(wide):
            with torch.no_grad():
                rendered = self.render(image[..., *region.source], region)
            for part in (tiles[number] for number in numbers[region]):
                rows, columns = (
                    slice(own.target[0] - all_.target[0], own.target[1] - all_.target[0])
                    for own, all_ in ((part.y, region.y), (part.x, region.x))
                )
                outputs[part] = self._keep(image[..., *part.source], rendered[..., rows, columns], part)
                reused.flat[tiles.index(part)] = False
        self.cache.count(stream, reused)
        return process_in_tiles(image, lambda _, part: _there(outputs[part]), out_size, *tiling)

    def _place(self, crop: Tensor, part: Tile) -> Hashable:
        return self.owner, "near", part, tuple(crop.shape), crop.dtype

    def _reused(self, crop: Tensor, part: Tile) -> Tensor | None:
        anchors: tuple[Anchor, ...] = self.cache.get(self._place(crop, part)) or ()
        means: list[Tensor] = []
        for anchor in anchors:
            if anchor.uses < self.cache.refresh and near(crop, anchor, means, self.limit):
                anchor.uses += 1
                if not self.corrected or torch.equal(crop, anchor.input):
                    return anchor.output
                return (anchor.output + enlarged(crop - anchor.input, part)).clamp(0, 1)
        return None

    def _keep(self, crop: Tensor, output: Tensor, part: Tile) -> Tensor:
        place = self._place(crop, part)
        crop = crop.clone(memory_format=torch.contiguous_format)
        new = Anchor(crop, compact(output), pyramid(crop))
        old: tuple[Anchor, ...] = self.cache.get(place) or ()
        others = [
            anchor for anchor in old if anchor.uses < self.cache.refresh and not near(crop, anchor, [], self.limit)
        ]
        anchors = (new, *others[: ANCHORS - 1])
        self.cache.put(place, anchors, sum(_bytes(anchor) for anchor in anchors))
        return output


def pyramid(x: Tensor) -> list[Tensor]:
    """Means over cells of 32 x 32 and 8 x 8 pixels: (B, C, h, w) -> [(B, C, h / 32, w / 32), ...], rounded up."""
    return [F.avg_pool2d(x, cell, ceil_mode=True, count_include_pad=False) for cell in CELLS]


def near(crop: Tensor, anchor: Anchor, means: list[Tensor], limit: float) -> bool:
    """Whether no block of 8 x 8 pixels of a crop has a mean squared error above `limit` to the anchor.

    `means` is the crop's `pyramid`, or empty: then it is filled, level by level.
    """
    for level, cell in enumerate(CELLS):
        if level == len(means):
            means.append(F.avg_pool2d(crop, cell, ceil_mode=True, count_include_pad=False))
        if (means[level] - anchor.means[level]).square_().mean(1).max() > limit:
            return False
    squared = (crop - anchor.input).square_().mean(1, keepdim=True)
    return bool(F.avg_pool2d(squared, BLOCK, ceil_mode=True, count_include_pad=False).max() <= limit)


def enlarged(x: Tensor, part: Tile) -> Tensor:
    """A crop (B, C, h, w) at the target's pixels of its tile, by bicubic: (B, C, *part.size)."""
    y, x_axis = (torch.from_numpy(axis.coordinates()).to(x) for axis in (part.y, part.x))
    points = torch.stack(torch.meshgrid(y, x_axis, indexing="ij")[::-1], dim=-1).expand(len(x), -1, -1, 2)
    return F.grid_sample(x, points, mode="bicubic", padding_mode="border", align_corners=False)


def _pixels(tiles: list[Tile]) -> int:
    return sum((t.y.source[1] - t.y.source[0]) * (t.x.source[1] - t.x.source[0]) for t in tiles)


def _bytes(anchor: Anchor) -> int:
    return anchor.input.nbytes + anchor.output.nbytes + sum(level.nbytes for level in anchor.means)


def _there(output: Any) -> Tensor:
    assert output is not None
    return output
