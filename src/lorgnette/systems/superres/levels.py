"""Rendering at several scales: smooth parts of a picture at low ones, and enlarged from there (CMSR).

"Controllable multi-scale rendering", section 3.4 of He and Jin, "Latent Modulated Function", CVPR 2024: how much the
render network of a latent pixel is shifted tells how much happens there. A table says up to which mean of the absolute
shifts which scale does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.common.identity import lasting_identity
from lorgnette.systems.superres.coords import axis_coords
from lorgnette.systems.superres.decoders.continuous import TRAINED_SCALE, ContinuousImage


@dataclass(frozen=True)
class Table:
    """Up to which mean shift of a latent pixel a scale does."""

    scale: float
    """The scale of the pictures it was made for. It serves those above half of it as well."""
    levels: tuple[tuple[float, float], ...]
    """(scale, mean shift), rising; what is shifted more than all is rendered at the picture's own scale."""
    loss: float | None = None
    """dB of PSNR that it cost on the pictures it was made on. None: nobody says."""
    queries: float | None = None
    """Share of the points that were rendered there."""

    def steps(self, scale: float) -> list[Step]:
        """What to render for a picture of that scale, the coarsest first."""
        found: list[Step] = []
        low = -1.0
        for level, high in self.levels:
            if level >= scale:
                return [*found, Step(scale, low, math.inf)]
            found.append(Step(level, low, high))
            low = max(low, high)
        if low < 1:
            return [*found, Step(scale, low, math.inf)]
        return [*found[:-1], found[-1]._replace(high=math.inf)]  # as published: a threshold of 1 means all

    def fits(self, scale: float) -> bool:
        """Whether it may serve a picture of that scale."""
        return self.scale / 2 < scale <= self.scale


class Step(NamedTuple):
    """A scale, and the mean shifts above `low` and up to `high` that are rendered at it."""

    scale: float
    low: float
    high: float


class Levels:
    """Pictures rendered by tables, and what that saves.

    Args:
        tables: to choose from.
        max_loss: dB of PSNR that may be lost on pictures like those the tables were made on.
        network: whose tables they are, by `lorgnette.common.identity.lasting_identity`. Empty: of any.

    Attributes:
        rendered: points so far.
        exact: points that would have been rendered without.
        reasons: why pictures were rendered exactly.
    """

    def __init__(self, tables: Sequence[Table], max_loss: float = 0.02, network: str = ""):
        if not max_loss >= 0:
            raise ValueError(f"max-loss: {max_loss:g} does not work; a number of dB of at least 0 does, such as 0.02")
        self.tables, self.max_loss, self.network = tuple(tables), max_loss, network
        self.rendered, self.exact = 0, 0
        self.reasons: dict[str, None] = {}

    def table(self, scale: float) -> Table | None:
        """That for a picture of this scale with the fewest points; None: it is rendered exactly."""
        fitting = [t for t in self.tables if t.fits(scale) and (t.loss is None or t.loss <= self.max_loss)]
        nearest = min((t.scale for t in fitting), default=0.0)
        return min((t for t in fitting if t.scale == nearest), key=lambda t: t.queries or 0.0, default=None)

    def renderer(self, model: ContinuousImage, scales: tuple[float, float]) -> Window:
        """What renders tiles of one picture.

        Args:
            model: any; without modulations, or with other weights than the tables are for, it renders exactly.
            scales: of the whole picture, (y, x).
        """
        table, why = self.table(max(scales)), ""
        if not model.splits:
            why = f"{type(model).__name__} has no modulations to go by"
        elif self.network and self.network != lasting_identity(model):
            why = "the tables are for other weights"
        elif table is None:
            why = f"no table for x{max(scales):.3g} with a loss of at most {self.max_loss:g} dB"
        if why:
            self.reasons[why] = None

        def window(inp: Tensor, y: Tensor, x: Tensor, cell: Tensor) -> Tensor:
            self.exact += (points := len(inp) * len(y) * len(x))
            if why or table is None:
                self.rendered += points
                return model.render_window(inp, y, x, cell)
            out, rendered = render_levels(model, inp, y, x, cell, scales, table)
            self.rendered += rendered
            return out

        return window

    def __str__(self) -> str:
        """What it saved, in one line."""
        said = f"cmsr: {self.rendered / max(1, self.exact):.0%} of the points rendered"
        return said + (f"; exactly where {' or '.join(self.reasons)}" if self.reasons else "")


