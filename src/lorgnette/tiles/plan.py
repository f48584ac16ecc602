"""Large images piece by piece: tiles with a halo, rendered at any scale and blended without seams.

A tile owns a part of the output. It is rendered from a crop of the input that reaches further: by the blend,
so that neighbours overlap, and by the halo, so that what the network sees at the crop's edge does not show.
With a halo of at least the receptive field's radius the result equals the untiled one; with less, the blend
hides the difference.

Coordinates are continuous: output pixel i of `n_out` lies at (i + 0.5) / n_out * n_in - 0.5 input pixels, so
tiles fit together at any scale, 3.3 or another for each axis. A renderer gets a `Tile` and asks it where its
pixels lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", NDArray, "Tensor")


@dataclass(frozen=True)
class Span:
    """One axis of a tile.

    Attributes:
        n_in: Input pixels of the whole image.
        n_out: Output pixels of the whole image.
        source: The input pixels `[start, stop)` to crop, halo included.
        target: The output pixels `[start, stop)` to render, blend included.
        fade_in: Output pixels at the start shared with the tile before.
        fade_out: Output pixels at the end shared with the tile after.
    """

    n_in: int
    n_out: int
    source: tuple[int, int]
    target: tuple[int, int]
    fade_in: int = 0
    fade_out: int = 0

    @property
    def cell(self) -> float:
        """Size of an output pixel where the crop spans -1 to 1: `2 / n_out` in terms of the whole image."""
        return 2 * self.n_in / (self.n_out * (self.source[1] - self.source[0]))

    def cell_no_finer(self, scale: float) -> float:
        """The same, but never finer than an input pixel cut `scale` times: what a network has seen in training."""
        return self.cell * max(self.n_out / self.n_in / scale, 1.0)

    def positions(self) -> NDArray[np.float64]:
        """Centres of the target's pixels in input pixels of the whole image; 0 is the centre of the first."""
        # Whole numbers until the division: what falls on a pixel's centre does so exactly.
        return ((2 * np.arange(*self.target) + 1) * self.n_in - self.n_out) / (2 * self.n_out)

    def coordinates(self) -> NDArray[np.float64]:
        """Centres of the target's pixels where the crop spans -1 to 1 (as `align_corners=False`)."""
        start, stop = self.source
        return (self.positions() - start + 0.5) * 2 / (stop - start) - 1

    def weights(self) -> NDArray[np.float64]:
        """Blending weights of the target's pixels: linear ramps; those of all tiles sum to one."""
        weights = np.ones(self.target[1] - self.target[0])
        weights[: self.fade_in] = _ramp(self.fade_in)
        weights[len(weights) - self.fade_out :] = 1 - _ramp(self.fade_out)
        return weights


