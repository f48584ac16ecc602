"""What the parts of a super-resolution network are worth: small networks trained here, with one part left out each.

    python benchmarks/superres_parts.py parts --data.root BSDS500/train T91 --test Set5/HR Set14/HR --steps 1500
    python benchmarks/superres_parts.py encoders --data.root BSDS500/train T91 --test Set5/HR Set14/HR --minutes 8
    python benchmarks/superres_parts.py attention

`parts`: LM-CiaoSR on a small EDSR, whole; without attention across scales; without modulation (all latent pixels share
one render network); without position (a point does not know where in its latent pixel it lies). As many steps each, on
the same batches. `encoders`: EDSR, RDN and SwinIR with about as many parameters each under LM-LTE, for as much
processor time each. `attention`: the memory of LM-CiaoSR's attention across scales beside that of a map of all places.
Scores are PSNR on luma, whole images. Nothing is chosen by the test images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from parts.memory import peak_bytes
from torch import Tensor
from tqdm import tqdm

from lorgnette.common.text import table
from lorgnette.systems.superres import LMLTE, Data, LMCiaoSR, SuperResolution, evaluation, loaders
from lorgnette.systems.superres.encoders import EDSR, RDN, SwinIR
from lorgnette.train.config import TrainConfig
from lorgnette.train.loop import fit

SCALES = (2.0, 3.0, 4.0)
HOLDOUT = 0.02  # training needs one; nothing is chosen by it, as the last weights are taken


class Unmodulated(LMCiaoSR):
    """The hypernetwork only makes what the render network sees; its layers are the same for all latent pixels."""

    def _render(self, own: Tensor, rel: Tensor, cell: Tensor) -> Tensor:
        scale, shift, feat = own.split(self.splits, dim=-1)
        return super()._render(torch.cat([scale * 0, shift * 0, feat], dim=-1), rel, cell)


class Unplaced(LMCiaoSR):
    """A point does not know where in its latent pixel it lies."""

    def _render(self, own: Tensor, rel: Tensor, cell: Tensor) -> Tensor:
        return super()._render(own, torch.zeros_like(rel), cell)


def small_edsr(blocks: int = 8) -> Any:
    return EDSR(n_resblocks=blocks, n_feats=32, res_scale=1.0)


SMALL: dict[str, Any] = {"hidden_dim": 64, "hyper_dim": 96}
PARTS: dict[str, Callable[[], LMCiaoSR]] = {
    "whole": lambda: LMCiaoSR(small_edsr(), **SMALL),
    "without attention across scales": lambda: LMCiaoSR(small_edsr(), non_local_attn=False, **SMALL),
    "without modulation": lambda: Unmodulated(small_edsr(), **SMALL),
    "without position": lambda: Unplaced(small_edsr(), **SMALL),
}
ENCODERS: dict[str, Callable[[], LMLTE]] = {  # 0.36 to 0.37 million parameters each, decoder included
    "EDSR": lambda: LMLTE(small_edsr(9)),
    "RDN": lambda: LMLTE(RDN(blocks=4, convs=4, growth=16, n_feats=32)),
    "SwinIR": lambda: LMLTE(SwinIR(embed_dim=36, depths=(3, 3, 3), num_heads=6, num_feat=32)),
}


def settings(options: argparse.Namespace, seed: int, **more: Any) -> tuple[Data, TrainConfig]:
    data = Data(root=options.root, holdout=HOLDOUT, patch=32, points=1024, test_scales=(3.0,), test_crop=96)
    train = TrainConfig(batch_size=4, optimizer="adam", lr=1e-3, warmup_steps=50, clip_norm=0.5, device="cpu")
    return data, replace(train, seed=seed, **more)


def trained(network: Any, options: argparse.Namespace, seed: int, steps: int) -> SuperResolution:
    """The task after so many steps; its last weights."""
    network.start_as_bilinear()
    task = SuperResolution(network)
    data, train = settings(options, seed, steps=steps, eval_every=steps)
    batches, _ = loaders(data, train)
    fit(task, batches, train)
    return task.eval()


def made(make: Callable[[], Any], seed: int) -> Any:
    torch.manual_seed(seed)
    return make()


def step_seconds(make: Callable[[], Any], options: argparse.Namespace, steps: int = 20) -> float:
    """Processor time of a step, without the first ones."""
    spent = []
    for number in (3, 3 + steps):
        start = time.process_time()
        trained(made(make, 0), options, 0, number)
        spent.append(time.process_time() - start)
    return (spent[1] - spent[0]) / steps


def scored(task: SuperResolution, folders: Iterable[Path]) -> dict[str, float]:
    """PSNR by set and scale."""
    found = {}
    for folder in folders:
        row = evaluation({"network": task}, str(folder), SCALES)["network"]
        name = folder.parent.name if folder.name == "HR" else folder.name
        found |= {f"{name} {metric}": value for metric, value in row.items() if metric.startswith("psnr")}
    return found


@torch.no_grad()
def render_seconds(task: SuperResolution, rounds: int = 5) -> float:
    """Processor time of 96 x 96 pixels to x4, the median."""
    inp, spent = torch.rand(1, 3, 96, 96) * 2 - 1, []
    for _ in range(rounds + 1):
        start = time.process_time()
        task.model.render(inp, (384, 384))  # pyright: ignore[reportCallIssue]
        spent.append(time.process_time() - start)
    return statistics.median(spent[1:])


def compared(makers: dict[str, Callable[[], Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each network and seed, appended to the JSON file as it comes; those there are not made again."""
    kept = options.json
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []
    steps = dict.fromkeys(makers, int(options.steps))
    if options.minutes:
        steps = {
            name: max(1, round(options.minutes * 60 / step_seconds(make, options))) for name, make in makers.items()
        }
    for seed in options.seeds:
        for name, make in tqdm(makers.items(), desc=f"seed {seed}", unit="network"):
            if any(line["network"] == name and line["seed"] == seed for line in lines):
                continue
            network, start = made(make, seed), time.process_time()
            task = trained(network, options, seed, steps[name])
            line: dict[str, Any] = {"network": name, "seed": seed, "steps": steps[name]}
            line["minutes"] = (time.process_time() - start) / 60
            line["parameters"] = sum(p.numel() for p in network.parameters())
            line |= {"ms": 1000 * render_seconds(task), "scores": scored(task, options.test)}
            lines.append(line)
            if kept:
                with kept.open("a") as file:
                    print(json.dumps(line), file=file)
    return [line for line in lines if line["network"] in makers]


