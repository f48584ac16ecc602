"""Pictures of many kinds beside what `lorgnette enhance` makes of them without being told anything: a grid, and PSNR.

    python benchmarks/any_picture.py --out docs/images/any-picture.jpg

Photographs are those of scikit-image, screens and drawings are drawn; nothing was learnt from any of them. Needs
`lorgnette[demo,drawn]`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lorgnette.common.text import table
from lorgnette.images import write_image
from lorgnette.images.damage import DAMAGES
from lorgnette.images.file import Image
from lorgnette.images.metrics import psnr
from lorgnette.images.patches import channels_first
from lorgnette.images.pixels import to_uint8
from lorgnette.report.grid import labelled_grid
from lorgnette.shipped import Chooser, load_shipped
from lorgnette.systems import room

SIDE = 192  # of the truth
KINDS = {
    "phone, little light": ("superres", "phone", "chelsea", (60, 120)),
    "web, small": ("superres", "web", "coffee", (80, 180)),
    "screenshot": ("superres", "screen", "", (0, 0)),
    "pixel art": ("superres", "art", "", (0, 0)),
    "JPEG": ("restore", "web", "astronaut", (20, 150)),
    "camera noise": ("restore", "camera", "coffee", (80, 180)),
    "counts": ("restore", "counts", "", (0, 0)),
}
"""Room, damage, photograph (or none: drawn) and the corner of its crop."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the grid goes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows, lines = [], []
    for kind, (of, damage, photo, corner) in KINDS.items():
        home: Any = room(of)
        given, truth = made_worse(damage, photo, corner, options.seed, 2 if of == "superres" else 1)
        image = Image(given)
        base = home.enhance(load_shipped(of), image)
        found, choice = Chooser(of, "cpu").enhance(image)
        pictures = {"given": home.plain(image), "base": base, "chosen by looking": found}
        scores = {name: score(picture.pixels, truth) for name, picture in pictures.items()}
        lines.append([kind, *(f"{value:.2f}" for value in scores.values()), choice.name])
        shown = {name: to_uint8(picture.pixels) for name, picture in pictures.items()}
        rows.append(shown | {"truth": to_uint8(truth)})
    print(table(["PSNR in RGB", "given", "base", "chosen by looking", "which"], lines))
    if options.out:
        write_image(options.out, Image(labelled_grid(rows).astype(np.float32) / 255), quality=90)


def made_worse(damage: str, photo: str, corner: tuple[int, int], seed: int, scale: int) -> tuple[Any, Any]:
    """What is given, and the truth."""
    how = replace(DAMAGES[damage], clean=0, drawn=0 if photo else 1)
    if damage == "art":
        how = replace(how, scenes=("sprites",))
    scene = np.zeros((SIDE, SIDE, 3), np.float32)
    if photo:
        import skimage.data

        top, left = corner
        scene = np.asarray(getattr(skimage.data, photo)(), np.float32)[top : top + SIDE, left : left + SIDE] / 255
    return how.pair(scene, np.random.default_rng(seed), (SIDE // scale, SIDE // scale))


def score(pixels: Any, truth: Any) -> float:
    return psnr(channels_first(np.ascontiguousarray(pixels)), channels_first(truth), luma=False, quantise=True)


if __name__ == "__main__":
    main()
