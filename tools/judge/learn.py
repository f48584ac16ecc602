"""Learn from measured samples which adapter a picture wants, for `lorgnette.images.choosing`.

    python tools/judge/learn.py superres PICTURES src/lorgnette/systems/superres/adapters/judge.safetensors OUT.jsonl

PICTURES is the folder that `measure.py` was given, OUT.jsonl (or several) what it wrote. With --whole each picture is
also looked at whole, with the same damage: what networks gain on a part of it is taken to hold for all of it, and the
judge learns how pictures look that are no crops. One picture of five is kept apart first, to say how good the choice
is; then all are learnt from.
"""

from __future__ import annotations

import argparse
import itertools
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from samples import sample
from torch import Tensor, nn

from lorgnette.images.choosing import NOTHING, Judge
from lorgnette.images.looks import MEASURES, looks

NETS, HIDDEN, STEPS = 8, 32, 1200
HOW = ("draw", "side", "shrunk", "whole")  # of a row: the last arguments of `sample`, in its order
MOST = 6.0  # dB; a gain or loss counts at most so
BLUR = 0.1  # noise on the standardised measures
COUNTS = {"superres": {"clean": 3.0, "screen": 3.0}, "restore": {}}  # how often some kinds count
DOUBT = {"superres": 0.5, "restore": 1.0}
"""How much of the deviation between the nets is taken off what they expect; by five-fold trials over the pictures."""
DELTA = 3.0  # dB; larger errors count by their size, smaller ones by its square: means are learnt, not medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", choices=("superres", "restore"))
    parser.add_argument("pictures", type=Path, help="searched for the names in the lines")
    parser.add_argument("out", type=Path)
    parser.add_argument("lines", type=Path, nargs="+")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--kept", type=Path, help="where measures are kept, for another try (.npy)")
    o = parser.parse_args()
    rows = [json.loads(line) for file in o.lines for line in file.read_text().splitlines()]
    names = [NOTHING if name == "none" else name for name in rows[0]["scores"]]
    if o.whole:
        rows += [row | {"whole": True} for row in rows]
    seen = measured(rows, o.pictures, o.room == "superres", o.kept)
    scores = np.minimum([list(row["scores"].values()) for row in rows], 60).astype(np.float32)
    apart = np.array([sum(map(ord, row["picture"])) % 5 == 0 for row in rows])
    counts = np.array([COUNTS[o.room].get(row["kind"], 1.0) for row in rows], np.float32)
    learn(seen[~apart], scores[~apart], names, o.out, counts[~apart], DOUBT[o.room])
    report(
        [row for row, is_apart in zip(rows, apart, strict=True) if is_apart], scores[apart], Judge(o.out), seen[apart]
    )
    learn(seen, scores, names, o.out, counts, DOUBT[o.room])


def measured(rows: list[Any], pictures: Path, scaled: bool, kept: Path | None) -> Any:
    """Measures of each sample, and the logarithm of the scale: (N, measures + 1)."""
    if kept is None or not kept.exists():
        found = {path.name: path for path in pictures.rglob("*") if path.is_file()}
        jobs = [
            (found[r["picture"]], r["kind"], r["scale"] if scaled else None, *(r.get(k, False) for k in HOW))
            for r in rows
        ]
        with ProcessPoolExecutor(2) as pool:
            seen = np.stack(list(pool.map(_measure, jobs, chunksize=20)))
        if kept is None:
            return _with_scale(seen, rows)
        np.save(kept, seen)
    return _with_scale(np.load(kept), rows)


def _with_scale(seen: Any, rows: list[Any]) -> Any:
    return np.concatenate([seen, np.log2([[row["scale"]] for row in rows])], 1).astype(np.float32)


def _measure(job: Any) -> Any:
    return looks(sample(*job).lq)


def learn(seen: Any, scores: Any, names: list[str], out: Path, weights_of: Any, doubt: float) -> None:
    """Nets that tell from the measures what each network gains, written as `Judge` reads them."""
    mean, deviation = seen.mean(0), seen.std(0) + 0.05
    inputs = torch.from_numpy(((seen - mean) / deviation).astype(np.float32)).clamp(-4, 4)
    gains = torch.from_numpy(np.clip(scores - scores[:, :1], -MOST, MOST))
    counts = torch.from_numpy(weights_of)[:, None]
    torch.manual_seed(0)
    sizes = (inputs.shape[1], HIDDEN, HIDDEN, len(names))
    weights = [nn.Parameter(torch.randn(NETS, a, b) / a**0.5) for a, b in itertools.pairwise(sizes)]
    biases = [nn.Parameter(torch.zeros(NETS, 1, b)) for b in sizes[1:]]

    def nets(x: Tensor) -> Tensor:
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = x @ weight + bias
            x = x.tanh() if layer < len(weights) - 1 else x
        return x

    optimizer = torch.optim.AdamW([*weights, *biases], lr=4e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        found = nets(inputs + BLUR * torch.randn(NETS, *inputs.shape))
        errors = nn.functional.huber_loss(found, gains.expand_as(found), delta=DELTA, reduction="none")
        loss = (errors * counts).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    tensors = {"mean": mean, "deviation": deviation}
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        tensors |= {f"weight{layer}": weight.detach().numpy(), f"bias{layer}": bias.detach().numpy()}
    kept = {name: np.ascontiguousarray(tensor, np.float16) for name, tensor in tensors.items()}
    said = {"names": json.dumps(names), "measures": json.dumps(MEASURES), "doubt": str(doubt)}
    save_file(kept, out, metadata=said)


def report(rows: list[Any], scores: Any, judge: Judge, seen: Any) -> None:
    """On pictures that the nets have not seen: what was chosen, and what that is worth."""
    names, chosen = judge.names, judge.chosen(seen)
    print(f"{'kind':<16} {'best':>7} {'chosen':>7} {'<= 0.1 dB':>9} {'worst':>7}  choices")
    right = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        these = np.array([row["kind"] == kind for row in rows])
        of, picked = scores[these], chosen[these]
        got = of[np.arange(len(of)), picked]
        near = got >= of.max(1) - 0.1
        right.append((kind, near))
        counts = ", ".join(f"{names[k]} {n}" for k, n in zip(*np.unique(picked, return_counts=True), strict=True))
        gains = (of.max(1) - of[:, 0]).mean(), (got - of[:, 0]).mean(), near.mean(), (got - of[:, 0]).min()
        print(f"{kind:<16} {gains[0]:+7.2f} {gains[1]:+7.2f} {gains[2]:9.0%} {gains[3]:+7.2f}  {counts}")
    print(f"right or within 0.1 dB: {np.concatenate([near for _, near in right]).mean():.1%}")


if __name__ == "__main__":
    main()
