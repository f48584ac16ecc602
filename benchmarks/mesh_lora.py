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
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from lorgnette import build, evaluate, fit, lora, save
from lorgnette.checkpoint import load_recipe
from lorgnette.systems import mesh
from lorgnette.systems.mesh.cases import organs_of
from lorgnette.systems.mesh.data import OrganSamples, TestOrgans
from lorgnette.systems.mesh.weights import SHIPPED
from lorgnette.train.batches import DrawnBatches
from lorgnette.train.config import TrainConfig

TARGETS = ["to_qkv", "to_out", "input_layer", "out_layer"]


def case(folder: Path) -> Path:
    """The scan and its labels under the names that are looked for."""
    source = Path(os.environ["LORGNETTE_DATA"]) / "medical" / "totalsegmentator" / "example_ct"
    for name, file in (("ct", "example_ct"), ("labels", "example_seg_fast_force_split")):
        (folder / f"{name}.nii.gz").symlink_to(source / f"{file}.nii.gz")
    return folder


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
            learnt = DrawnBatches(OrganSamples([found[name] for name in words.adapt]), 1, seed)
            rows.append(measured(recipe, parts, learnt))
            print(json.dumps({"seed": seed} | rows[-1]), flush=True)
    print(f"mean gain {statistics.fmean(row['gain'] for row in rows):.4f}")
    if words.json:
        words.json.write_text(json.dumps({"settings": {k: str(v) for k, v in vars(words).items()}, "rows": rows}))


if __name__ == "__main__":
    main()
