"""What each adapter makes of samples of all kinds: PSNR of all, as lines of JSON, and a table.

    python tools/judge/measure.py superres PICTURES OUT.jsonl
    python tools/judge/measure.py superres PICTURES OUT.jsonl --adapters photo=FOLDER screen=FOLDER
    python tools/judge/measure.py superres PICTURES OUT.jsonl --peers --draws 3
    python tools/judge/measure.py restore PICTURES OUT.jsonl --shrunk --side 96 --kinds clean camera

Adapters are those that ship, or those named. Beside them are the base and, first, what needs no network: bicubic, or
the picture as it is. Of those that ship it also says which one is chosen by looking. With --peers, what people use
instead is measured too (`src/lorgnette/peers/`), as far as it is installed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import stdev
from typing import Any

import torch
from samples import batches, sample
from torch import Tensor

from lorgnette.checkpoint import load
from lorgnette.images.folders import find_images
from lorgnette.images.patches import channels_first
from lorgnette.images.resize import imresize
from lorgnette.shipped import Chooser, load_shipped
from lorgnette.systems import room


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", choices=("superres", "restore"))
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--adapters", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--peers", nargs="*", metavar="NAME", help="all, or those named")
    parser.add_argument("--side", type=int, default=240, help="of the truth; a multiple of 12")
    parser.add_argument("--shrunk", action="store_true", help="pictures are made as small as the side allows first")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="those named, of `samples.kinds`; unset: all")
    parser.add_argument("--limit", type=int, default=200, help="pictures")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    o = parser.parse_args()
    tasks: dict[str, Any] = {"base": load_shipped(o.room)}
    if o.adapters is None:
        tasks |= {name: load_shipped(o.room, name) for name in room(o.room).ABOUT.shipped}
    else:
        tasks |= {word.partition("=")[0]: load(word.partition("=")[2]) for word in o.adapters}
    chooser = Chooser(o.room, "cpu") if o.adapters is None else None
    others = {} if o.peers is None else peers(o.room, o.peers)
    lines = []
    tasks = {name: task.to(o.device).eval() for name, task in tasks.items()}
    scaled = o.room == "superres"
    pictures = sorted(find_images(o.pictures))[: o.limit]
    jobs = list(batches(pictures, scaled, range(o.draws), o.side, o.batch, o.shrunk, o.kinds))
    with ProcessPoolExecutor(o.workers) as pool, open(o.out, "w") as out:
        for made in pool.map(samples_of, jobs):
            lq, gt = (torch.stack([channels_first(x[k]) for x in made]).to(o.device) for k in (4, 5))
            found, theirs = {"none": scores(nothing(lq, gt), gt, lq)}, {}
            with torch.no_grad():
                for name, task in tasks.items():
                    found[name] = scores(task.predict({"lq": lq, "gt": gt}), gt, lq)
            for name, peer in others.items():
                results = torch.stack([channels_first(peer(x.lq, x.scale)) for x in made]).to(o.device)
                theirs[name] = scores(results, gt, lq)
            for i, one in enumerate(made):
                line: dict[str, Any] = {
                    "kind": one.kind,
                    "picture": one.picture,
                    "draw": one.draw,
                    "scale": one.scale,
                    "side": o.side,
                    "shrunk": o.shrunk,
                }
                line["scores"] = {name: values[i] for name, values in found.items()}
                if theirs:
                    line["peers"] = {name: values[i] for name, values in theirs.items()}
                if chooser is not None:
                    line["chosen"] = chooser.choose(one.lq, one.scale).network or "none"
                print(json.dumps(line), file=out, flush=True)
                lines.append(line)
    table(lines)


def table(lines: list[Any]) -> None:
    """Means by kind: what needs no network, and what each brings over it; the best for each picture; the chosen.

    The spread is that of the means of the draws.
    """
    names = list(lines[0]["scores"])
    theirs = list(lines[0].get("peers", {}))
    print("| kind |", " | ".join([*names, *theirs, "best for each", "chosen", "right to 0.1 dB"]), "|")
    print("|---|" + "---|" * (len(names) + len(theirs) + 3))
    for kind in dict.fromkeys(line["kind"] for line in lines):
        these = [line for line in lines if line["kind"] == kind]
        all_scores = [{name: min(value, 60) for name, value in line["scores"].items()} for line in these]
        means = [sum(scores[name] for scores in all_scores) / len(these) for name in names]
        best = sum(max(scores.values()) for scores in all_scores) / len(these) - means[0]
        cells = [f"{means[0]:.2f}", *(f"{mean - means[0]:+.2f}" for mean in means[1:])]
        cells += [f"{sum(line['peers'][peer] for line in these) / len(these) - means[0]:+.2f}" for peer in theirs]
        cells.append(f"{best:+.2f}")
        if "chosen" in these[0]:
            draws: dict[int, list[float]] = {}
            for line, scores in zip(these, all_scores, strict=True):
                draws.setdefault(line["draw"], []).append(scores[line["chosen"]] - scores["none"])
            gains = [sum(draw) / len(draw) for draw in draws.values()]
            got = [scores[line["chosen"]] for line, scores in zip(these, all_scores, strict=True)]
            right = [score >= max(scores.values()) - 0.1 for score, scores in zip(got, all_scores, strict=True)]
            spread = f" ± {stdev(gains):.2f}" if len(gains) > 1 else ""
            cells += [f"{sum(gains) / len(gains):+.2f}{spread}", f"{sum(right) / len(right):.0%}"]
        print(f"| {kind} |", " | ".join(cells), "|")


def peers(room: str, names: list[str]) -> dict[str, Callable[[Any, float], Any]]:
    """What people use instead, by name: picture, factor -> picture."""
    from lorgnette.peers.enlarging import enlargers
    from lorgnette.peers.installed import chosen
    from lorgnette.peers.restoring import restorers

    found = enlargers() if room == "superres" else {n: lambda x, _, f=f: f(x) for n, f in restorers().items()}
    return chosen(found, names)


def samples_of(jobs: list[Any]) -> list[Any]:
    return [sample(*job) for job in jobs]


def nothing(lq: Tensor, gt: Tensor) -> Tensor:
    """What needs no network."""
    return lq if lq.shape == gt.shape else imresize(lq, size=gt.shape[-2:])


def scores(result: Tensor, gt: Tensor, lq: Tensor) -> list[float]:
    """PSNR in RGB, on 8-bit levels, without a frame as wide as the scale."""
    shave = math.ceil(gt.shape[-1] / lq.shape[-1]) if gt.shape != lq.shape else 0
    cut = slice(shave, -shave or None)
    a, b = ((x.clamp(0, 1) * 255).round()[..., cut, cut] / 255 for x in (result, gt))
    errors = (a - b).double().square().flatten(1).mean(1).clamp(min=1e-10)
    return [round(x, 4) for x in (-10 * errors.log10()).tolist()]


if __name__ == "__main__":
    main()
