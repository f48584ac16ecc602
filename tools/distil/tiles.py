"""Cut large photographs into sharp pieces to train on: python tiles.py PHOTOGRAPHS TILES

Pictures out of cameras are soft at the pixel. They are shrunk by area, by 3 where they are wider or higher than 3800
pixels, else by 2, and once more by twice that; cut into pieces of 480 x 320; pieces without detail are left out (mean
absolute Laplacian of grey, clipped at 40, below 2 levels). Written as JPEG of quality 94 without chroma subsampling.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, LEAST = 480, 320, 2.0


def detail(piece: np.ndarray) -> float:
    g = piece.mean(2)
    laplacian = 4 * g[1:-1, 1:-1] - g[:-2, 1:-1] - g[2:, 1:-1] - g[1:-1, :-2] - g[1:-1, 2:]
    return float(np.minimum(np.abs(laplacian), 40).mean())


def main(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.rglob("*.jpg")):
        picture = Image.open(file).convert("RGB")
        base = 3 if max(picture.size) > 3800 else 2
        for factor in (base, 2 * base):
            w, h = (n // factor for n in picture.size)
            pixels = np.asarray(picture.crop((0, 0, w * factor, h * factor)), np.float32)
            pixels = pixels.reshape(h, factor, w, factor, 3).mean((1, 3)).round().astype(np.uint8)
            if h > w:
                pixels = pixels.transpose(1, 0, 2)
            h, w = pixels.shape[:2]
            for y in np.linspace(0, h - HEIGHT, h // HEIGHT).astype(int):
                for x in np.linspace(0, w - WIDTH, w // WIDTH).astype(int):
                    piece = np.ascontiguousarray(pixels[y : y + HEIGHT, x : x + WIDTH])
                    if detail(piece) >= LEAST:
                        name = f"{file.stem}_{factor}_{y}_{x}.jpg"
                        how = {"quality": 94, "subsampling": 0, "optimize": True, "progressive": True}
                        Image.fromarray(piece).save(target / name, **how)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
