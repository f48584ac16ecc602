"""Lorgnette's low-rank adapters beside PEFT's: time of a training step, memory, and the work around it.

    python benchmarks/lora_vs_peft.py            # under a minute
    python benchmarks/lora_vs_peft.py --full     # every stack, rank, dtype and dropout: about half an hour
    python benchmarks/lora_vs_peft.py --stacks vit --dtypes bfloat16 --threads 0 --json table.json

Both have PEFT's default settings (float32 factors also on a bfloat16 base), the same factors, and alpha = 2 r. A step
is forward, loss and backward. The variants take turns in one process; a ratio is the median over the rounds
of t / t of PEFT in the same round, with the smallest and the largest. With one thread it is the processor's time,
otherwise the clock's. `floor` is the frozen base with a gradient for its input: less is not possible, except that
an adapted model needs no gradient for the input of its first layer. `left` is the share of PEFT's time above the
floor that remains. `kept` are the bytes kept for the backward pass (each storage once, parameters left out), which
do not depend on the machine; `peak` is what a step adds to the memory of the process (Linux) or of the device.
`again`: our blocks (`lorgnette.nn`) that make outputs of LayerNorm and GELU again instead of keeping them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from parts.chores import around
from parts.memory import kept_bytes, peak_bytes
from parts.models import with_ours, with_peft
from parts.stacks import SMALL, STACKS, Stack
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies, at import
    import peft

__all__ = ["SMALL", "Case", "kept_bytes", "variants"]

OURS, PEFT, FLOOR, AGAIN = "lorgnette", "peft", "floor", "recompute"


class Case(NamedTuple):
    """One setting that both are measured in."""

    stack: str
    dtype: str
    dropout: float
    rank: int


QUICK = [
    Case("vit", "float32", 0.0, 8),
    Case("swin", "float32", 0.0, 8),
    Case("conv", "float32", 0.0, 8),
    Case("vit", "bfloat16", 0.0, 8),
]


def variants(stack: Stack, case: Case, device: str = "cpu") -> dict[str, tuple[nn.Module, Tensor]]:
    """PEFT, Lorgnette, the frozen base, and Lorgnette with blocks that recompute, each with its input."""
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    base, x = stack.make().to(device, dtype), torch.randn(stack.shape).to(device, dtype)
    models = {
        PEFT: (with_peft(base, stack.targets, case.rank, case.dropout), x),
        OURS: (with_ours(base, stack.targets, case.rank, case.dropout), x),
        FLOOR: (base.train().requires_grad_(False), x.clone().requires_grad_()),
    }
    if any(hasattr(module, "recompute") for module in base.modules()):
        models[AGAIN] = (_recomputing(with_ours(base, stack.targets, case.rank, case.dropout)), x)
    return models


def _recomputing(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "recompute"):
            module.recompute = True  # type: ignore[assignment]
    return model


def step(model: nn.Module, x: Tensor) -> None:
    """Forward, loss, backward."""
    model(x).float().square().mean().backward()
    for parameter in model.parameters():
        parameter.grad = None
    x.grad = None


def step_times(models: dict[str, tuple[nn.Module, Tensor]], rounds: int, threads: int) -> dict[str, list[float]]:
    """Seconds of each step, the variants taking turns; the first round warms up."""
    on_cuda = next(iter(models.values()))[1].is_cuda
    clock = time.process_time if threads == 1 and not on_cuda else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, (model, x) in models.items():
            if on_cuda:
                torch.cuda.synchronize()
            start = clock()
            step(model, x)
            if on_cuda:
                torch.cuda.synchronize()
            if turn:
                times[name].append(clock() - start)
    return times


def measure(case: Case, rounds: int, threads: int, device: str) -> dict[str, Any]:
    """One row of the table of steps."""
    stack = STACKS[case.stack]()
    models = variants(stack, case, device)
    kept = {name: kept_bytes(*pair) for name, pair in models.items()}
    times = step_times(models, rounds, threads)
    peak = {name: peak_bytes(lambda pair=pair: step(*pair), pair[1].is_cuda) for name, pair in models.items()}
    ratios = {name: [t / of for t, of in zip(times[name], times[PEFT], strict=True)] for name in models}
    ours, floor, again = ratios[OURS], ratios[FLOOR], ratios.get(AGAIN)
    left = [(mine - low) / (1 - low) for mine, low in zip(ours, floor, strict=True) if low < 1]
    return {
        **case._asdict(),
        "title": stack.title,
        "threads": threads,
        "rounds": rounds,
        "seconds_peft": statistics.median(times[PEFT]),
        "time": statistics.median(ours),
        "time_range": [min(ours), max(ours)],
        "floor": statistics.median(floor),
        "left": statistics.median(left) if left else None,
        "time_recompute": statistics.median(again) if again else None,
        "kept": kept[OURS] / kept[PEFT],
        "kept_recompute": kept[AGAIN] / kept[PEFT] if again else None,
        "kept_floor": kept[FLOOR] / kept[PEFT],
        "kept_bytes_peft": kept[PEFT],
        "peak": _ratio(peak[OURS], peak[PEFT]),
        "peak_bytes_peft": peak[PEFT],
    }


def _ratio(mine: int | None, other: int | None) -> float | None:
    return mine / other if mine is not None and other else None


def show_step(row: dict[str, Any]) -> str:
    """One line of the table of steps."""
    low, high = row["time_range"]
    left, peak, again = (_two_digits(row[name]) for name in ("left", "peak", "time_recompute"))
    kept_again = "-" if row["kept_recompute"] is None else f"{row['kept_recompute']:.3f}"
    return (
        f"| {row['stack']} | {row['dtype']} | {row['dropout']:g} | {row['rank']} "
        f"| **{row['time']:.2f}** ({low:.2f} to {high:.2f}) | {row['floor']:.2f} | {left} | **{row['kept']:.3f}** "
        f"| {row['kept_floor']:.3f} | {peak} | {again} | {kept_again} | {row['seconds_peft'] * 1e3:.0f} ms |"
    )


def _two_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every stack, dtype, dropout and rank")
    parser.add_argument("--stacks", nargs="+", choices=list(STACKS), help="of the full grid, these alone")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], help="of the full grid, these alone")
    parser.add_argument("--dropouts", nargs="+", type=float, help="instead of 0 and 0.1")
    parser.add_argument("--ranks", nargs="+", type=int, help="instead of 4, 16 and 64")
    parser.add_argument("--rounds", type=int, help="alternations after the warm-up; 3, and 5 of the grid")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; 0 is all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps-only", action="store_true", help="without import, injection, saving, loading")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the same figures for machines")
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    threads = torch.get_num_threads()
    chosen = args.full or args.stacks or args.dtypes or args.dropouts or args.ranks
    cases = [
        Case(stack, dtype, dropout, rank)
        for stack in args.stacks or STACKS
        for dtype in args.dtypes or ("float32", "bfloat16")
        for dropout in args.dropouts or (0.0, 0.1)
        for rank in args.ranks or (4, 16, 64)
    ]
    rounds = args.rounds or (5 if chosen else 3)
    print(f"torch {torch.__version__}, peft {peft.__version__}, {args.device}, threads: {threads}, rounds: {rounds}")
    for name in dict.fromkeys(case.stack for case in cases):
        print(f"{name}: {STACKS[name]().title}")
    print("\nA training step; PEFT = 1.\n")
    titles = "stack, dtype, dropout, rank, time, floor, left, kept, floor, peak, time again, kept again, PEFT"
    print(f"| {titles.replace(', ', ' | ')} |")
    print("|" + "---|" * 13)
    steps = []
    for case in cases if chosen else QUICK:
        steps.append(measure(case, rounds, threads, args.device))
        print(show_step(steps[-1]), flush=True)
    once = []
    if not args.steps_only:
        print("\nAround it.\n\n| | | time / PEFT's | ours | PEFT |\n|---|---|---|---|---|")
        for row in around(min(rounds, 3)):
            once.append(row)
            low, high = row["ratio_range"]
            print(
                f"| {row['what']} | {row['case']} | **{row['ratio']:.2f}** ({low:.2f} to {high:.2f}) "
                f"| {row['seconds'] * 1e3:.0f} ms | {row['seconds_peft'] * 1e3:.0f} ms |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps({"steps": steps, "around": once}, indent=2))


if __name__ == "__main__":
    main()
