"""Tiles that are near enough to earlier ones are reused: the near mode of `lorgnette.tile_cache.TileCache`.

A tile is compared with its anchors, the inputs that its kept outputs were computed from; never with the frame before,
so that small changes do not add up unseen. It is near if no block of 8 x 8 pixels differs by more than the
tolerance, nor has turned into another pattern. Means over larger cells are compared first: they cannot differ by more
than the blocks in them, so that most of what has changed is found out by a glance.

What is not near is computed: neighbours together, so that they share their margins; or the whole frame, where that
costs no more. Both give new anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.tile_cache import TileCache, as_grid, compact
from lorgnette.tiling import Render, Tile, Tiling, covering, joined, plan_tiles, process_in_tiles

BLOCK = 8
CELLS = (32, BLOCK)
LEVEL = 1 / 255
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
        outputs = [self._reused(image[..., *part.source], part) for part in tiles]
        reused = as_grid({part: output is not None for part, output in zip(tiles, outputs, strict=True)})
        numbers = np.arange(len(tiles)).reshape(reused.shape)
        groups = [
            numbers[area] for area in covering(~reused, tiles, usual.tile + 2 * (tiling.halo + tiling.blend))
        ]  # each a rectangle of tiles
        regions = [joined(tiles[group[0, 0]], tiles[group[-1, -1]]) for group in groups]
        if _pixels(regions) > WHOLE * _pixels(plan_tiles((image.shape[-2], image.shape[-1]), out_size, *usual)):
            result = process_in_tiles(image, self.render, out_size, *usual, progress=progress)
            for part in tiles:
                self._keep(image[..., *part.source], result[..., *part.target], part)
            self.cache.count(stream, np.zeros_like(reused), whole=True)
            return result
        members = dict(zip(regions, groups, strict=True))
        for region in progress(regions):
            with torch.no_grad():
                rendered = self.render(image[..., *region.source], region)
            for number in members[region].flat:
                part = tiles[number]
                outputs[number] = self._keep(image[..., *part.source], rendered[..., *part.within(region)], part)
            reused.flat[members[region]] = False
        self.cache.count(stream, reused)
        there = dict(zip(tiles, outputs, strict=True))
        return process_in_tiles(image, lambda _, part: cast(Tensor, there[part]), out_size, *tiling)

    def _place(self, crop: Tensor, part: Tile) -> Hashable:
        return self.owner, "near", part, tuple(crop.shape), crop.dtype

    def _reused(self, crop: Tensor, part: Tile) -> Tensor | None:
        anchors: tuple[Anchor, ...] = self.cache.get(self._place(crop, part)) or ()
        means: list[Tensor] = []
        for anchor in anchors:
            if anchor.uses < self.cache.refresh and self._near(crop, anchor, means):
                anchor.uses += 1
                if not self.corrected or torch.equal(crop, anchor.input):
                    return anchor.output
                return (anchor.output + enlarged(crop - anchor.input, part)).clamp(0, 1)
        return None

    def _near(self, crop: Tensor, anchor: Anchor, means: list[Tensor]) -> bool:
        """Whether a crop is near an anchor; `means` is its `pyramid`, or empty: then it is filled, level by level."""
        limit = 10 ** (-self.cache.tolerance / 10)
        for level, cell in enumerate(CELLS):
            if level == len(means):
                means.append(F.avg_pool2d(crop, cell, ceil_mode=True, count_include_pad=False))
            if (means[level] - anchor.means[level]).square_().mean(1).max() > limit:
                return False
        squared = (crop - anchor.input).square_().mean(1, keepdim=True)
        if F.avg_pool2d(squared, BLOCK, ceil_mode=True, count_include_pad=False).max() > limit:
            return False
        return self.cache.cosine <= -1 or least_cosine(crop, anchor.input) >= self.cache.cosine

    def _keep(self, crop: Tensor, output: Tensor, part: Tile) -> Tensor:
        place = self._place(crop, part)
        crop = crop.clone(memory_format=torch.contiguous_format)
        new = Anchor(crop, compact(output), pyramid(crop))
        old: tuple[Anchor, ...] = self.cache.get(place) or ()
        others = [anchor for anchor in old if anchor.uses < self.cache.refresh and not self._near(crop, anchor, [])]
        anchors = (new, *others[: ANCHORS - 1])
        self.cache.put(place, anchors, sum(_bytes(anchor) for anchor in anchors))
        return output


def pyramid(x: Tensor) -> list[Tensor]:
    """Means over cells of 32 x 32 and 8 x 8 pixels: (B, C, h, w) -> [(B, C, h / 32, w / 32), ...], rounded up."""
    return [F.avg_pool2d(x, cell, ceil_mode=True, count_include_pad=False) for cell in CELLS]


def least_cosine(x: Tensor, y: Tensor) -> float:
    """Of the 8 x 8 blocks of two crops (B, C, h, w), their means taken off; patterns below one level count little."""

    def pattern(image: Tensor) -> Tensor:
        means = F.avg_pool2d(image, BLOCK, ceil_mode=True, count_include_pad=False)
        h, w = image.shape[-2:]
        return image - means.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)[..., :h, :w]

    def together(a: Tensor, b: Tensor) -> Tensor:
        return F.avg_pool2d((a * b).mean(1, keepdim=True), BLOCK, ceil_mode=True, count_include_pad=False)

    x, y = pattern(x), pattern(y)
    lengths = (together(x, x) * together(y, y)).sqrt()
    return float(((together(x, y) + LEVEL**2) / (lengths + LEVEL**2)).min())


def enlarged(x: Tensor, part: Tile) -> Tensor:
    """A crop (B, C, h, w) at the target's pixels of its tile, by bicubic: (B, C, *part.size)."""
    y, x_axis = (torch.from_numpy(axis.coordinates()).to(x) for axis in (part.y, part.x))
    points = torch.stack(torch.meshgrid(y, x_axis, indexing="ij")[::-1], dim=-1).expand(len(x), -1, -1, 2)
    return F.grid_sample(x, points, mode="bicubic", padding_mode="border", align_corners=False)


def _pixels(tiles: list[Tile]) -> int:
    return sum((t.y.source[1] - t.y.source[0]) * (t.x.source[1] - t.x.source[0]) for t in tiles)


def _bytes(anchor: Anchor) -> int:
    return anchor.input.nbytes + anchor.output.nbytes + sum(level.nbytes for level in anchor.means)
