"""Every way to aggregate beside training in one place, on the same budget: accuracy by round, error, bytes.

    python benchmarks/federated_schemes.py --out runs/schemes       # goes on where it was stopped

Handwritten digits (scikit-learn) and the shipped CLIP, dealt to 8 clients by a Dirichlet draw of 0.3 for each label.
Fixed beforehand and equal for all: 20 rounds of 10 steps of 16 pictures at each client, rank 8, learning rate 3e-3 with
a cosine over the rounds, as in `clip_adapt.py`. `centralised` sees as many pictures: as many steps as one client
takes, the batches of all clients in one. A quarter is held out, another one for each seed; scores are those of the
last round.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lorgnette import build, evaluate, fit
from lorgnette.common.files import read_json, write_json
from lorgnette.federate.aggregation.schemes import SCHEMES
from lorgnette.federate.run import federate
from lorgnette.federate.settings import FederateConfig
from lorgnette.systems import clip
from lorgnette.train.config import TrainConfig

CENTRALISED = "centralised"


def one(scheme: str, seed: int, rounds: int, steps: int, clients: int, folder: Path) -> dict[str, Any]:
    """A run: accuracy after each round (`centralised`: at the end), aggregation errors, bytes."""
    train = TrainConfig(steps=rounds * steps, batch_size=16, lr=3e-3, seed=seed, device="cpu", warmup_steps=0)
    recipe = clip.Recipe(data=clip.Data(preset="digits"), train=train)
    if scheme == CENTRALISED:
        train = replace(train, batch_size=16 * clients)
        batches, test = clip.loaders(recipe.data, train)
        task = build(replace(recipe, train=train))
        fit(task, batches, train)
        return {"accuracy": [evaluate(task, test)["accuracy"]]}
    config = FederateConfig(
        clients=clients,
        rounds=rounds,
        local_steps=steps,
        scheme=scheme,  # type: ignore[arg-type]
        split="dirichlet",
        concentration=0.3,
        min_size=8,
        seed=seed,
    )
    federate(recipe, config, folder, clip.loaders(recipe.data, train))
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    done = [line for line in lines if line.get("counted")]
    return {
        "accuracy": [line["metrics"]["accuracy"] for line in done],
        "error": [line["aggregation_error"] for line in done],
        "up": sum(line["bytes_up"] for line in done) / len(done) / clients,
        "down": sum(line["bytes_down"] for line in done) / len(done) / clients,
    }


def table(found: dict[str, list[dict[str, Any]]], rounds: int) -> str:
    """Mean and standard deviation over the seeds."""
    marks = sorted({min(2, rounds), min(5, rounds), min(10, rounds), rounds})
    head = [f"round {mark}" for mark in marks] + ["gap", "error, round 1", f"round {rounds}", "kB up", "kB down"]
    lines = ["| scheme | " + " | ".join(head) + " |", "|" + "---|" * (len(head) + 1)]
    best = [run["accuracy"][-1] for run in found.get(CENTRALISED, [])]
    for name, runs in found.items():
        if name == CENTRALISED:
            cells = ["-"] * (len(marks) - 1) + [_spread(best), *["-"] * 5]
        else:
            cells = [_spread([run["accuracy"][mark - 1] for run in runs]) for mark in marks]
            gaps = [a - run["accuracy"][-1] for a, run in zip(best, runs, strict=False)]
            cells.append(_spread([100 * gap for gap in gaps], 1) if gaps else "-")
            cells += [f"{100 * statistics.mean(run['error'][at] for run in runs):.1f} %" for at in (0, -1)]
            cells += [f"{statistics.mean(run[way] for run in runs) / 1000:.0f}" for way in ("up", "down")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int = 3) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/schemes"), help="folder of the runs")
    parser.add_argument("--schemes", nargs="+", choices=[CENTRALISED, *SCHEMES], default=[CENTRALISED, *SCHEMES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--local-steps", type=int, default=10)
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in args.schemes}
    for seed in args.seeds:
        for name in args.schemes:
            folder = args.out / f"{name}-{args.clients}-{args.rounds}-{args.local_steps}-{seed}"
            result = folder / "result.json"
            if not result.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                write_json(result, one(name, seed, args.rounds, args.local_steps, args.clients, folder))
            found[name].append(read_json(result))
            print(f"seed {seed}  {name:12} {found[name][-1]['accuracy'][-1]:.3f}", flush=True)
    print("\n" + table(found, args.rounds))


if __name__ == "__main__":
    main()
