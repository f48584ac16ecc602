"""The selective scan of MambaIR: upstream's loop in torch, mambapy's parallel scan, and ours.

    python benchmarks/selective_scan.py            # a minute or two
    python benchmarks/selective_scan.py --full     # larger cases, and the whole light network

All compute the scan over an image in four directions from the same numbers, and are checked against each other
first. They take turns in one process on one thread; a time is that of the processor, a ratio the median over
the rounds of the loop's time by ours in the same round, with the smallest and the largest. `extra` is what a
call adds at most to the memory of the process (Linux), its results included. The loop stacks, flips and adds up
sequences as upstream's code does before and after `selective_scan_ref` of mamba_ssm. The floor is what the
exponentials alone take: one for each pixel, direction, channel and state, by torch.exp on values in cache.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from parts.memory import peak_bytes
from torch import Tensor

from lorgnette.nn import ss2d
from lorgnette.nn.selective_scan import selective_scan
from lorgnette.systems.restore import MambaIR

try:
    from mambapy.pscan import pscan
except ImportError:
    pscan = None

Scan = Callable[..., Tensor]


class Case(NamedTuple):
    """Channels in all four directions together, state size, side of the image, and whether gradients are wanted."""

    channels: int
    n: int
    side: int
    backward: bool


QUICK = [Case(480, 16, 64, False), Case(288, 10, 64, False), Case(480, 16, 32, True)]
LARGE = [Case(1440, 16, 64, False), Case(1440, 16, 128, False), Case(480, 16, 64, True)]


def sequences(u: Tensor, dt: Tensor, B: Tensor, C: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """As upstream lays them out: (batch, K, d or N, L), each direction in its own order."""

    def along(x: Tensor, k: int) -> Tensor:
        image = x.unflatten(1, size)
        order = image.transpose(1, 2) if k % 2 else image
        return (order.flatten(1, 2).flip(1) if k >= 2 else order.flatten(1, 2)).transpose(1, 2)

    return (
        torch.stack([along(u, k) for k in range(4)], 1),
        *(torch.stack([along(x[:, :, k], k) for k in range(4)], 1) for x in (dt, B, C)),
    )


def together(y: Tensor, size: tuple[int, int]) -> Tensor:
    """The four directions at their pixels, added up: (batch, K, d, L) -> (batch, L, d)."""
    total = torch.zeros_like(y[:, 0])
    for k in range(4):
        part = y[:, k].flip(-1) if k >= 2 else y[:, k]
        total = total + (part.unflatten(-1, size[::-1]).transpose(-1, -2).flatten(-2) if k % 2 else part)
    return total.transpose(1, 2)


def loop(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor, size: tuple[int, int]):
    """L steps in Python over (batch, K d, N): decays and inputs made beforehand, B and C repeated for each channel."""
    us, dts, Bs, Cs = sequences(u, dt, B, C, size)
    d = us.shape[2]
    us, dts = us.flatten(1, 2), dts.flatten(1, 2)
    Bs, Cs = (x.repeat_interleave(d, 1) for x in (Bs, Cs))
    step = F.softplus(dts + bias.flatten()[:, None])
    decay = torch.exp(torch.einsum("bcl,cn->bcln", step, A.flatten(0, 1)))
    gain = torch.einsum("bcl,bcnl,bcl->bcln", step, Bs, us)
    state, outs = us.new_zeros(*us.shape[:2], A.shape[-1]), []
    for t in range(us.shape[-1]):
        state = decay[:, :, t] * state + gain[:, :, t]
        outs.append(torch.einsum("bcn,bcn->bc", state, Cs[..., t]))
    y = torch.stack(outs, -1) + us * D.flatten()[:, None]
    return together(y.unflatten(1, (4, d)), size)


def parallel(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor, size: tuple[int, int]):
    """The same by mambapy's scan, which wants (batch, L, channels, N)."""
    us, dts, Bs, Cs = sequences(u, dt, B, C, size)
    step = F.softplus(dts + bias[..., None])
    decay = torch.exp(torch.einsum("bkdl,kdn->blkdn", step, A)).flatten(2, 3)
    gain = torch.einsum("bkdl,bknl,bkdl->blkdn", step, Bs, us).flatten(2, 3)
    states = pscan(decay, gain).unflatten(2, A.shape[:2])  # type: ignore[misc]
    return together(torch.einsum("blkdn,bknl->bkdl", states, Cs) + us * D[..., None], size)


def ours(way: str) -> Scan:
    """One of our ways."""
    return lambda *inputs: selective_scan(*inputs, way=way)


def tensors(case: Case) -> list[Tensor]:
    """Numbers as a network has them."""
    generator = torch.Generator().manual_seed(0)
    k, d, n, length = 4, case.channels // 4, case.n, case.side**2
    shapes = [(1, length, d), (1, length, k, d), (1, length, k, n), (1, length, k, n), (k, d), (k, d)]
    u, dt, B, C, D, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    A = -torch.arange(1, n + 1, dtype=torch.float32).expand(k, d, n).contiguous()
    inputs = [u, dt, A, B, C, D, bias - 3]
    return [x.requires_grad_(case.backward) for x in inputs]


