"""Tiles that are near enough to earlier ones are reused: the near mode of `lorgnette.tiles.cache.TileCache`.

A tile is compared with its anchors, the inputs that its kept outputs were computed from; never with the frame before,
so that small changes do not add up unseen. It is near if no block of 8 x 8 pixels differs by more than the
tolerance, nor has turned into another pattern. Means over larger cells are compared first: they cannot differ by more
than the blocks in them, so that most of what has changed is found out by a glance.

Noise differs in every frame, and there is nothing to see in that: where noise is taken off, as much difference as the
frame's noise makes is allowed for on top. It is estimated from each frame, so that moving content cannot pass for it.

What is not near is computed: neighbours together, so that they share their margins; or the whole frame, where that
costs no more. Both give new anchors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.tiles.cache import TileCache, as_grid, compact
from lorgnette.tiles.plan import Render, Tile, Tiling, covering, joined, plan_tiles, process_in_tiles

BLOCK = 8
CELLS = (32, 16, BLOCK)
LEVEL = 1 / 255
TOLERANCE = {True: 38.0, False: 50.0}
"""In dB, where the cache has none: with and without the difference of the inputs being added. Measured; see the page on
video."""
OF_MEANS, OF_BLOCKS = 3.5, 1.5
"""The largest among some dozens of blocks of pure noise, in terms of what is expected: of their squared means (three
colours), and of their mean squares."""
LOW = 0.8
"""A tenth of blocks of pure noise of some variance has less than this share of it."""
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
        corrected: whether the renderer keeps what it sees, as enlarging does: the difference of the inputs, enlarged,
            is added to a reused output. Otherwise it takes noise off: that must not be put back, and is allowed for.
    """

    def __init__(self, cache: TileCache, render: Render, owner: Hashable, corrected: bool) -> None:
        self.cache, self.render, self.owner, self.corrected = cache, render, owner, corrected
        decibels = TOLERANCE[corrected] if cache.tolerance is None else cache.tolerance
        self.tolerance, self.noise = 10 ** (-decibels / 10), 0.0
        self.unlike: dict[Tile, tuple[Anchor, ...]] = {}

    def frame(
        self,
        image: Tensor,
        out_size: tuple[int, int],
        tiling: Tiling,
        largest: int,
        stream: Hashable,
        progress: Callable[[list[Tile]], Iterable[Tile]],
    ) -> Tensor:
        """(B, C, H, W) -> (B, C', *out_size).

        Args:
            image: the frame.
            out_size: (H', W').
            tiling: into tiles that are reused.
            largest: side of the tiles, without margins, of what is computed together, up to whole frames.
            stream: whose statistics count it.
            progress: wraps the list of what is computed.
        """
        tiles = plan_tiles((image.shape[-2], image.shape[-1]), out_size, *tiling)
        self.noise = 0.0 if self.corrected else noise_power(image)
        outputs = [self._reused(image[..., *part.source], part) for part in tiles]
        reused = as_grid({part: output is not None for part, output in zip(tiles, outputs, strict=True)})
        numbers = np.arange(len(tiles)).reshape(reused.shape)
        groups = [
            numbers[area] for area in covering(~reused, tiles, largest + 2 * (tiling.halo + tiling.blend))
        ]  # each a rectangle of tiles
        regions = [joined(tiles[group[0, 0]], tiles[group[-1, -1]]) for group in groups]
        whole = tiling._replace(tile=largest)  # margins that are wide enough for tiles are for whole frames too
        if _pixels(regions) > WHOLE * _pixels(plan_tiles((image.shape[-2], image.shape[-1]), out_size, *whole)):
            result = process_in_tiles(image, self.render, out_size, *whole, progress=progress)
            for part in tiles:
                self._keep(image[..., *part.source], compact(result[..., *part.target]), part)
            self.cache.count(stream, np.zeros_like(reused), whole=True)
            return result
        members = dict(zip(regions, groups, strict=True))
        for region in progress(regions):
            with torch.no_grad():
                rendered = self.render(image[..., *region.source], region)
            for number in members[region].flat:
                part = tiles[number]
                outputs[number] = output = compact(rendered[..., *part.within(region)])
                self._keep(image[..., *part.source], output, part)
            reused.flat[members[region]] = False
        self.cache.count(stream, reused)
        there = dict(zip(tiles, outputs, strict=True))
        return process_in_tiles(image, lambda _, part: cast(Tensor, there[part]), out_size, *tiling)

    def _place(self, crop: Tensor, part: Tile) -> Hashable:
        return self.owner, "near", part, tuple(crop.shape), crop.dtype

    def _reused(self, crop: Tensor, part: Tile) -> Tensor | None:
        anchors: tuple[Anchor, ...] = self.cache.store.get(self._place(crop, part)) or ()
        means: list[Tensor] = []
        self.unlike[part] = tuple(anchor for anchor in anchors if anchor.uses < self.cache.refresh)
        for anchor in self.unlike[part]:
            if self._near(crop, anchor, means):
                self.unlike[part] = ()
                anchor.uses += 1
                if not self.corrected or torch.equal(crop, anchor.input):
                    return anchor.output
                return (anchor.output + enlarged(crop - anchor.input, part)).clamp(0, 1)
        return None

    def _near(self, crop: Tensor, anchor: Anchor, means: list[Tensor]) -> bool:
        """Whether a crop is near an anchor; `means` is its `pyramid`, or empty: then it is filled, level by level."""
        for level, cell in enumerate(CELLS):
            if level == len(means):
                means.append(cell_means(crop, cell))
            limit = self.tolerance + OF_MEANS * 2 * self.noise / cell**2
            if (means[level] - anchor.means[level]).square_().mean(1).max() > limit:
                return False
        squared = (crop - anchor.input).square_().mean(1, keepdim=True)
        worst = cell_means(squared, BLOCK).max()
        if worst > self.tolerance + OF_BLOCKS * 2 * self.noise:
            return False
        if self.noise > self.tolerance or self.cache.cosine <= -1:  # a pattern fainter than the noise tells nothing
            return True
        return least_cosine(crop, anchor.input) >= self.cache.cosine

    def _keep(self, crop: Tensor, output: Tensor, part: Tile) -> None:
        crop = crop.clone(memory_format=torch.contiguous_format)
        anchors = (Anchor(crop, output, pyramid(crop)), *self.unlike[part][: ANCHORS - 1])
        self.cache.store.put(self._place(crop, part), anchors, sum(_bytes(anchor) for anchor in anchors))


