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
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from memory import kept_bytes, peak_bytes
from stacks import LINEARS, SMALL, STACKS, Stack, vit
from torch import Tensor, nn

from lorgnette.lora import LoRAConfig, fingerprint, inject_lora, load_adapter, save_adapter

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies, at import
    import peft

__all__ = ["SMALL", "Case", "kept_bytes", "variants"]

IMPORTS = ("from lorgnette.lora import inject_lora", "from peft import get_peft_model")
OURS, PEFT, FLOOR = "lorgnette", "peft", "floor"


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


def with_peft(base: nn.Module, targets: list[str], rank: int, dropout: float) -> nn.Module:
    """A copy of the base with PEFT's adapters, otherwise at its defaults."""
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=targets)
    return _shaken(peft.get_peft_model(copy.deepcopy(base), config))  # type: ignore[arg-type]


def with_ours(base: nn.Module, targets: list[str], rank: int, dropout: float) -> nn.Module:
    """A copy of the base with Lorgnette's adapters."""
    config = LoRAConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=targets)
    return _shaken(inject_lora(copy.deepcopy(base), config))


def _shaken(model: nn.Module) -> nn.Module:
    """Random second factors, the same for both."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            values = torch.randn(parameter.shape, generator=generator) * 0.02
            parameter.data.copy_(values.view(parameter.shape))
    return model.train()


def variants(stack: Stack, case: Case, device: str = "cpu") -> dict[str, tuple[nn.Module, Tensor]]:
    """PEFT, Lorgnette and the frozen base, each with its input."""
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    base, x = stack.make().to(device, dtype), torch.randn(stack.shape).to(device, dtype)
    return {
        PEFT: (with_peft(base, stack.targets, case.rank, case.dropout), x),
        OURS: (with_ours(base, stack.targets, case.rank, case.dropout), x),
        FLOOR: (base.train().requires_grad_(False), x.clone().requires_grad_()),
    }


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
    ours, floor = ([t / of for t, of in zip(times[name], times[PEFT], strict=True)] for name in (OURS, FLOOR))
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
        "kept": kept[OURS] / kept[PEFT],
        "kept_floor": kept[FLOOR] / kept[PEFT],
        "kept_bytes_peft": kept[PEFT],
        "peak": _ratio(peak[OURS], peak[PEFT]),
        "peak_bytes_peft": peak[PEFT],
    }


def _ratio(mine: int | None, other: int | None) -> float | None:
    return mine / other if mine is not None and other else None


def small_layers(count: int, width: int = 32) -> nn.Module:
    """A model of many small layers, named 0.0, 1.0, ..."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(count)))


def around(rounds: int) -> Iterator[dict[str, Any]]:
    """What happens once a run: import, injection, saving, loading. Rows of the second table."""
    code = "import time, torch; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
    imports = {name: _python(code.format(name)) for name in IMPORTS}
    yield _row("import, after torch", "", *([imports[name]] for name in IMPORTS))

    blocks = vit(depth=12, width=192)
    many = [("48 layers of a ViT", blocks.make(), LINEARS), ("400 layers", small_layers(400), r"\d+\.0")]
    for title, base, targets in many:
        ours = LoRAConfig(r=8, target_modules=targets)
        theirs = peft.LoraConfig(r=8, target_modules=targets)
        yield _alternate(
            "injection",
            title,
            rounds,
            lambda base=base: copy.deepcopy(base),
            lambda model, ours=ours: inject_lora(model, ours),
            lambda model, theirs=theirs: peft.get_peft_model(model, theirs),
        )

    base = vit(depth=12, width=384).make()
    known = fingerprint(base)
    mine, theirs = with_ours(base, LINEARS, 8, 0.0), with_peft(base, LINEARS, 8, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder, "ours"), Path(folder, "peft")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")

            def fresh() -> nn.Module:
                return copy.deepcopy(base)

            def no_model() -> None:
                return None

            def load_theirs(model: nn.Module) -> Any:
                return peft.PeftModel.from_pretrained(model, str(there))

            def save_theirs(_: None) -> Any:
                return theirs.save_pretrained(str(there))  # type: ignore[operator]

            title = "ViT-S, rank 8, 2.4 MB"
            told, hashed = f"{title}, base known by its fingerprint", f"{title}, base hashed each time"
            for name, fingerprints in ((told, known), (hashed, None)):
                yield _alternate(
                    "save",
                    name,
                    rounds,
                    no_model,
                    lambda _, f=fingerprints: save_adapter(mine, here, base=f),
                    save_theirs,
                )
                yield _alternate(
                    "load", name, rounds, fresh, lambda m, f=fingerprints: load_adapter(m, here, base=f), load_theirs
                )


def _alternate(
    what: str,
    title: str,
    rounds: int,
    prepare: Callable[[], Any],
    ours: Callable[[Any], Any],
    theirs: Callable[[Any], Any],
) -> dict[str, Any]:
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for action, seconds in zip((ours, theirs), times, strict=True):
            subject = prepare()
            gc.collect()
            start = time.perf_counter()
            action(subject)
            if turn:
                seconds.append(time.perf_counter() - start)
    return _row(what, title, *times)


def _row(what: str, title: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "what": what,
        "case": title,
        "seconds": statistics.median(ours),
        "seconds_peft": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def _python(code: str) -> float:
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return float(result.stdout)


def show_step(row: dict[str, Any]) -> str:
    """One line of the table of steps."""
    low, high = row["time_range"]
    left = "-" if row["left"] is None else f"{row['left']:.2f}"
    peak = "-" if row["peak"] is None else f"{row['peak']:.2f}"
    return (
        f"| {row['stack']} | {row['dtype']} | {row['dropout']:g} | {row['rank']} "
        f"| **{row['time']:.2f}** ({low:.2f} to {high:.2f}) | {row['floor']:.2f} | {left} | **{row['kept']:.3f}** "
        f"| {row['kept_floor']:.3f} | {peak} | {row['seconds_peft'] * 1e3:.0f} ms |"
    )


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
    print("| stack | dtype | dropout | rank | time | floor | left | kept | floor | peak | PEFT takes |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
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
