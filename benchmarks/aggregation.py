"""FlexLoRA's aggregation by a QR core, beside the dense SVD it replaces; and what a whole round costs a server.

    python benchmarks/aggregation.py

Both make the same of the same updates: the weighted mean of K products B A, cut to the rank it had. The dense way
forms the mean and decomposes it (torch.linalg.svd in float32, as PEFT's `add_weighted_adapter` and FederatedScope do);
ours decomposes the core between two QR decompositions (float64). They take turns in one process on one thread; a time
is that of the processor, a ratio the median over the rounds of theirs by ours in the same round, with the smallest and
the largest. The distance is between the two results, as a share of their norm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lorgnette.federate.aggregation.adapter_state import AdapterState
from lorgnette.federate.aggregation.aggregate import ClientUpdate, Global, aggregate
from lorgnette.federate.aggregation.factors import Product, total, truncated
from lorgnette.federate.aggregation.schemes import SCHEMES
from lorgnette.federate.wire.codec import Schema, decode, encode, flatten


class Case(NamedTuple):
    """A layer of this size, in this many clients, of this rank."""

    out: int
    wide: int
    clients: int
    rank: int


CASES = [Case(3072, 768, 10, 16), Case(768, 768, 10, 16), Case(3072, 768, 4, 16), Case(3072, 768, 30, 16)]
VIT_B32 = [(768, 768)] * 3 + [(3072, 768), (768, 3072)]


def products(case: Case) -> tuple[list[Product], list[float]]:
    """Random factors, and how much each client counts."""
    generator = torch.Generator().manual_seed(0)
    made = [
        Product(
            torch.randn(case.rank, case.wide, generator=generator) / case.wide**0.5,
            torch.randn(case.out, case.rank, generator=generator),
        )
        for _ in range(case.clients)
    ]
    counts = torch.rand(case.clients, generator=generator) + 0.1
    return made, (counts / counts.sum()).tolist()


def dense(parts: list[Product], weights: list[float], rank: int) -> Tensor:
    """The mean itself, decomposed."""
    mean = torch.stack([weight * (p.B @ p.A) for p, weight in zip(parts, weights, strict=True)]).sum(0)
    U, S, Vh = torch.linalg.svd(mean, full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]


def core(parts: list[Product], weights: list[float], rank: int) -> Product:
    return truncated(total(parts, weights), rank)


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(case: Case, rounds: int) -> dict[str, object]:
    """Both ways in turn."""
    parts, weights = products(case)
    theirs, ours = dense(parts, weights, case.rank), core(parts, weights, case.rank).dense()
    distance = float((theirs - ours).norm() / theirs.norm())
    times: dict[str, list[float]] = {"dense": [], "core": []}
    for _ in range(rounds):
        times["dense"].append(seconds(lambda: dense(parts, weights, case.rank)))
        times["core"].append(seconds(lambda: core(parts, weights, case.rank)))
    ratios = [a / b for a, b in zip(times["dense"], times["core"], strict=True)]
    return {
        "case": f"{case.out} x {case.wide}, {case.clients} clients, rank {case.rank}",
        "dense": statistics.median(times["dense"]),
        "core": statistics.median(times["core"]),
        "ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "distance": distance,
    }


def vit_b32(seed: int, rank: int = 16) -> AdapterState:
    """An adapter of q, k, v, fc1, fc2 in the vision tower of CLIP ViT-B/32."""
    generator = torch.Generator().manual_seed(seed)
    return AdapterState(
        {
            f"layers.{layer}.{number}": Product(
                torch.randn(rank, wide, generator=generator), torch.randn(out, rank, generator=generator)
            )
            for layer in range(12)
            for number, (out, wide) in enumerate(VIT_B32)
        }
    )


def whole_rounds(clients: int = 10) -> list[dict[str, object]]:
    """What a server computes in one round of ViT-B/32 at rank 16, the aggregation error included."""
    states = [vit_b32(seed) for seed in range(clients)]
    rows = []
    for name, scheme in SCHEMES.items():
        shared = states[0].factors if scheme.trains(1) == "B" else {}  # then A is everyone's
        updates = [
            ClientUpdate(
                f"client {i}",
                i + 1.0,
                AdapterState({n: Product(shared.get(n, p).A, p.B) for n, p in state.factors.items()}),
            )
            for i, state in enumerate(states)
        ]
        result = aggregate(name, Global(states[0]), updates)
        spent = seconds(lambda name=name, updates=updates: aggregate(name, Global(states[0]), updates))
        travels = scheme.trains(1)
        rows.append({"scheme": name, "seconds": spent, "error": result.error, "travels": travels})
    return rows


def messages() -> list[dict[str, object]]:
    """Bytes of an update at rank 16, and the time to make and to check one."""
    rows = []
    for scheme, travels in (("all but ffa and alternating", "AB"), ("ffa, alternating", "B")):
        state = vit_b32(0)
        schema, tensors = Schema.of(state, travels), flatten(state, travels)
        for precision in ("fp32", "fp16", "bf16", "int8"):
            data = encode({}, tensors, schema, precision)
            rows.append(
                {
                    "schemes": scheme,
                    "precision": precision,
                    "bytes": len(data),
                    "encode": seconds(lambda p=precision, s=schema, t=tensors: encode({}, t, s, p)),
                    "decode": seconds(lambda d=data, p=precision, s=schema: decode(d, s, p)),
                }
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="the same figures for machines")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, rounds: {args.rounds}")
    print("\n| layer | dense SVD | QR core | quicker by | distance |\n|---|---|---|---|---|")
    found: dict[str, list[dict[str, object]]] = {"core": [], "rounds": [], "messages": []}
    for case in CASES:
        row = measure(case, args.rounds)
        found["core"].append(row)
        low, high = row["range"]  # type: ignore[misc]
        times = f"{row['dense'] * 1e3:.0f} ms | {row['core'] * 1e3:.1f} ms"  # type: ignore[operator]
        print(
            f"| {row['case']} | {times} | **{row['ratio']:.0f}x** ({low:.0f} to {high:.0f}) | {row['distance']:.1e} |"
        )
    print("\n| scheme | a round of ViT-B/32, 10 clients, rank 16 | aggregation error |\n|---|---|---|")
    for row in whole_rounds():
        found["rounds"].append(row)
        print(f"| {row['scheme']} | {row['seconds']:.2f} s | {row['error']:.1e} |")
    print("\n| schemes | precision | bytes of an update | made in | checked in |\n|---|---|---|---|---|")
    for row in messages():
        found["messages"].append(row)
        times = f"{row['encode'] * 1e3:.0f} ms | {row['decode'] * 1e3:.0f} ms"  # type: ignore[operator]
        print(f"| {row['schemes']} | {row['precision']} | {row['bytes']:,} | {times} |")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