def measure(case: Case, rounds: int) -> list[dict[str, object]]:
    """Rows of the table for one case: seconds, extra bytes and ratios of each way."""
    size, inputs = (case.side, case.side), tensors(case)
    ways: dict[str, Scan] = {"loop": loop} if not (case.backward and case.side > 16) else {}
    ways |= {"mambapy": parallel} if pscan is not None else {}
    ways |= {"ours, torch": ours("blocked"), "ours, numba": ours("numba")}

    def once(name: str) -> None:
        with torch.set_grad_enabled(case.backward):
            y = ways[name](*inputs, size)
        if case.backward:
            y.square().mean().backward()

    with torch.no_grad():
        results = {name: way(*inputs, size) for name, way in ways.items()}
    last = results["ours, numba"]
    for name, result in results.items():
        assert (result - last).abs().max() <= 1e-4 * last.abs().max(), name
    extra = {name: peak_bytes(lambda name=name: once(name), False) for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name in ways:
            start = time.process_time()
            once(name)
            if turn:
                times[name].append(time.process_time() - start)
    base = "loop" if "loop" in ways else "mambapy" if "mambapy" in ways else "ours, torch"
    rows = []
    for name in ways:
        ratios = [slow / quick for slow, quick in zip(times[base], times[name], strict=True)]
        rows.append(
            {
                **case._asdict(),
                "way": name,
                "seconds": statistics.median(times[name]),
                "against": base,
                "ratio": statistics.median(ratios),
                "range": [min(ratios), max(ratios)],
                "extra_bytes": extra[name],
            }
        )
    rows.append({**case._asdict(), "way": "floor: exponentials", "seconds": exponentials(case)})
    return rows


def exponentials(case: Case) -> float:
    """Seconds that torch takes for as many exponentials, in pieces that stay in cache; the least of three."""
    count, piece = case.channels * case.n * case.side**2, torch.randn(2**15)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        for _ in range(math.ceil(count / piece.numel())):
            torch.exp(piece)
        seconds.append(time.process_time() - start)
    return min(seconds) * (2 if case.backward else 1)


def network(rounds: int) -> dict[str, object]:
    """The light x2 network on 64 x 64 pixels, with upstream's loop and with ours; and what the scan's share is."""
    model = MambaIR(
        embed_dim=60, depths=(6, 6, 6, 6), d_state=10, mlp_ratio=1.2, upscale=2, upsampler="pixelshuffledirect"
    ).eval()
    x = torch.rand(1, 3, 64, 64)
    spent = {"loop": 0.0, "numba": 0.0}
    times: dict[str, list[float]] = {"loop": [], "numba": []}

    def counted(name: str, scan: Scan) -> Scan:
        def run(*inputs: Tensor) -> Tensor:
            start = time.process_time()
            y = scan(*inputs)
            spent[name] += time.process_time() - start
            return y

        return run

    for turn in range(rounds + 1):
        for name, scan in (("loop", loop), ("numba", ours("numba"))):
            ss2d.selective_scan = counted(name, scan)
            start = time.process_time()
            with torch.no_grad():
                model(x)
            if turn:
                times[name].append(time.process_time() - start)
            else:
                spent[name] = 0.0
    ss2d.selective_scan = selective_scan
    ratios = [a / b for a, b in zip(times["loop"], times["numba"], strict=True)]
    return {
        "way": "light x2 network, 64 x 64",
        "seconds_loop": statistics.median(times["loop"]),
        "seconds": statistics.median(times["numba"]),
        "ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "scan_share": spent["numba"] / sum(times["numba"]),
    }


def show(row: dict[str, object]) -> str:
    """One line of the table."""
    ratio = "-"
    if "ratio" in row:
        low, high = row["range"]  # type: ignore[misc]
        ratio = f"**{row['ratio']:.1f}x** ({low:.1f} to {high:.1f}) {row['against']}"
    extra = row.get("extra_bytes")
    memory = "-" if extra is None else f"{extra / 1e6:.0f} MB"  # type: ignore[operator]
    kind = "forward + backward" if row["backward"] else "forward"
    length = row["side"] ** 2  # type: ignore[operator]
    return (
        f"| {row['channels']} x {row['n']} x {length} | {kind} | {row['way']} | {row['seconds'] * 1e3:.1f} ms "
        f"| {ratio} | {memory} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="larger cases as well, and the whole network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="the same figures for machines")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, rounds: {args.rounds}")
    print("\n| channels x states x pixels | | way | time | quicker than | extra |\n|---|---|---|---|---|---|")
    rows = []
    for case in QUICK + (LARGE if args.full else []):
        for row in measure(case, args.rounds):
            rows.append(row)
            print(show(row), flush=True)
    if args.full:
        row = network(min(args.rounds, 3))
        rows.append(row)
        low, high = row["range"]  # type: ignore[misc]
        print(
            f"\n{row['way']}: {row['seconds']:.2f} s, with the loop {row['seconds_loop']:.1f} s: "
            f"**{row['ratio']:.1f}x** ({low:.1f} to {high:.1f}); the scan takes {row['scan_share']:.0%} of it"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
