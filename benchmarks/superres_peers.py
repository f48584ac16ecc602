"""The shipped super-resolution beside what people use instead, on the sets and in the way of the field's tables.

    python benchmarks/superres_peers.py Set5/HR Set14/HR --scales 2 3 3.3 4 6 8 --json peers.json

Peers are those that are installed (`src/lorgnette/peers/` says how). Small pictures are made by bicubic,
rounded to 8 bits; PSNR and SSIM on luma, shaved by the scale; means over a set. Where a peer has no such factor, it
takes the next larger one, or its largest, then bicubic. Seconds are processor seconds of one thread for a whole set at
a scale, methods taking turns; memory is how far the process's peak rises for the largest picture (Linux).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from parts.memory import peak_bytes
from torch import Tensor

from lorgnette.common.text import table
from lorgnette.images.evaluation import image_scores, interpolated
from lorgnette.images.folders import find_items
from lorgnette.peers.enlarging import enlarging_methods
from lorgnette.shipped import load_shipped
from lorgnette.systems.superres.data import TestImages
from lorgnette.systems.superres.model import from_network, to_network

Method = Callable[[dict[str, Any]], Tensor]
OURS = "Lorgnette, shipped"


def methods(chosen: Iterable[str]) -> dict[str, Method]:
    """Batch of one picture -> (1, 3, H, W) in [0, 1]."""
    model: Any = load_shipped("superres").eval().model

    def ours(batch: dict[str, Any], precision: str = "fp32") -> Tensor:
        inp = to_network(batch["lq"]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return from_network(model.render(inp, batch["gt"].shape[-2:])).clamp(0, 1)

    found: dict[str, Method] = {"bicubic": interpolated, OURS: ours, f"{OURS}, bf16": lambda b: ours(b, "bf16")}
    found |= enlarging_methods()
    return {name: method for name, method in found.items() if not chosen or name in chosen}


@torch.no_grad()
def measured(folder: Path, scale: float, tried: dict[str, Method]) -> list[dict[str, Any]]:
    """A row for each method."""
    batches = [batch | {"lq": colour(batch["lq"])} for batch in TestImages(find_items(folder), (scale,))]
    largest = max(batches, key=lambda batch: batch["gt"].numel())
    seconds = dict.fromkeys(tried, 0.0)
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in tried}
    for method in tried.values():
        method(batches[0])  # what is loaded and compiled once
    for batch in batches:
        for name, method in tried.items():
            began = time.process_time()
            large = method(batch)
            seconds[name] += time.process_time() - began
            scores[name].append(image_scores(large[:, :1] if len(batch["gt"][0]) == 1 else large, batch))
    rows = []
    for name, method in tried.items():
        peak = peak_bytes(lambda method=method: method(largest), False)
        means = {key: sum(one[key] for one in scores[name]) / len(batches) for key in ("psnr", "ssim")}
        row = {"set": folder.parent.name, "scale": scale, "method": name, **means, "seconds": seconds[name]}
        rows.append(row | {"peak_MB": None if peak is None else peak / 2**20})
    return rows


def colour(picture: Tensor) -> Tensor:
    return picture.expand(-1, 3, -1, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--scales", nargs="+", type=float, default=[2, 3, 4])
    parser.add_argument("--methods", nargs="*", default=[], help="all, or those named")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tried, rows = methods(options.methods), []
    for folder in options.folders:
        for scale in options.scales:
            rows += measured(folder, scale, tried)
            print(f"{folder} to x{scale:g} done", file=sys.stderr)
    shown = []
    for row in rows:
        peak = "-" if row["peak_MB"] is None else f"{row['peak_MB']:.0f}"
        scores = f"{row['psnr']:.2f}", f"{row['ssim']:.4f}", f"{row['seconds']:.1f}", peak
        shown.append([row["set"], f"x{row['scale']:g}", row["method"], *scores])
    print(table(["set", "scale", "method", "PSNR", "SSIM", "seconds", "peak, MB"], shown, left=3))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