def cell_means(x: Tensor, cell: int) -> Tensor:
    """Means over cells of a crop (B, C, h, w); what a cell at its end lacks counts as zeros, as it tells little."""
    full = math.prod(min(cell, side) for side in x.shape[-2:])
    return F.avg_pool2d(x, cell, ceil_mode=True, divisor_override=full)


def pyramid(x: Tensor) -> list[Tensor]:
    """Means over cells of each size: (B, C, h, w) -> [(B, C, h / 32, w / 32), ...], rounded up."""
    return [cell_means(x, cell) for cell in CELLS]


def noise_power(image: Tensor) -> float:
    """Variance of the noise of an image (B, C, H, W), or less.

    From second differences along both axes (Immerkaer, "Fast noise variance estimation", 1996), in the blocks
    where they are small: there is little else.
    """
    if min(image.shape[-2:]) < 3:
        return 0.0
    line = image.new_tensor([1.0, -2.0, 1.0])
    kernel = (line[:, None] * line / 6).expand(image.shape[1], 1, 3, 3)
    squared = F.conv2d(image, kernel, groups=image.shape[1]).square_().mean(1, keepdim=True)
    blocks = cell_means(squared, BLOCK).flatten()
    return float(blocks.kthvalue(1 + len(blocks) // 10).values) / LOW


def least_cosine(x: Tensor, y: Tensor) -> float:
    """Of the 8 x 8 blocks of two crops (B, C, h, w), their means taken off; patterns below one level count little."""

    def pattern(image: Tensor) -> Tensor:
        means = F.avg_pool2d(image, BLOCK, ceil_mode=True, count_include_pad=False)
        h, w = image.shape[-2:]
        return image - means.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)[..., :h, :w]

    def together(a: Tensor, b: Tensor) -> Tensor:
        return cell_means((a * b).mean(1, keepdim=True), BLOCK)

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
