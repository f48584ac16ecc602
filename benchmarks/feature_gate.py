"""What a trained share of the feature cache brings: clips with noise, denoised frame by frame.

    LORGNETTE_DATA=... python benchmarks/feature_gate.py --steps 80 --patch 32

Each clip of the folder `images/video` of LORGNETTE_DATA: an adapter of the shipped denoiser learns from its first two
thirds and is scored on the rest: the middle 256 pixels of each frame, with noise of its own, after the frames before it
have been through the cache. The rows differ in nothing but what they are named after; the gate's rows are scored once
more with the gate at 0, which tells what the cache itself brings.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from parts.data import data

from lorgnette.images.folders import find_images
from lorgnette.recipe import build
from lorgnette.systems import restore
from lorgnette.systems.restore.model import MambaIR
from lorgnette.train.config import TrainConfig
from lorgnette.train.loop import fit

WAYS: dict[str, tuple[dict[str, Any], int | None]] = {
    "adapter": ({}, None),
    "and map": ({"use_lora_cache": True}, None),
    "and gate": ({"use_lora_cache": True, "cache_in_training": True}, 2),
}


def halves(clip: Path, folder: Path) -> tuple[str, str]:
    """Two folders: the first two thirds of the frames, and the rest."""
    files = find_images(clip)
    cut = len(files) * 2 // 3
    for name, part in (("learn", files[:cut]), ("score", files[cut:])):
        (folder / name).mkdir()
        for file in part:
            shutil.copy(file, folder / name)
    return str(folder / "learn"), str(folder / "score")


def score(task: Any, folder: str, noise: float) -> float:
    return restore.evaluation({"it": task}, folder, levels=(noise,), crop=256)["it"][f"psnr_sigma{noise:g}"]


def one(learn: str, rest: str, way: str, options: argparse.Namespace) -> dict[str, float]:
    settings, frames = WAYS[way]
    recipe = restore.Recipe(
        model=restore.Model(**settings, similarity_threshold=options.threshold) if settings else restore.Model(),
        data=restore.Data(
            root=learn, holdout=0, frames=frames, patch=options.patch, sigmas=(options.noise, options.noise)
        ),
        train=TrainConfig(steps=options.steps, batch_size=4, lr=options.lr, device=options.device),
    )
    task = build(recipe)
    batches, _ = restore.loaders(recipe.data, recipe.train)
    fit(task, batches, recipe.train)
    found = {"psnr": score(task, rest, options.noise)}
    model = task.model
    assert isinstance(model, MambaIR)
    if frames:
        found["share"] = float(model.shares().abs().mean())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(".gate"):
                    parameter.zero_()
        found["psnr, gate 0"] = score(task, rest, options.noise)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--noise", type=float, default=25)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", nargs="+", default=["static_bikes", "moving_temple"])
    options = parser.parse_args()
    videos = data("images", "video")
    for clip in options.clips:
        with tempfile.TemporaryDirectory() as folder:
            learn, rest = halves(videos / clip, Path(folder))
            print(
                json.dumps(
                    {
                        "clip": clip,
                        "way": "shipped",
                        "psnr": score(build(restore.Recipe(lora=None)), rest, options.noise),
                    }
                ),
                flush=True,
            )
            for way in WAYS:
                print(json.dumps({"clip": clip, "way": way} | one(learn, rest, way, options)), flush=True)


if __name__ == "__main__":
    main()
