"""A program on pictures of any size, tile by tile. Imports no torch.

A program of one size (`OnPictures.side`) sees squares: a crop that is smaller reaches further into the picture, and a
picture that is smaller is mirrored at its lower and right edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lorgnette.systems.protocol import OnPictures
from lorgnette.tiles.plan import LEAST_TILE, Span, Tile, plan_tiles

Planes = NDArray[np.float32]
Run = Callable[[dict[str, Planes]], object]
"""Inputs by name -> the output."""
ROUNDING = 4
"""Input pixels by which a crop may reach further than tile, blend and halo say."""


def names(how: OnPictures) -> list[str]:
    """The inputs of such a program."""
    return ["image"] if how.factor else ["image", "y", "x", "cell"]


def largest_tile(side: int, halo: int, blend: int) -> int:
    """The side of the tile that squares of `side` pixels have room for."""
    return side - 2 * (halo + blend) - ROUNDING


def in_tiles(
    run: Run,
    how: OnPictures,
    source: str,
    planes: Planes,
    out_size: tuple[int, int],
    tile: int,
    halo: int,
    progress: Callable[[list[Tile]], Iterable[Tile]] = iter,
) -> Planes:
    """(B, C, H, W) -> (B, C, *out_size), in [0, 1].

    Args:
        run: the program.
        how: what it takes.
        source: what errors call it.
        planes: pictures in [0, 1].
        out_size: (H, W) that is wanted.
        tile: side of the tiles in input pixels.
        halo: input pixels that a tile sees beyond its own.
        progress: wraps the list of tiles.

    Raises:
        ValueError: the tile does not fit into the squares that the program takes, or it gives something else than
            `how` says; in one line.
    """
    out = np.zeros((*planes.shape[:2], *out_size), np.float32)
    size, blend = (planes.shape[2], planes.shape[3]), min(how.blend, halo // 2)
    if how.side:
        tile = _fitting(how, source, size, out_size, tile, halo, blend)
        more = [(0, max(0, how.side - n)) for n in size]
        planes = np.pad(planes, [(0, 0), (0, 0), *more], mode="symmetric")
    for part in progress(plan_tiles(size, out_size, tile, halo, blend, how.align)):
        seen = Tile(*(_squared(axis, how.side) for axis in (part.y, part.x))) if how.side else part
        rendered = _rendered(run, how, source, planes[..., *seen.source], seen)
        weights = part.y.weights()[:, None] * part.x.weights()
        out[..., *part.target] += rendered.clip(0, 1) * weights.astype(np.float32)
    return out


def _fitting(
    how: OnPictures, source: str, size: tuple[int, int], out_size: tuple[int, int], tile: int, halo: int, blend: int
) -> int:
    """The tile, or a smaller one where more is enlarged than the program has places for."""
    assert how.side
    if max(size) <= how.side and (how.out_side is None or max(out_size) <= how.out_side):
        return how.side
    if tile > (most := largest_tile(how.side, halo, blend)):
        works = f"tile: {most}" if most >= LEAST_TILE else f"halo: {max(0, (how.side - LEAST_TILE - ROUNDING) // 3)}"
        raise ValueError(
            f"tile: {tile} and a halo of {halo} do not fit into the {how.side} pixels of {source}; {works} does"
        )
    if how.out_side is not None:
        scale = max(out / n for out, n in zip(out_size, size, strict=True))
        tile = min(tile, int((how.out_side - ROUNDING) / scale) - 2 * blend)
    if tile < 1:
        raise ValueError(f"scale: {source} has {how.out_side} rows and columns to fill, too few for this one")
    return tile


def _squared(span: Span, side: int) -> Span:
    """With a crop of `side` pixels around its own, within the picture where that is as long."""
    start = max(0, min(span.source[0], span.n_in - side))
    return replace(span, source=(start, start + side))


def inputs_of(how: OnPictures, crop: Planes, part: Tile) -> dict[str, Planes]:
    """What such a program is given to render a tile from its crop (B, C, h, w)."""
    given = {"image": np.ascontiguousarray(crop)}
    if how.factor is None:
        given |= {name: _places(axis, how.out_side) for name, axis in (("y", part.y), ("x", part.x))}
        cells = [axis.cell_no_finer(how.trained_scale) for axis in (part.y, part.x)]
        given["cell"] = np.array(cells, np.float32)
    return given


def _rendered(run: Run, how: OnPictures, source: str, crop: Planes, part: Tile) -> Planes:
    given = inputs_of(how, crop, part)
    images = [given["image"]] if how.side is None else np.split(given["image"], len(crop))  # each by itself
    try:
        outs = [run(given | {"image": image}) for image in images]
    except Exception as error:  # of many kinds, and none of them promised
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{source} cannot be run on this picture ({reason})") from None
    if not all(isinstance(out, np.ndarray) and out.ndim == 4 for out in outs):
        raise ValueError(f"{source}: does not give a picture")
    out = np.concatenate(outs)  # pyright: ignore[reportArgumentType, reportCallIssue]
    out = part.cut(out) if how.factor else out[..., : part.size[0], : part.size[1]] if how.side else out
    if out.dtype != np.float32 or out.shape != (*crop.shape[:2], *part.size):
        raise ValueError(f"{source}: gives {out.dtype} {out.shape} where {(*crop.shape[:2], *part.size)} is due")
    return out


def _places(axis: Span, count: int | None) -> Planes:
    """Where its pixels lie in the crop; filled up with the last to `count`."""
    places = axis.coordinates().astype(np.float32)
    return places if count is None else np.pad(places, (0, max(0, count - len(places))), mode="edge")
