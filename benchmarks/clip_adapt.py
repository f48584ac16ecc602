"""What adapters gain where pictures differ from those that a CLIP learnt from: several seeds, fixed steps.

    python benchmarks/clip_adapt.py                       # handwritten digits, seeds 0 1 2
    python benchmarks/clip_adapt.py --preset shapes

The shipped CLIP learnt from printed digits and filled shapes. Rows: as it is (zero-shot by its prompts), its head
trained alone, adapters with the head, the whole network. The held-out quarter, another one for each seed, is looked
at once, at the end. Drift is what is gained or lost of the accuracy, by prompts, on drawings such as the shipped CLIP
learnt from.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lorgnette import build, evaluate, fit, lora
from lorgnette.systems import clip
from lorgnette.train.config import TrainConfig

FIGURES = ("accuracy", "nll", "ece", "drift")
RATES = {"head alone": 1e-2, "adapters, r 8": 3e-3, "adapters, r 16": 3e-3, "whole network": 1e-3}


class Drift:
    """By how much a network's accuracy on the base's own drawings differs from the base's."""

    def __init__(self, recipe: clip.Recipe):
        self.recipe = replace(recipe, data=clip.Data(preset="glyphs"))
        self.test = clip.loaders(self.recipe.data, TrainConfig())[1]
        self.before = self._accuracy(build(replace(self.recipe, lora=None)))

    def _accuracy(self, task: Any) -> float:
        return evaluate(task, self.test)["accuracy"]

    def __call__(self, task: Any) -> float:
        other = build(replace(self.recipe, lora=task.recipe.lora))
        own = {name for name in other.model.state_dict() if name.startswith("head.")}  # of its classes, by prompts
        found = {name: tensor for name, tensor in task.model.state_dict().items() if not name.startswith("head.")}
        missing, unexpected = other.model.load_state_dict(found, strict=False)
        assert set(missing) == own, missing
        assert not unexpected, unexpected
        return self._accuracy(other) - self.before


def run(preset: str, seed: int, steps: int) -> dict[str, dict[str, float]]:
    """One seed: row -> figures."""
    config = TrainConfig(steps=steps, batch_size=32, seed=seed, device="cpu")
    recipe = clip.Recipe(data=clip.Data(preset=preset), train=config)  # type: ignore[arg-type]
    batches, test = clip.loaders(recipe.data, config)
    drift = Drift(recipe)
    rows = {"zero-shot": evaluate(build(replace(recipe, lora=None)), test) | {"drift": 0.0}}
    for name, rate in RATES.items():
        rank = int(name.partition(" r ")[2] or 0)
        config_lora = replace(recipe.lora, r=rank, lora_alpha=2 * rank) if rank and recipe.lora else None
        task: Any = build(replace(recipe, lora=config_lora))
        if name == "head alone":
            task.model.requires_grad_(False)
            task.model.head.requires_grad_(True)
        fit(task, batches, replace(config, lr=rate))
        trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
        rows[name] = evaluate(task, test) | {"trained": trained, "lora": lora.count_parameters(task.model).lora}
        rows[name]["drift"] = drift(task)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("digits", "shapes"), default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path, metavar="FILE", help="the same figures for machines")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for seed in args.seeds:
        found.append(run(args.preset, seed, args.steps))
        print(
            f"seed {seed}: " + ", ".join(f"{name} {row['accuracy']:.3f}" for name, row in found[-1].items()), flush=True
        )
    print(
        f"\n| {args.preset}, {args.steps} steps | trained | {' | '.join(FIGURES)} |\n|---|---{'|---' * len(FIGURES)}|"
    )
    for name in found[0]:
        cells = [f"{int(found[0][name].get('trained', 0)):,}"]
        for figure in FIGURES:
            values = [rows[name][figure] for rows in found]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    if args.json:
        args.json.write_text(json.dumps({"preset": args.preset, "steps": args.steps, "seeds": found}, indent=2))


if __name__ == "__main__":
    main()
