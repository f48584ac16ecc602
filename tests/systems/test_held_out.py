"""In every room: what is held out is a function of the seed, and belongs to the run once it began."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from lorgnette.common.parts import LeftOut, Parts
from lorgnette.systems import clip, restore, superres
from lorgnette.train.config import TrainConfig

WAYS = {
    "superres": (superres, ("root",)),
    "superres, pairs": (superres, ("lr", "hr")),
    "restore": (restore, ("root",)),
    "restore, pairs": (restore, ("lq", "gt")),
    "clip": (clip, ("root",)),
}


def fill(tmp_path: Path, way: str, numbers: range) -> dict[str, Any]:
    """Pictures of these numbers, in the folders that the settings of this way name."""
    settings = WAYS[way][1]
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 255, (60, 60, 3), dtype=np.uint8)
        for setting in settings:
            folder = tmp_path / setting / (("cat", "dog")[number % 2] if way == "clip" else "")
            folder.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return {setting: str(tmp_path / setting) for setting in settings}


def parts(way: str, data: Any, seed: int = 0, *before: Parts) -> Parts:
    batches, test = WAYS[way][0].loaders(data, TrainConfig(seed=seed, batch_size=2), *before)
    assert batches.parts is not None
    assert len(batches) == len(batches.parts.training)
    assert test.samples % len(batches.parts.held_out) == 0  # once for each level
    return batches.parts


@pytest.mark.parametrize("way", WAYS)
def test_it_follows_the_seed_and_then_the_run(way: str, tmp_path: Path):
    data = WAYS[way][0].Data(**fill(tmp_path, way, range(0, 24, 1)), holdout=0.25)
    held_out = {frozenset(parts(way, data, seed).held_out) for seed in range(5)}
    assert len(held_out) > 3
    began = parts(way, data, 3)
    assert parts(way, data, 3) == began
    assert not set(began.training) & set(began.held_out)
    assert len(began.held_out) == 6
    fill(tmp_path, way, range(40, 46))
    with pytest.warns(LeftOut, match="6 of 30 images left out"):
        later = parts(way, data, 3, began)
    assert (later.training, later.held_out) == (began.training, began.held_out)
    assert len(later.left_out) == 6


@pytest.mark.parametrize("preset", ["digits", "shapes"])
def test_of_a_preset_too(preset: Any):
    data = clip.Data(preset=preset, samples=40)
    chosen = []
    for seed in (0, 1, 0):
        (batch,) = clip.loaders(data, TrainConfig(seed=seed))[1]
        chosen.append(batch["label"].tolist())
    assert chosen[0] == chosen[2] != chosen[1]
