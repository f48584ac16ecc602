"""Rendering by windows beside rendering point by point, as the authors' programs do it; the encoder counted.

    python benchmarks/superres_render.py --json superres_render.json

One thread, without gradients, methods taking turns in one process; processor seconds, medians of the rounds and the
spread of the ratios. LM-LTE has the shipped weights, LTE and LIIF random ones of the published sizes, which take as
long. Point by point: the four neighbours one after another by `grid_sample`, LTE and LIIF 30,000 points at a time as
their programs do, LM-LTE all at once. Memory is how far the process's peak rises (Linux).

    python benchmarks/superres_render.py --costs FOLDER      # what the bf16 encoder costs in PSNR on a folder
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from parts.memory import peak_bytes
from torch import Tensor

from lorgnette.common.text import metrics_table, table
from lorgnette.shipped import load_shipped
from lorgnette.systems.superres.coords import make_coord
from lorgnette.systems.superres.decoders import ContinuousImage
from lorgnette.systems.superres.model import make_network, render_cell

CASES = ((48, 4.0), (96, 2.0), (96, 3.3), (96, 4.0), (128, 8.0))
SLOW = ("LTE, points", "LIIF, points")
"""Methods that are measured in the first case alone."""
EDGE = 1e-6


def by_points(model: ContinuousImage, inp: Tensor, size: tuple[int, int], at_once: int) -> Tensor:
    """(B, 3, H, W) point by point, neighbour by neighbour."""
    b, _, h, w = inp.shape
    cell = render_cell(inp, size)
    mod = model.modulations(model.encoder(inp), cell.expand(b, 2)).permute(0, 3, 1, 2).contiguous()
    centre = torch.stack(torch.meshgrid(*((2 * torch.arange(n) + 1) / n - 1 for n in (h, w)), indexing="ij"))[None]
    coord, whole = make_coord(size).expand(b, -1, -1), inp.new_tensor([h, w])
    parts = []
    for points in coord.split(at_once, dim=1):
        colours, areas = [], []
        for step in product((-1, 1), (-1, 1)):
            moved = (points + points.new_tensor(step) / whole + EDGE).clamp(-1 + EDGE, 1 - EDGE)
            grid = moved.flip(-1)[:, :, None]
            own, at = (
                F.grid_sample(x, grid, mode="nearest", align_corners=False)[..., 0].transpose(1, 2)
                for x in (mod, centre.expand(b, -1, -1, -1))
            )
            rel = (points - at) * whole
            colours.append(model._render(own, rel, (cell * whole).expand_as(rel)).view(b, -1, 3))
            areas.append((rel[..., 0] * rel[..., 1]).abs() + 1e-9)
        total = torch.stack(areas).sum(0)
        parts.append(sum(c * (a / total)[..., None] for c, a in zip(colours, areas[::-1], strict=True)))
    out = torch.cat(parts, dim=1).transpose(1, 2).reshape(b, 3, *size)
    grid = coord.flip(-1).view(b, *size, 2)
    return out + F.grid_sample(inp, grid, padding_mode="border", align_corners=False)


def methods() -> dict[str, Callable[[Tensor, tuple[int, int]], Tensor]]:
    """Image, size -> picture."""
    ours = cast(ContinuousImage, load_shipped("superres").eval().model)
    lte, liif = (make_network(name, "edsr-baseline").eval() for name in ("lte", "liif"))

    def in_bf16(inp: Tensor, size: tuple[int, int]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ours.render(inp, size)

    return {
        "LM-LTE, windows": lambda inp, size: ours.render(inp, size),
        "LM-LTE, windows, bf16 encoder": in_bf16,
        "LM-LTE, points": lambda inp, size: by_points(ours, inp, size, 2160 * 3840 // 2),
        "LTE, points": lambda inp, size: by_points(lte, inp, size, 30_000),
        "LIIF, points": lambda inp, size: by_points(liif, inp, size, 30_000),
    }


@torch.no_grad()
def measured(side: int, scale: float, rounds: int, slow: bool) -> list[dict[str, Any]]:
    """A row for each method."""
    generator = torch.Generator().manual_seed(0)
    inp = (torch.rand(1, 3, side, side, generator=generator) * 2 - 1).contiguous(memory_format=torch.channels_last)
    size = (int(side * scale),) * 2
    tried = {name: method for name, method in methods().items() if slow or name not in SLOW}
    peaks = {name: peak_bytes(lambda m=method: m(inp, size), False) for name, method in tried.items()}
    seconds: dict[str, list[float]] = {name: [] for name in tried}
    pictures = {}
    for turn in range(rounds + 1):
        for name, method in tried.items():
            start = time.process_time()
            pictures[name] = method(inp, size)
            if turn:
                seconds[name].append(time.process_time() - start)
    first = next(iter(tried))
    rows = []
    for name in tried:
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds[first], strict=True))
        peak = peaks[name]
        row: dict[str, Any] = {"case": f"{side}x{side} to x{scale:g}", "method": name}
        row |= {"seconds": statistics.median(seconds[name]), "ratio": statistics.median(ratios)}
        row |= {"ratio_range": [ratios[0], ratios[-1]], "peak_MB": None if peak is None else peak / 2**20}
        if name.startswith("LM-LTE"):
            row["difference"] = float((pictures[name] - pictures[first]).abs().max())
        rows.append(row)
    return rows


def shown(row: dict[str, Any]) -> dict[str, str]:
    low, high = row["ratio_range"]
    return {
        "case": row["case"],
        "method": row["method"],
        "seconds": f"{row['seconds']:.2f}",
        "times as long": f"{row['ratio']:.1f} ({low:.1f}-{high:.1f})",
        "peak, MB": "-" if row["peak_MB"] is None else f"{row['peak_MB']:.0f}",
        "largest difference": f"{row['difference']:.1e}" if "difference" in row else "-",
    }


def costs(folder: Path) -> None:
    """PSNR on luma with the encoder in float32 and in bfloat16."""
    from lorgnette.images.evaluation import compare, interpolated
    from lorgnette.images.folders import find_items
    from lorgnette.systems.superres.data import TestImages

    def method(name: str) -> Callable[[Any], Tensor]:
        render = methods()[name]
        return lambda batch: (render(batch["lq"] * 2 - 1, batch["gt"].shape[-2:]) * 0.5 + 0.5).clamp(0, 1)

    rows = {"bicubic": interpolated} | {name: method(name) for name in list(methods())[:2]}
    found = compare(rows, TestImages(find_items(folder), (2.0, 3.0, 4.0, 8.0)))
    print(metrics_table(found, folder.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", metavar="SIDExSCALE", help="such as 48x4 96x3.3")
    parser.add_argument("--costs", type=Path, metavar="FOLDER")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.costs:
        costs(options.costs)
        return
    cases = [(int(a), float(b)) for a, _, b in (c.partition("x") for c in options.cases or ())] or CASES
    rows = []
    for number, (side, scale) in enumerate(cases):
        rows += measured(side, scale, options.rounds, slow=number == 0)
        print(f"{side}x{side} to x{scale:g} done", file=sys.stderr)
    lines = [shown(row) for row in rows]
    print(table(list(lines[0]), [list(line.values()) for line in lines], left=2))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    with torch.no_grad():
        main()
