"""What training a CLIP costs: adapters beside the whole network, with and without gradient checkpointing.

    python benchmarks/clip_training.py            # a small CLIP, seconds
    python benchmarks/clip_training.py --full     # the shapes of ViT-B/32: minutes on one core, 4 GB

One network with random weights serves all ways: what is trained, and whether layers are computed again, is switched
between steps, which alternate. Peak memory is what one step of AdamW from nothing adds to the weights.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from parts.memory import kept_bytes, peak_bytes
from torch import nn

from lorgnette import lora
from lorgnette.systems import clip
from lorgnette.systems.clip.model import random_head
from lorgnette.systems.clip.weights import find_source

CLASSES = 10


class Way(NamedTuple):
    """One way to train."""

    name: str
    adapters: bool
    checkpointing: bool


WAYS = (
    Way("whole network", False, False),
    Way("whole network, checkpointing", False, True),
    Way("adapters", True, False),
    Way("adapters, checkpointing", True, True),
)


def make(architecture: str, size: str) -> nn.Module:
    """A CLIP of random weights with the adapters of a preset."""
    torch.manual_seed(0)
    model = clip.CLIPClassifier(find_source("none", architecture).config)
    model.head = random_head(CLASSES, model.visual_projection.out_features, 14.0)
    return lora.inject_lora(model, clip.adapter_preset(size, lora_dropout=0.0)).train()


def use(model: Any, way: Way) -> list[nn.Parameter]:
    """Switch to a way; what it trains. The text tower takes no part in a linear classifier."""
    adapters = {id(parameter) for parameter in lora.get_lora_params(model)}
    head = {id(parameter) for parameter in model.head.parameters()}
    for name, parameter in model.named_parameters():
        own = id(parameter) in adapters
        whole = not own and not name.startswith("text_")
        parameter.requires_grad_((own or id(parameter) in head) if way.adapters else whole)
        parameter.grad = None
    for layer in lora.adapted_layers(model).values():
        layer.lora_enabled = way.adapters
    model.gradient_checkpointing(way.checkpointing)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def measure(architecture: str, size: str, batch: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """A row for each way."""
    model: Any = make(architecture, size).to(device)
    side = model.image_size
    images = torch.randn(batch, 3, side, side, device=device)
    labels = torch.arange(batch, device=device) % CLASSES
    rows: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        trained = use(model, way)

        def first_step(trained: list[nn.Parameter] = trained) -> None:
            step(model, torch.optim.AdamW(trained, lr=1e-5), images, labels)

        rows[way.name] = {
            "way": way.name,
            "trained": sum(p.numel() for p in trained),
            "kept": kept_bytes(model, images),
            "peak": peak_bytes(
                lambda t=trained: step(model, torch.optim.AdamW(t, lr=1e-5), images, labels), device == "cuda"
            ),
            "times": [],
        }
    for _ in range(rounds + 1):
        for way in WAYS:
            optimizer = torch.optim.SGD(use(model, way), lr=1e-9)  # AdamW's own work is not what differs here
            gc.collect()
            start = time.perf_counter()
            step(model, optimizer, images, labels)
            if device == "cuda":
                torch.cuda.synchronize()
            rows[way.name]["times"].append(time.perf_counter() - start)
    reference = rows["whole network"]["times"]
    for row in rows.values():
        row["ratio"] = statistics.median(a / b for a, b in zip(row["times"][1:], reference[1:], strict=True))
        row["seconds"] = statistics.median(row.pop("times")[1:]) if row["way"] != "whole network" else None
    rows["whole network"]["seconds"] = statistics.median(reference[1:])
    return list(rows.values())


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Forward, backward, update; nothing is left behind."""
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def traffic() -> list[tuple[str, int, int]]:
    """(preset, weights of its adapters, of the whole ViT-B/32); counted, not made."""
    from transformers.models.clip.configuration_clip import CLIPConfig

    with torch.device("meta"):
        model = clip.CLIPClassifier(CLIPConfig(), nn.Linear(512, CLASSES))
    whole = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("head"))
    presets = {size: clip.adapter_preset(size, train_head=False) for size in ("small", "medium", "large")}
    return [(size, lora.plan(model, config).parameters, whole) for size, config in presets.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the shapes of ViT-B/32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the same figures for machines")
    args = parser.parse_args()
    torch.set_num_threads(1)
    architecture = "vit-b-32" if args.full else "small"
    print(f"torch {torch.__version__}, {args.device}, one thread, {architecture}, rank 16, batch {args.batch}\n")
    rows = measure(architecture, "medium", args.batch, args.rounds, args.device)
    print("| way | trained | kept for the backward pass | peak of a step | time of a step | of the whole network's |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        peak = "-" if row["peak"] is None else f"{row['peak'] / 1e6:,.0f} MB"
        print(
            f"| {row['way']} | {row['trained']:,} | {row['kept'] / 1e6:,.1f} MB | {peak} | {row['seconds']:.2f} s |"
            f" {row['ratio']:.2f} |"
        )
    print("\n| preset on ViT-B/32 | weights | float32 | float16 | whole CLIP | times less |\n|---|---|---|---|---|---|")
    sent = traffic()
    for size, count, whole in sent:
        print(f"| {size} | {count:,} | {4 * count:,} B | {2 * count:,} B | {4 * whole:,} B | {whole / count:.1f} |")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "traffic": sent}, indent=2))


if __name__ == "__main__":
    main()