def shown(lines: list[dict[str, Any]]) -> str:
    """Means over the seeds; beside those of the first network, what the others differ from it and the spread."""
    names = list(dict.fromkeys(line["network"] for line in lines))
    metrics = list(lines[0]["scores"])
    rows = []
    for name in names:
        of = [line for line in lines if line["network"] == name]
        row = [name, f"{of[0]['parameters']:,}", f"{statistics.mean(x['steps'] for x in of):,.0f}"]
        row += [f"{statistics.mean(x['minutes'] for x in of):.1f}", f"{statistics.mean(x['ms'] for x in of):.0f}"]
        for metric in metrics:
            values = [x["scores"][metric] for x in of]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            row.append(f"{statistics.mean(values):.2f}{spread}")
        rows.append(row)
    return table(["network", "parameters", "steps", "minutes", "ms, 96 to x4", *metrics], rows, left=1)


@torch.no_grad()
def attention_memory() -> str:
    """By side of the features: what attention across scales adds to the memory in use, and what a map would take."""
    rows = []
    for side in (48, 96, 192):
        attention = LMCiaoSR(small_edsr(), **SMALL).cs_attn.eval()
        feat = torch.rand(1, 32, side, side)
        attention(feat)
        peak = peak_bytes(lambda a=attention, f=feat: a(f), False)
        ours = "-" if peak is None else f"{peak / 2**20:.0f} MB"
        rows.append([f"{side} x {side}", ours, f"{4 * side**2 * (side // 2) ** 2 / 2**20:,.0f} MB"])
    return table(["features", "attention in blocks", "a map of all places"], rows, left=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("parts", "encoders", "attention"))
    parser.add_argument("--data.root", dest="root", nargs="+", metavar="FOLDER", help="images to learn from")
    parser.add_argument("--test", nargs="+", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--minutes", type=float, help="of processor time for each training, instead of --steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path, help="a line for each training; those there are not done again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "attention":
        print(attention_memory())
        return
    if not options.root or not options.test:
        parser.error(f"{options.what}: needs --data.root and --test")
    print(shown(compared(PARTS if options.what == "parts" else ENCODERS, options)))


if __name__ == "__main__":
    sys.exit(main())
