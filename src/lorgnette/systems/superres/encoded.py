"""A picture encoded once, to be rendered at many scales and in parts: a zoom, a page with a slider, a map in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from lorgnette.common.identity import identity
from lorgnette.common.modules import evaluating
from lorgnette.common.text import size as size_in_words
from lorgnette.images.file import Image
from lorgnette.images.limits import check_memory
from lorgnette.images.patches import channels_first
from lorgnette.images.pixels import seen_colours
from lorgnette.systems.superres.decoders.continuous import ContinuousImage, from_network, to_network
from lorgnette.systems.superres.predict import factor_of, output_size, points_of
from lorgnette.systems.superres.task import SuperResolution
from lorgnette.tiles.pictures import alpha_at
from lorgnette.tiles.plan import Tile, plan_tiles, process_in_tiles

DECODED = 3
"""Input pixels to each side that a decoder looks at: its 3x3 features around the four latent pixels of a point."""


class Encoded:
    """The features of a picture, kept: each rendering after it costs its rendering alone.

    What is rendered differs from `enhance` by rounding. (With SwinIR the last rows and columns differ a little more: a
    picture is mirrored there before it is encoded, and what lies beyond it is not kept. LM-CiaoSR's attention across
    scales sees no further than a tile.)

    Args:
        task: from `lorgnette.load` or `lorgnette.build`; its network must stay as it is meanwhile.
        image: from `lorgnette.images.file.read_image`.
        tile: side of the tiles that are encoded and rendered, in input pixels.
        max_bytes: that the features may take: about 256 for each pixel.
        progress: wraps the list of tiles to encode, such as `tqdm.tqdm`.

    Raises:
        ValueError: the features need more, in one line.
    """

    def __init__(
        self,
        task: SuperResolution,
        image: Image,
        tile: int = 256,
        max_bytes: int = 2**31,
        progress: Callable[[list[Tile]], Iterable[Tile]] = iter,
    ):
        self.model, self.image, self.tile = cast(ContinuousImage, task.model), image, tile
        encoder, self.size = self.model.encoder, (image.pixels.shape[0], image.pixels.shape[1])
        needed = 4 * encoder.out_dim * self.size[0] * self.size[1]
        if needed > max_bytes:
            raise ValueError(
                f"max_bytes: the features of {self.size[1]}x{self.size[0]} pixels take {size_in_words(needed)}, and"
                f" {size_in_words(max_bytes)} are allowed; enhance keeps none"
            )
        self.device = next(self.model.parameters()).device
        pixels = channels_first(np.ascontiguousarray(seen_colours(image.pixels, image.alpha)))[None]

        def encode(crop: Tensor, part: Tile) -> Tensor:
            inp = to_network(crop.to(self.device)).contiguous(memory_format=torch.channels_last)
            return part.cut(encoder(inp)).float().cpu()

        with evaluating(self.model):
            halo, window = encoder.receptive_radius, encoder.window
            features = process_in_tiles(pixels, encode, self.size, tile, halo, 0, window, progress=progress)
        self.seen, self._of = torch.cat([to_network(pixels), features], dim=1), identity(self.model)

    def at(
        self,
        scale: float | tuple[float, float] | None = None,
        size: tuple[int, int] | None = None,
        region: tuple[int, int, int, int] | None = None,
    ) -> Image:
        """The picture, or a part of it, at any scale from 1 on.

        Args:
            scale: factor, or (y, x). With neither it nor `size`: 2.
            size: (H, W) of the whole picture instead.
            region: (top, left, height, width) of the part in input pixels; what it shows is what the whole shows there.

        Raises:
            ValueError: scale, size or region does not work; or the network has changed since the picture was encoded.
        """
        if identity(self.model) != self._of:
            raise ValueError("the network has changed since this picture was encoded: encode it again")
        out_size = output_size(self.size, factor_of(scale, size), size)
        if any(out < n for out, n in zip(out_size, self.size, strict=True)):
            raise ValueError(
                f"scale: {out_size[1]}x{out_size[0]} is smaller than the picture; enhance makes it smaller"
            )
        (top, bottom), (left, right) = self._part(region, out_size)
        check_memory((bottom - top, right - left))
        out = torch.empty(3, bottom - top, right - left)
        with torch.no_grad(), evaluating(self.model):
            for part in plan_tiles(self.size, out_size, self.tile, DECODED, 0):
                rows, columns = _overlap(part.y.target, top, bottom), _overlap(part.x.target, left, right)
                if rows.start >= rows.stop or columns.start >= columns.stop:
                    continue
                crop = self.seen[..., *part.source].to(self.device)
                y, x, cell = points_of(part, self.device)
                y, x = (at[slice(s.start - t, s.stop - t)] for at, s, t in (
                    (y, rows, part.y.target[0]), (x, columns, part.x.target[0])
                ))  # fmt: skip
                colours = from_network(self.model.render_features(crop[:, :3], crop[:, 3:], y, x, cell))
                out[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = colours[
                    0
                ].cpu()
        alpha = alpha_at(self.image.alpha, out_size)
        return replace(
            self.image,
            pixels=out.clamp_(0, 1).permute(1, 2, 0).numpy(),
            alpha=None if alpha is None else alpha[top:bottom, left:right],
            about=self.image.about.resized(self.size, out_size),
        )

    def _part(
        self, region: tuple[int, int, int, int] | None, out_size: tuple[int, int]
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of the output, `[start, stop)`."""
        h, w = self.size
        top, left, height, width = region or (0, 0, h, w)
        if not (0 <= top < top + height <= h and 0 <= left < left + width <= w):
            raise ValueError(f"region: {region} is not within the {h} rows and {w} columns; (top, left, height, width)")
        rows, columns = (
            (round(start * out / n), max(round((start + length) * out / n), round(start * out / n) + 1))
            for start, length, out, n in ((top, height, out_size[0], h), (left, width, out_size[1], w))
        )
        return rows, columns


def _overlap(target: tuple[int, int], start: int, stop: int) -> slice:
    return slice(max(target[0], start), min(target[1], stop))
