"""Noise taken away before pictures are enlarged, beside what is chosen without, and bicubic.

    python benchmarks/clean_first.py Set14/HR --most 8

To x2, the middle 192 pixels of each picture, damaged after it was made small; PSNR in RGB, shaved by 2, means.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorgnette.common.text import table
from lorgnette.enhancing.cleaned import Cleaned, cleaning_room
from lorgnette.enhancing.enhancer import AUTO, NONE, Chosen, enhancer
from lorgnette.images.evaluation import compare
from lorgnette.images.file import Image
from lorgnette.images.folders import find_images
from lorgnette.images.kinds import kind
from lorgnette.shipped import Chooser
from lorgnette.systems.superres.data import Scoring, TestImages

NOISE = (15, 25, 50)
KINDS = ("counts", "phone", "camera", "web", "none")


def batches(files: list[Path], damage: str) -> Iterator[dict[str, Any]]:
    """In colour; of grey pictures three equal channels."""
    noise = float(damage.removeprefix("noise ")) / 255 if damage.startswith("noise") else 0
    made = kind("none" if noise else damage)
    rng = np.random.default_rng(0)
    for batch in TestImages([(None, file) for file in files], (2.0,), 192, made, Scoring(colour="rgb")):
        lq, gt = (batch[name].expand(-1, 3, -1, -1) for name in ("lq", "gt"))
        lq = (lq + torch.from_numpy(rng.normal(0, noise, lq.shape)).float()).clamp(0, 1) if noise else lq
        yield batch | {"lq": (lq * 255).round() / 255, "gt": gt, "grey": False}


def method(way: Any) -> Any:
    def enhanced(batch: Any) -> torch.Tensor:
        picture = Image(batch["lq"][0].permute(1, 2, 0).contiguous().numpy())
        large = way(picture, Path(batch["name"]), size=tuple(batch["gt"].shape[-2:]))
        return torch.from_numpy(np.ascontiguousarray(large.pixels.transpose(2, 0, 1)))[None]

    return enhanced


def main() -> None:
    from lorgnette.images.evaluation import interpolated

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--most", type=int, default=8, help="pictures")
    options = parser.parse_args()
    if options.folder is None:
        return print("give a folder of sound pictures, such as Set14/HR")
    torch.set_num_threads(1)
    auto = enhancer(AUTO, "superres", "cpu")
    ways = {
        "base": enhancer(NONE, "superres", "cpu"),
        "auto before": Chosen(Chooser("superres", "cpu")),
        "auto now": auto,
        "--clean": Cleaned(enhancer(AUTO, cleaning_room(), "cpu"), 1.0, auto),
    }
    methods = {"bicubic": interpolated} | {name: method(way) for name, way in ways.items()}
    files = find_images(options.folder)[: options.most]
    rows = []
    for damage in (*(f"noise {sigma}" for sigma in NOISE), *KINDS):
        scores = compare(methods, batches(files, damage))
        rows.append([damage, *(f"{row['psnr_x2']:.2f}" for row in scores.values())])
    print(table(["", *methods], rows))


if __name__ == "__main__":
    main()
