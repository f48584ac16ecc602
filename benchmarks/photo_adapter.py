"""What an adapter brings after blur and JPEG: from few steps on pairs, beside fine-tuning the whole network.

    python benchmarks/photo_adapter.py BSDS500/train Set14/HR --steps 300 --seeds 0 1 2 --json rows.jsonl

The pictures of both folders are made half as wide, blurred (0.5 to 1.5 pixels, or --blur) and compressed (quality 30 to
60, or --quality), once and for all. From the pairs of the first folder the shipped network learns, with the adapter's
layers and rank of `recipes/superres-photo.yaml`, and with all its weights free, as many steps on the same batches.
Rows are luma PSNR of the second folder, whole pictures; `clean` is without damage: what adaptation forgets. Nothing is
chosen by the second folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lorgnette import lora
from lorgnette.common.text import table
from lorgnette.images import read_image
from lorgnette.images.damage import Damage
from lorgnette.images.file import Image, write_image
from lorgnette.images.folders import find_images
from lorgnette.recipe import build
from lorgnette.shipped import load_shipped
from lorgnette.systems.superres import Data, Recipe, SuperResolution, evaluation, loaders
from lorgnette.train.config import TrainConfig
from lorgnette.train.loop import fit

SCALE = 2
LAYERS = r"encoder\.(head\.0|body\.\d+(\.body\.[02])?)|coef|freq|hypernet\.layers\.[02]"
ADAPTER = lora.LoRAConfig(r=3, lora_alpha=6, target_modules=LAYERS)
RATES = {"adapter": 3e-3, "all weights": 3e-4}


def pairs(folder: Path, out: Path, damage: Damage) -> None:
    """Pictures cut to even sides in `out/hr`, and damaged at half their size in `out/lr`."""
    for file in find_images(folder):
        pixels = read_image(file).pixels
        height, width = (n // SCALE * SCALE for n in pixels.shape[:2])
        large = pixels[:height, :width]
        small = damage(large, np.random.default_rng(zlib.crc32(file.name.encode())), (height // SCALE, width // SCALE))
        for name, made in (("hr", large), ("lr", small)):
            write_image(out / name / f"{file.stem}.png", Image(np.ascontiguousarray(made)))


def trained(way: str, learn: Path, options: argparse.Namespace, seed: int) -> SuperResolution:
    """The shipped network after so many steps; its last weights."""
    data = Data(lr=str(learn / "lr"), hr=str(learn / "hr"), holdout=0.03, patch=40, points=1600, test_crop=160)
    train = TrainConfig(
        steps=options.steps,
        eval_every=options.steps,
        batch_size=8,
        lr=RATES[way],
        optimizer="adam",
        warmup_steps=30,
        clip_norm=0.5,
        seed=seed,
        device="cpu",
    )
    task: Any = build(replace(Recipe(), data=data, train=train, lora=ADAPTER if way == "adapter" else None))
    batches, _ = loaders(data, train)
    fit(task, batches, train)
    return task.eval()


def scored(task: SuperResolution, test: Path) -> dict[str, dict[str, float]]:
    """By row, PSNR of the damaged pictures and of clean ones."""
    damaged, clean = (
        evaluation({"network": task}, str(test / "hr"), (SCALE,), lr_folder=lr) for lr in (str(test / "lr"), None)
    )
    metric = next(name for name in damaged["network"] if name.startswith("psnr"))
    return {name: {"damaged": damaged[name][metric], "clean": clean[name][metric]} for name in damaged}


def shown(lines: list[dict[str, Any]]) -> str:
    """Means over the seeds, and what each brings over the frozen network."""
    base = next(line for line in lines if line["way"] == "frozen")
    rows = []
    for way in dict.fromkeys(line["way"] for line in lines):
        of = [line for line in lines if line["way"] == way]
        row = [way, f"{of[0]['trained']:,}" if of[0]["trained"] else "-"]
        for kind in ("damaged", "clean"):
            values = [line[kind] - base[kind] for line in of]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            row += [f"{statistics.mean(line[kind] for line in of):.2f}", f"{statistics.mean(values):+.2f}{spread}"]
        rows.append([*row, f"{statistics.mean(line['minutes'] for line in of):.1f}"])
    return table(["", "trained", "damaged, dB", "gain", "clean, dB", "drift", "minutes"], rows, left=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learn", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--blur", type=float, nargs=2, default=[0.5, 1.5])
    parser.add_argument("--quality", type=int, nargs=2, default=[30, 60])
    parser.add_argument("--json", type=Path, help="a line for each row; those there are not made again")
    options = parser.parse_args()
    damage = Damage(blur=tuple(options.blur), quality=tuple(options.quality))
    kept: Path | None = options.json
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []

    def keep(way: str, seed: int, parameters: int, minutes: float, scores: dict[str, float]) -> None:
        lines.append({"way": way, "seed": seed, "trained": parameters, "minutes": minutes, **scores})
        if kept:
            with kept.open("a") as file:
                print(json.dumps(lines[-1]), file=file)

    with tempfile.TemporaryDirectory() as scratch:
        learn, test = Path(scratch, "learn"), Path(scratch, "test")
        pairs(options.learn, learn, damage)
        pairs(options.test, test, damage)
        if not lines:
            for way, adapter in (("frozen", "base"), ("shipped adapter photo", "photo")):
                found = scored(load_shipped("superres", adapter), test)  # pyright: ignore[reportArgumentType]
                if adapter == "base":
                    keep("bicubic", 0, 0, 0, found["bicubic"])
                keep(way, 0, 0, 0, found["network"])
        jobs = [(way, seed) for seed in options.seeds for way in RATES]
        for way, seed in tqdm(jobs, desc="training", unit="network"):
            if any(line["way"] == way and line["seed"] == seed for line in lines):
                continue
            start = time.process_time()
            task = trained(way, learn, options, seed)
            minutes = (time.process_time() - start) / 60
            parameters = sum(p.numel() for p in task.parameters() if p.requires_grad)
            keep(way, seed, parameters, minutes, scored(task, test)["network"])
    print(shown(lines))


if __name__ == "__main__":
    main()
