"""Tables for rendering at several scales (`levels`): made on pictures, kept as YAML beside the weights they are for."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from lorgnette.common.files import write_text
from lorgnette.common.identity import lasting_identity
from lorgnette.common.modules import evaluating
from lorgnette.common.parts import LeftOut
from lorgnette.images.division import judged
from lorgnette.images.evaluation import EQUAL
from lorgnette.images.folders import Folders, find_items
from lorgnette.images.metrics import psnr
from lorgnette.settings import read_yaml
from lorgnette.systems.superres.coords import axis_coords
from lorgnette.systems.superres.data import TestImages, pair_scale
from lorgnette.systems.superres.decoders.continuous import ContinuousImage, from_network, render_cell, to_network
from lorgnette.systems.superres.levels import Axis, Levels, Table, colours_of, compose, level_cell, shifts
from lorgnette.systems.superres.task import SuperResolution
from lorgnette.systems.superres.weights import SHIPPED

FILE = "cmsr.yaml"
FORMAT_VERSION = 1
LEVELS = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)  # lower scales render as much again for little: 1 and 3 gain nothing
THRESHOLDS = tuple(2e-6 * 2 ** (k / 2) for k in range(20))  # mean squared errors in network space, to 1.5e-3
LOSSES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # dB; the quickest table within each is kept
GROUPS = 100  # of latent pixels that are shifted about equally


class Tables(NamedTuple):
    """What was made for one network."""

    tables: list[Table]
    network: str
    """See `lorgnette.common.identity.lasting_identity`. Empty: nobody says."""
    pictures: int = 0
    """On how many pictures they were made."""

    def levels(self, max_loss: float = 0.02) -> Levels:
        """What `enhance` takes as `cmsr`.

        Raises:
            ValueError: the loss is negative.
        """
        return Levels(self.tables, max_loss, self.network)


@torch.no_grad()
def cmsr(
    task: SuperResolution,
    folder: Folders,
    scales: Sequence[float] = (6, 8, 12),
    crop: int = 512,
    most: int = 24,
    mse_threshold: float | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Tables:
    """Tables of which parts of a picture a lower scale does for, with what each costs and saves.

    Pictures are made small and enlarged to what they were, at all levels. Latent pixels that are shifted about equally
    are looked at together: the threshold of a level is the shift up to which it differs from the full rendering by at
    most a mean squared error. What a table costs is measured by composing the pictures by it.

    Args:
        task: whose network has modulations.
        folder: of pictures, or several; their sharpness should be that of the pictures to come.
        scales: to make tables for, above 2.
        crop: side to which pictures are cut around their centre. 0: whole.
        most: pictures looked at, spread over those that there are.
        mse_threshold: that error in network space, [-1, 1] (published: 2e-5). Unset: several, so that there are
            tables with a loss of at most 0.005, 0.01, 0.02, 0.05, 0.1 and 0.2 dB of PSNR (on Y or grey).
        progress: wraps the pictures that the loop runs over, such as `tqdm.tqdm`.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: a scale that needs no table, a network without modulations, or no picture that can be scored.

    Warns:
        LeftOut: of pictures that cannot be read, or are too small for a scale.
    """
    model = cast(ContinuousImage, task.model)
    if not model.splits:
        raise ValueError(f"cmsr: {type(model).__name__} has no modulations to go by; lm-lte, lm-liif, lm-ciaosr have")
    for scale in scales:
        if not 2 < scale <= 32:
            raise ValueError(f"scales: {scale:g} does not work; numbers above 2, to 32, do")
    items = list(judged(find_items(folder), pair_scale).said().items.values())
    items = [items[k * len(items) // min(most, len(items))] for k in range(min(most, len(items)))]
    made: list[Table] = []
    with evaluating(model):
        for scale in scales:
            seen = _seen(model, progress(TestImages(items, [scale], crop)), scale)
            made += _tables(seen, scale, mse_threshold)
    return Tables(made, lasting_identity(model), len(items))


class _Seen(NamedTuple):
    """A picture at all levels."""

    batch: Mapping[str, Any]
    inp: Tensor
    shift: Tensor
    scales: tuple[float, float]
    renders: dict[float, Tensor]
    """Level, or the scale itself -> (1, 3, H, W)."""
    psnr: float


def _seen(model: ContinuousImage, batches: Iterable[Mapping[str, Any]], scale: float) -> list[_Seen]:
    found: list[_Seen] = []
    left_out: dict[str, str] = {}
    device = next(model.parameters()).device
    for batch in batches:
        inp = to_network(batch["lq"].to(device))
        sizes = list(zip(batch["gt"].shape[-2:], inp.shape[-2:], strict=True))
        scales = sizes[0][0] / sizes[0][1], sizes[1][0] / sizes[1][1]
        mod = model.modulations(model.encoder(inp), render_cell(inp, batch["gt"].shape[-2:])[None])
        colours, everywhere = colours_of(model, inp, mod), torch.ones_like(mod[..., 0], dtype=torch.bool)
        renders: dict[float, Tensor] = {}
        for level in (*(level for level in LEVELS if level < scale), scale):
            counts = (out if level == scale else round(n * level) for out, n in sizes)
            y, x = (Axis(count, axis_coords(count, device)) for count in counts)
            renders[level] = colours(y, x, level_cell(inp, level, scales), everywhere)
        try:
            quality = _psnr(renders[scale], batch)
        except ValueError as error:
            left_out[batch["name"]] = f"{batch['name']} is left out at x{scale:g}: {error}"
            continue
        found.append(_Seen(batch, inp, shifts(model, mod), scales, renders, quality))
    if not found:
        raise ValueError(next(iter(left_out.values()), "no picture"))
    if left_out:
        warnings.warn(LeftOut("; ".join(left_out.values()), left_out), stacklevel=3)
    return found


def _psnr(colours: Tensor, batch: Mapping[str, Any]) -> float:
    """As tables of scores have it (`lorgnette.images.evaluation.image_scores`)."""
    how = {name: batch[name] for name in ("shave", "luma", "grey")}
    return min(psnr(from_network(colours).clamp(0, 1).cpu(), batch["gt"], quantise=True, **how), EQUAL)


def _tables(seen: Sequence[_Seen], scale: float, mse_threshold: float | None) -> list[Table]:
    shift = torch.cat([one.shift.flatten() for one in seen])
    order = shift.argsort()
    groups = shift[order].tensor_split(min(GROUPS, len(shift)))
    errors = {
        level: [group.mean().item() for group in _errors(seen, level, scale)[order].tensor_split(len(groups))]
        for level in LEVELS
        if level < scale
    }
    candidates: list[Table] = []
    for threshold in THRESHOLDS if mse_threshold is None else (mse_threshold,):
        levels: list[tuple[float, float]] = []
        highest = 0.0
        for level, own in errors.items():
            within = next((k for k, error in enumerate(own) if error > threshold), len(own))
            highest = max(highest, groups[within - 1][-1].item() if within else 0.0)
            levels.append((level, round(highest, 4)))
        candidates.append(_measured(Table(scale, (*levels, (scale, math.inf))), seen))
    if mse_threshold is not None:
        return candidates
    best = [min((t for t in candidates if cast(float, t.loss) <= loss), key=_share, default=None) for loss in LOSSES]
    return [table for table in dict.fromkeys(best) if table is not None]


def _share(table: Table) -> float:
    return cast(float, table.queries)


def _errors(seen: Sequence[_Seen], level: float, scale: float) -> Tensor:
    """Of a level enlarged against the full rendering: mean squares over the output of each latent pixel."""
    found = []
    for one in seen:
        full = one.renders[scale]
        enlarged = F.interpolate(one.renders[level], size=full.shape[-2:], mode="bilinear")
        square = (enlarged - full).square().mean(1, keepdim=True)
        found.append(F.interpolate(square, size=one.shift.shape[-2:], mode="area").flatten())
    return torch.cat(found)


def _measured(table: Table, seen: Sequence[_Seen]) -> Table:
    """The table with what it costs and saves on these pictures."""
    losses, rendered, exact = [], 0, 0
    for one in seen:
        kept = {render.shape[-2:]: render for render in one.renders.values()}
        size = one.renders[table.scale].shape[-2:]
        y, x = (axis_coords(n, one.inp.device) for n in size)
        composed, points = compose(one.inp, one.shift, y, x, one.scales, table, partial(_of_size, kept))
        losses.append(one.psnr - _psnr(composed, one.batch))
        rendered, exact = rendered + points, exact + size[0] * size[1]
    loss = sum(losses) / len(losses)
    return Table(table.scale, table.levels, round(loss, 5), round(rendered / exact, 4))


def _of_size(kept: Mapping[Any, Tensor], y: Axis, x: Axis, cell: Tensor, here: Tensor) -> Tensor:
    """The level of that many rows and columns, which was rendered before."""
    return kept[len(y.centres), len(x.centres)]


# --------------------------------------------------------------------------------------------------------- files


def write_tables(path: str | os.PathLike[str], made: Tables) -> Path:
    """Write tables as YAML, whole or not at all."""
    tables = [{"scale": t.scale, "loss": t.loss, "queries": t.queries, "levels": dict(t.levels)} for t in made.tables]
    content = {"format_version": FORMAT_VERSION, "network": made.network, "pictures": made.pictures, "tables": tables}
    write_text(path, yaml.safe_dump(content, sort_keys=False))
    return Path(path)


def read_tables(path: str | os.PathLike[str] | None = None) -> Tables:
    """Tables of a file, or of the folder of an adapter or model that holds such a file.

    Files as the published code writes them, `{scale: {level: threshold}}`, say nothing of what they cost: they serve
    whatever loss is allowed.

    Args:
        path: None: those of the weights that ship.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds something else, in one line.
    """
    file = Path(SHIPPED if path is None else path)
    file = file / FILE if file.is_dir() else file
    content = read_yaml(file)
    try:
        if "tables" not in content:
            return Tables([_table(scale, levels) for scale, levels in content.items()], "")
        if content.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"format_version is {content.get('format_version')!r}; {FORMAT_VERSION} is read")
        tables = [_table(t["scale"], t["levels"], t["loss"], t["queries"]) for t in content["tables"]]
        return Tables(tables, str(content["network"]), int(content["pictures"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} holds no tables of scales and thresholds ({error})") from None


def _table(scale: Any, levels: Mapping[Any, Any], loss: float | None = None, queries: float | None = None) -> Table:
    own = sorted((float(level), float(high)) for level, high in levels.items())
    numbers = [float(scale), *(number for pair in own for number in pair), loss or 0.0, queries or 0.0]
    if not own or any(math.isnan(number) for number in numbers) or own[0][0] < 1 or not 1 < float(scale) <= 32:
        raise ValueError(f"scale {scale}, levels {dict(own)}")
    return Table(float(scale), tuple(own), loss, queries)
