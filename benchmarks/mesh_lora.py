"""What an adapter of a mesh decoder gains on an organ that neither it nor the base has seen, and what it forgets.

    LORGNETTE_DATA=... python benchmarks/mesh_lora.py --adapt kidney_right --test kidney_left --json mesh_lora.json

The base is the shipped decoder, which saw neither kidney. The adapter learns from one organ of one scan, is scored on
another, and on the organs that the base learnt from. Volumes: `medical/totalsegmentator/example_ct` of LORGNETTE_DATA,
with the segmentation of all organs as `labels`. Seeds draw the adapter and the order. One thread.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts.data import data

from lorgnette import build, evaluate, fit, lora, save
from lorgnette.checkpoint import load_recipe
from lorgnette.systems import mesh
from lorgnette.systems.mesh.cases import Organ, organs_of
from lorgnette.systems.mesh.data import OrganSamples, TestOrgans
from lorgnette.systems.mesh.samples import FINE, Sample
from lorgnette.systems.mesh.weights import SHIPPED
from lorgnette.train.batches import Draw, DrawnBatches
from lorgnette.train.config import TrainConfig

# What is drawn for each step: nothing; mirrored along each axis by the toss of a coin; besides, other contrast (0.8 to
# 1.2 times) and brightness (-0.2 to 0.2 of the values' -1 to 1)
AUGMENTED = ("no", "mirrored", "mirrored, contrast")
TARGETS = ["to_qkv", "to_out", "input_layer", "out_layer"]


def case(folder: Path) -> Path:
    """The scan and its labels under the names that are looked for."""
    source = data("medical", "totalsegmentator", "example_ct")
    for name, file in (("ct", "example_ct"), ("labels", "example_seg_fast_force_split")):
        (folder / f"{name}.nii.gz").symlink_to(source / f"{file}.nii.gz")
    return folder


class Augmented(OrganSamples):
    """Organs that differ from step to step."""

    def __init__(self, organs: Sequence[Organ], how: str, seed: int) -> None:
        super().__init__(organs)
        self.how, self.seed, self.drawn = how, seed, 0

    def __getitem__(self, draw: Draw) -> Sample:
        sample, self.drawn = super().__getitem__(draw), self.drawn + 1
        if self.how == "no":
            return sample
        rng = np.random.default_rng([self.seed, self.drawn])
        sample = mirrored(sample, [axis for axis in range(3) if rng.random() < 0.5])
        if self.how == "mirrored":
            return sample
        feats = sample.feats * rng.uniform(0.8, 1.2) + rng.uniform(-0.2, 0.2)
        return replace(sample, feats=np.clip(feats, -1, 1).astype(np.float32))


def mirrored(sample: Sample, axes: Sequence[int]) -> Sample:
    """The mirror image along some axes of the grid."""
    side = sample.distances.shape[0] // FINE
    signs = np.array([-1 if axis in axes else 1 for axis in range(3)], np.int32)
    coords = np.where(signs < 0, side - 1 - sample.coords, sample.coords)
    order = np.lexsort(coords.T[::-1])
    feats = np.flip(sample.feats.reshape(-1, 2, 2, 2), [1 + axis for axis in axes]).reshape(-1, 8)
    return replace(
        sample,
        coords=np.ascontiguousarray(coords[order]),
        feats=np.ascontiguousarray(feats[order]),
        distances=np.ascontiguousarray(np.flip(sample.distances, axes)),
        points=sample.points * signs.astype(np.float32),
    )


def evaluate_filled(task: Any, part: TestOrgans) -> float:
    """Mean Dice of filling all active voxels."""
    return statistics.fmean(task.score(task.without_network(batch)["filled"], batch)["dice"] for batch in part)


def measured(recipe: mesh.Recipe, parts: dict[str, TestOrgans], learnt: DrawnBatches) -> dict[str, Any]:
    """Dice of the frozen base and with the adapter, on each part; sizes and seconds."""
    task = build(recipe)
    before = {name: evaluate(task, part)["dice"] for name, part in parts.items()}
    started = time.perf_counter()
    fit(task, learnt, recipe.train)
    seconds = time.perf_counter() - started
    after = {name: evaluate(task, part)["dice"] for name, part in parts.items()}
    count = lora.count_parameters(task.model)
    with tempfile.TemporaryDirectory() as kept:
        adapter = (save(task, recipe, Path(kept) / "a") / "adapter_model.safetensors").stat().st_size
    batch = parts["unseen"][0]
    merged = copy.deepcopy(task)
    lora.merge_lora_weights(merged.model)
    with torch.no_grad():
        ours, theirs = task.predict(batch), merged.predict(batch)
    return {
        "filled": {n: evaluate_filled(task, part) for n, part in parts.items()},
        "before": before,
        "after": after,
        "gain": after["unseen"] - before["unseen"],
        "share of parameters": count.lora / (count.total - count.lora),
        "adapter bytes": adapter,
        "seconds": seconds,
        "merged differs by": float((ours - theirs).norm() / ours.norm()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapt", nargs="+", default=["kidney_right"], help="organs that the adapter learns from")
    parser.add_argument("--test", nargs="+", default=["kidney_left"], help="unseen organs")
    parser.add_argument("--base", default="shipped")
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--alpha", type=float, default=2.0)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--augment", choices=AUGMENTED, default="no", help="what an organ is changed by at each step")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # small organs of the scan are passed over
    base_recipe: Any = load_recipe(SHIPPED)
    with tempfile.TemporaryDirectory() as folder:
        found = {o.organ: o for o in organs_of(case(Path(folder)), base_recipe.data)}
        names = {"adapted to": words.adapt, "unseen": words.test, "of the base": base_recipe.data.organs}
        parts = {part: TestOrgans([found[name] for name in own]) for part, own in names.items()}
        rows = []
        for seed in words.seeds:
            recipe = mesh.Recipe(
                model=mesh.Model(base=words.base),
                data=base_recipe.data,
                lora=lora.LoRAConfig(r=words.rank, lora_alpha=words.alpha, target_modules=words.targets),
                train=TrainConfig(
                    steps=words.steps, batch_size=1, lr=words.lr, warmup_steps=10, seed=seed, device="cpu"
                ),
            )
            learnt = DrawnBatches(Augmented([found[name] for name in words.adapt], words.augment, seed), 1, seed)
            rows.append(measured(recipe, parts, learnt))
            print(json.dumps({"seed": seed} | rows[-1]), flush=True)
    print(f"mean gain {statistics.fmean(row['gain'] for row in rows):.4f}")
    if words.json:
        words.json.write_text(json.dumps({"settings": {k: str(v) for k, v in vars(words).items()}, "rows": rows}))


if __name__ == "__main__":
    main()
