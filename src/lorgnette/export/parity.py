"""Whether an exported file answers as the network does: in numbers, in the room's own scores, and in time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lorgnette.systems.protocol import Program

UNSEEN = 5  # sizes that are compared beside the one it was exported by
REPEATS = 5
TOLERANCE = 1e-4
"""Largest difference that is taken for rounding, as a share of the largest output."""


@torch.no_grad()
def differences(program: Program, run: Callable[..., Tensor]) -> dict[str, float]:
    """Sizes of the inputs -> the largest difference between outputs, as a share of the largest output (1 at least)."""
    found: dict[str, float] = {}
    for number in range(1, 1 + UNSEEN):
        inputs = program.example(number)
        wanted, got = program.module(*inputs), run(*inputs)
        if got.shape != wanted.shape:
            raise ValueError(
                f"the exported program gives {tuple(got.shape)} where the network gives {tuple(wanted.shape)}"
            )
        label = ", ".join(
            f"{name} {'x'.join(map(str, x.shape))}" for name, x in zip(program.inputs, inputs, strict=True)
        )
        apart = float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1))
        found[label] = max(found.get(label, 0.0), apart if apart == apart else float("inf"))
    return found


@torch.no_grad()
def time_ratio(program: Program, run: Callable[..., Tensor], unit: Callable[..., Tensor] | None = None) -> float:
    """Time of the exported program in units of PyTorch's (or of `unit`), on the largest example, in turns."""
    inputs = max((program.example(number) for number in range(1 + UNSEEN)), key=lambda xs: sum(x.numel() for x in xs))
    ways: dict[str, Callable[..., Any]] = {"unit": unit or program.module, "exported": run}
    for way in ways.values():
        way(*inputs)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            start = time.perf_counter()
            way(*inputs)
            taken[name].append(time.perf_counter() - start)
    return statistics.median(taken["exported"]) / statistics.median(taken["unit"])