@dataclass(frozen=True)
class Tile:
    """A crop of the input and the part of the output that is rendered from it."""

    y: Span
    x: Span

    @property
    def source(self) -> tuple[slice, slice]:
        """Rows and columns of the input crop."""
        return slice(*self.y.source), slice(*self.x.source)

    @property
    def target(self) -> tuple[slice, slice]:
        """Rows and columns of the output to render."""
        return slice(*self.y.target), slice(*self.x.target)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns to render."""
        return self.y.target[1] - self.y.target[0], self.x.target[1] - self.x.target[0]

    def within(self, region: Tile) -> tuple[slice, slice]:
        """Rows and columns of the target in what is rendered for a larger tile around this one."""
        (top, bottom), (left, right) = self.y.target, self.x.target
        y, x = region.y.target[0], region.x.target[0]
        return slice(top - y, bottom - y), slice(left - x, right - x)

    def cut(self, output: Array) -> Array:
        """The target's part of a crop's whole output `(..., h * s_y, w * s_x)`, for a network of fixed scale.

        Raises:
            ValueError: The scale is no whole number, or `output` has another size than it says.
        """
        rows, columns = (
            self._cut(span, length) for span, length in zip((self.y, self.x), output.shape[-2:], strict=True)
        )
        return output[..., rows, columns]

    @staticmethod
    def _cut(span: Span, length: int) -> slice:
        scale, rest = divmod(span.n_out, span.n_in)
        start, stop = span.source
        if rest or length != scale * (stop - start):
            raise ValueError(
                f"a crop of {stop - start} of {span.n_in} pixels cannot give {length} of {span.n_out}: "
                f"cut needs a whole-number scale"
            )
        return slice(span.target[0] - start * scale, span.target[1] - start * scale)


Render = Callable[["Tensor", Tile], "Tensor"]


class Tiling(NamedTuple):
    """How an image is cut; see `plan_tiles`."""

    tile: int
    halo: int
    blend: int
    align: int = 1


LEAST_TILE = 16


def check_tile(tile: int, halo: int) -> tuple[int, int]:
    """What a caller of `enhance` asks for, if it works.

    Raises:
        ValueError: too small a tile, or a negative halo, in one line.
    """
    if tile < LEAST_TILE:
        raise ValueError(f"tile: {tile} is too small; {LEAST_TILE} or more works")
    if halo < 0:
        raise ValueError(f"halo: {halo} is negative; 0 or more works")
    return tile, halo


def plan_tiles(
    in_size: tuple[int, int],
    out_size: tuple[int, int],
    tile: int,
    halo: int,
    blend: int,
    align: int = 1,
) -> list[Tile]:
    """Cut an image into about equal tiles, row by row.

    Args:
        in_size: `(H, W)` of the input.
        out_size: `(H', W')` of the output.
        tile: Largest height and width of the input area a tile owns, without blend and halo.
        halo: Input pixels around the rendered area that are cropped too: the radius of the receptive field.
        blend: Input pixels on either side of a boundary over which neighbours fade into each other.
        align: Crops begin at multiples of it, as a network needs that sees an image in windows of so many pixels.

    Raises:
        ValueError: A size, `tile` or `align` below 1, or a negative `halo` or `blend`.
    """
    if min(*in_size, *out_size) < 1:
        raise ValueError(f"sizes must be at least 1, got {in_size} and {out_size}")
    if tile < 1 or align < 1 or halo < 0 or blend < 0:
        raise ValueError(f"tile={tile} and align={align} must be at least 1, halo={halo} and blend={blend} at least 0")
    rows, columns = (_spans(n, m, tile, halo, blend, align) for n, m in zip(in_size, out_size, strict=True))
    return [Tile(y, x) for y in rows for x in columns]


def joined(first: Tile, last: Tile) -> Tile:
    """The tile that reaches from one tile of a plan to another below and to the right of it."""

    def axis(a: Span, b: Span) -> Span:
        source, target = (a.source[0], b.source[1]), (a.target[0], b.target[1])
        return Span(a.n_in, a.n_out, source, target, a.fade_in, b.fade_out)

    return Tile(axis(first.y, last.y), axis(first.x, last.x))


def covering(wanted: NDArray[np.bool_], tiles: list[Tile], largest: int) -> list[tuple[slice, slice]]:
    """Few rectangles of tiles that cover the wanted ones: neighbours share their margins.

    Rows of neighbours are joined, then rows that lie below each other wherever the rectangle around them has no
    more input pixels than they have apart.

    Args:
        wanted: (rows, columns) of the plan.
        tiles: the plan, row by row.
        largest: most input pixels of a side, margins included, of what is joined.

    Returns:
        Rows and columns of each rectangle; it may hold tiles that are not wanted.
    """
    columns = wanted.shape[1]

    def crop(rows: slice, cols: slice) -> tuple[int, int]:
        whole = joined(tiles[rows.start * columns + cols.start], tiles[(rows.stop - 1) * columns + cols.stop - 1])
        return whole.y.source[1] - whole.y.source[0], whole.x.source[1] - whole.x.source[0]

    found: list[tuple[slice, slice]] = []

    def add(rows: slice, cols: slice) -> None:
        for number in range(len(found) - 1, -1, -1):
            above, beside = found[number]
            touching = above.stop >= rows.start and beside.start <= cols.stop and cols.start <= beside.stop
            if not touching:
                continue
            around = (
                slice(min(above.start, rows.start), max(above.stop, rows.stop)),
                slice(min(beside.start, cols.start), max(beside.stop, cols.stop)),
            )
            size = crop(*around)
            apart = math.prod(crop(rows, cols)) + math.prod(crop(above, beside))
            if max(size) <= largest and math.prod(size) <= apart:
                del found[number]
                return add(*around)
        found.append((rows, cols))

    for row, column in zip(*np.nonzero(wanted), strict=True):
        add(slice(row, row + 1), slice(column, column + 1))
    return found


def process_in_tiles(
    image: Tensor,
    render: Render,
    out_size: tuple[int, int],
    tile: int = 192,
    halo: int = 32,
    blend: int = 8,
    align: int = 1,
    out: Tensor | None = None,
    progress: Callable[[list[Tile]], Iterable[Tile]] = iter,
) -> Tensor:
    """Render a large image tile by tile, without gradients.

    Beside input and output, memory is taken for one tile only. Neither needs to lie on the renderer's device.

    Args:
        image: `(B, C, H, W)`.
        render: Called as `render(crop, tile)` with `crop` a `(B, C, h, w)` view of `image`; returns the
            pixels of `tile.target`, `(B, C', *tile.size)`. `tile.y.coordinates()` says where they lie.
        out_size: `(H', W')` of the result.
        tile: See `plan_tiles`, also for `halo` and `blend`.
        halo: At least the receptive field's radius for a result equal to the untiled one.
        blend: 0 for hard boundaries.
        align: See `plan_tiles`.
        out: Where to put the result, `(B, C', H', W')`, floating point; by default a new float32 tensor.
        progress: Wraps the list of tiles that the loop runs over, such as `tqdm.tqdm`.

    Returns:
        `(B, C', H', W')`, float32 on the CPU unless `out` is given.

    Raises:
        ValueError: As `plan_tiles`; or `render` or `out` has the wrong shape.
    """
    import torch

    with torch.no_grad():
        tiles = plan_tiles((image.shape[-2], image.shape[-1]), out_size, tile, halo, blend, align)
        started = False
        for part in progress(tiles):
            rendered = render(image[..., *part.source], part)
            expected = (image.shape[0], *part.size)
            if rendered.ndim != 4 or (rendered.shape[0], *rendered.shape[2:]) != expected:
                raise ValueError(f"render gave {tuple(rendered.shape)} where (B, C, h, w) is {expected} without C")
            if not started:
                out = _canvas(out, (*rendered.shape[:2], *out_size))
                started = True
            assert out is not None
            rows, columns = (
                torch.from_numpy(span.weights()).to(rendered.device, torch.float32) for span in (part.y, part.x)
            )
            weighted = rendered.float() * rows[:, None] * columns
            out[..., *part.target] += weighted.to(out)
    assert out is not None
    return out


def _canvas(out: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    import torch

    if out is None:
        return torch.zeros(shape)
    if tuple(out.shape) != shape or not out.is_floating_point():
        raise ValueError(f"out must be floating point of shape {shape}, got {out.dtype} {tuple(out.shape)}")
    return out.zero_()


def _spans(n_in: int, n_out: int, tile: int, halo: int, blend: int, align: int) -> list[Span]:
    count = min(math.ceil(n_in / tile), n_out)
    bounds = [round(k * n_out / count) for k in range(count + 1)]
    # At most two tiles may overlap anywhere: a fade reaches no further than the middle of a tile.
    fade = min(round(blend * n_out / n_in), min(b - a for a, b in pairwise(bounds)) // 2) if count > 1 else 0
    spans = []
    for start, stop in pairwise(bounds):
        before, after = fade if start > 0 else 0, fade if stop < n_out else 0
        first, last = start - before, stop + after
        low = ((2 * first + 1) * n_in - n_out) // (2 * n_out) - halo  # floor of the first position
        high = -((n_out - (2 * last - 1) * n_in) // (2 * n_out)) + halo + 1  # ceiling of the last one
        source = max(0, low - low % align), min(n_in, high)
        spans.append(Span(n_in, n_out, source, (first, last), 2 * before, 2 * after))
    return spans


def _ramp(length: int) -> NDArray[np.float64]:
    return (np.arange(length) + 0.5) / max(length, 1)