Window = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(image, rows, columns, cell) -> pixels, as `ContinuousImage.render_window`."""


def shifts(model: ContinuousImage, mod: Tensor) -> Tensor:
    """Mean of the absolute shifts of each latent pixel: (B, h, w, M) -> (B, h, w)."""
    return mod.split(model.splits, dim=-1)[1].float().abs().mean(-1)


def render_levels(
    model: ContinuousImage,
    inp: Tensor,
    y: Tensor,
    x: Tensor,
    cell: Tensor,
    scales: tuple[float, float],
    table: Table,
) -> tuple[Tensor, int]:
    """As `ContinuousImage.render_window`, by a table: (B, 3, H, W), and how many points were rendered for it.

    Args:
        model: with modulations.
        inp: (B, 3, h, w) in [-1, 1].
        y: (H,) rising coordinates of the rows.
        x: (W,) rising coordinates of the columns.
        cell: (2,).
        scales: of the whole picture, (y, x).
        table: what to render where.
    """
    inp, y, x, cell = model.grid_in_windows(inp, y, x, cell)
    mod = model.modulations(model.encoder(inp), cell.expand(len(inp), 2))
    return compose(inp, shifts(model, mod), y, x, scales, table, colours_of(model, inp, mod))


class Axis(NamedTuple):
    """Rows or columns of a picture."""

    key: int
    """How many there are where they are evenly spread from edge to edge; below 0: their centres tell."""
    centres: Tensor
    """(N,) from -1 to 1."""


Colours = Callable[[Axis, Axis, Tensor, Tensor], Tensor]
"""H rows, W columns, (2,) cell, (B, h, w) bool: the latent pixels that are asked for -> (B, 3, H, W), right where the
nearest latent pixel is one of those."""


def colours_of(model: ContinuousImage, inp: Tensor, mod: Tensor) -> Colours:
    """The colours of a picture (B, 3, h, w) in [-1, 1] with modulations (B, h, w, M)."""
    inp, size = inp.float(), inp.shape[-2:]

    def colours(y: Axis, x: Axis, cell: Tensor, here: Tensor) -> Tensor:
        found = model.render_modulations(mod, y.centres, x.centres, cell, wanted=here)
        return found.add_(_enlarged(inp, size, (y, x))) if model.skip else found

    return colours


def compose(
    inp: Tensor,
    shift: Tensor,
    y: Tensor,
    x: Tensor,
    scales: tuple[float, float],
    table: Table,
    colours: Colours,
    edges: bool = True,
) -> tuple[Tensor, int]:
    """The picture, level by level, each enlarged into the next where that is not rendered; and the points rendered.

    Args:
        inp: (B, 3, h, w) in [-1, 1].
        shift: (B, h, w).
        y: (H,) coordinates of the rows.
        x: (W,) coordinates of the columns.
        scales: of the whole picture.
        table: what to render where.
        colours: gives them.
        edges: False: no point lies beyond the centres of the outermost pixels, as in the published code; what is beyond
            repeats them (at x8 that costs 0.02 dB of whole pictures).
    """
    size = inp.shape[-2:]
    wanted = _needed(y, size[0])[:, None] & _needed(x, size[1])
    out, points = inp.float(), 0
    have: tuple[int, ...] = tuple(size)
    for step in table.steps(max(scales)):
        own = [_axis(n, to, step.scale, scale, edges) for n, to, scale in zip(size, (y, x), scales, strict=True)]
        out = _enlarged(out, have, own)
        have = own[0].key, own[1].key
        here = (shift > step.low) & (shift <= step.high) & wanted
        rows, columns = (_nearest(axis.centres, n) for axis, n in zip(own, size, strict=True))
        chosen = here[:, rows][:, :, columns]
        if chosen.any():
            points += int(chosen.sum())
            found = colours(own[0], own[1], level_cell(inp, step.scale, scales), here)
            out = torch.where(chosen[:, None], found, out)
    return _enlarged(out, have, [Axis(-1, y), Axis(-1, x)]), points


def level_cell(inp: Tensor, level: float, scales: tuple[float, float]) -> Tensor:
    """The cell (2,) of a level; along an axis of a smaller scale than that, of the picture itself."""
    own = [min(level, scale) for scale in scales]
    cells = [2 / (n * s) * max(s / TRAINED_SCALE, 1) for n, s in zip(inp.shape[-2:], own, strict=True)]
    return torch.tensor(cells, dtype=torch.float32, device=inp.device)


def _axis(n: int, target: Tensor, level: float, scale: float, edges: bool) -> Axis:
    pixels = max(1, round(n * level))
    axis = Axis(-1, target) if level >= scale else Axis(pixels, axis_coords(pixels, target.device))
    if edges:
        return axis
    ends = axis_coords(n, target.device)
    return Axis(-1 - abs(axis.key), axis.centres.clamp(ends[0], ends[-1]))


def _enlarged(image: Tensor, have: Sequence[int], want: Sequence[Axis]) -> Tensor:
    """Bilinear; an axis that stays is left as it is."""
    keys = [axis.key for axis in want]
    if list(have) == keys:
        return image
    if min(*keys, *have) > 0:
        return F.interpolate(image, size=keys, mode="bilinear")
    y, x = (
        axis_coords(n, image.device) if before == axis.key else axis.centres
        for n, before, axis in zip(image.shape[-2:], have, want, strict=True)
    )
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
    # contiguous(): F.grid_sample is far slower on channels_last inputs of three channels
    return F.grid_sample(
        image.contiguous(), grid.expand(len(image), *grid.shape), padding_mode="border", align_corners=False
    )


def _nearest(centres: Tensor, n: int) -> Tensor:
    return (((centres + 1) * n - 1) / 2).round().long().clamp(0, n - 1)


def _needed(centres: Tensor, n: int) -> Tensor:
    """Which of n latent pixels what is rendered can depend on: (n,). A tile has many around it that none does."""
    place = ((centres + 1) * n - 1) / 2
    index = torch.arange(n, device=centres.device)
    return (index >= place.min().floor() - 1) & (index <= place.max().ceil() + 1)
