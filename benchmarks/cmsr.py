"""What rendering at several scales saves and costs: the shipped network with its tables beside the full rendering.

    LORGNETTE_DATA=... python benchmarks/cmsr.py --set Set14 --scales 6 8 12

Pictures of a set of `images` in LORGNETTE_DATA are made small and enlarged again, both ways in turn; processor time is
that of the whole network, encoder included.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from parts.data import data

from lorgnette.common.text import table
from lorgnette.images.evaluation import image_scores
from lorgnette.images.folders import find_images
from lorgnette.recipe import build
from lorgnette.systems import superres
from lorgnette.systems.superres.coords import axis_coords
from lorgnette.systems.superres.data import TestImages
from lorgnette.systems.superres.decoders.continuous import from_network, render_cell, to_network

HOW = {"exact, dB": "{:.2f}", "dB lost": "{:.4f}", "most of one": "{:.3f}", "points": "{:.0%}", "time": "{:.0%}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="Set14")
    parser.add_argument("--scales", type=float, nargs="+", default=[6.0, 8.0, 12.0])
    parser.add_argument("--max-loss", type=float, default=0.02)
    parser.add_argument("--pictures", type=int, help="at most so many; unset: all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = build(superres.Recipe(lora=None)).model
    files = find_images(data("images", options.set))[: options.pictures]
    found = {scale: measured(model, files, scale, options.max_loss) for scale in options.scales}
    rows = [[f"x{scale:g}", *(HOW[name].format(value) for name, value in own.items())] for scale, own in found.items()]
    print(f"{options.set}, {len(files)} pictures, at most {options.max_loss:g} dB by the tables, 1 thread")
    print(table(["scale", *HOW], rows))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


@torch.no_grad()
def measured(model: superres.LMLTE, files: list[Path], scale: float, max_loss: float) -> dict[str, float]:
    model.render(torch.zeros(1, 3, 16, 16), (32, 32))  # what is compiled is compiled
    levels = superres.read_tables().levels(max_loss)
    psnr: list[tuple[float, float]] = []
    seconds = [0.0, 0.0]
    for batch in TestImages([(None, file) for file in files], [scale]):
        inp, size = to_network(batch["lq"]), batch["gt"].shape[-2:]
        y, x = map(axis_coords, size)
        cell = render_cell(inp, size)
        less = levels.renderer(model, (size[0] / inp.shape[-2], size[1] / inp.shape[-1]))
        scores = []
        for number, way in enumerate((model.render_window, less)):
            start = time.process_time()
            out = way(inp, y, x, cell)
            seconds[number] += time.process_time() - start
            scores.append(image_scores(from_network(out).clamp(0, 1), batch)["psnr"])
        psnr.append((scores[0], scores[1]))
    lost = [exact - own for exact, own in psnr]
    figures = sum(exact for exact, _ in psnr) / len(psnr), sum(lost) / len(lost), max(lost)
    return dict(zip(HOW, (*figures, levels.rendered / levels.exact, seconds[1] / seconds[0]), strict=True))


if __name__ == "__main__":
    main()
