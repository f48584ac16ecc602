"""Attention in windows of sparse voxels, beside one attention of all voxels under an N x N mask.

    python benchmarks/mesh_attention.py --json mesh_attention.json

Both ways take turns in one process on one thread, without gradients, with the weights of one layer (256 channels, 4
heads, windows of 8, shifted). The voxels are those of a spherical shell two to three voxels thick in a grid of 64 or
less. Times are medians; memory is how far the process's peak (VmHWM) rises above what it holds before the call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.systems.mesh.model import WindowedAttention
from lorgnette.systems.mesh.structure import Structure

SIDE, SHIFT = 8, 4


def shell(count: int) -> Structure:
    """About a sphere: the `count` voxels that lie nearest to its surface."""
    radius = (count / 30) ** 0.5
    axis = torch.arange(64)
    grid = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), axis, axis, axis)
    away = ((grid[:, 1:] - 31.5).double().norm(dim=1) - radius).abs()
    return Structure(grid[away.argsort()[:count].sort().values])


def with_mask(attention: WindowedAttention, x: Tensor, structure: Structure) -> Tensor:
    """What the original program does where it has no kernels for packed sequences."""
    window = structure.coords.clone()
    window[:, 1:] = (window[:, 1:] + SHIFT) // SIDE
    number = torch.unique(window, dim=0, return_inverse=True)[1]
    mask = number[:, None] == number
    q, k, v = attention.to_qkv(x).unflatten(-1, (3, attention.heads, -1)).permute(1, 2, 0, 3)[:, None]
    return attention.to_out(F.scaled_dot_product_attention(q, k, v, mask)[0].transpose(0, 1).flatten(1))


def seconds(call: Callable[[], object]) -> float:
    before = time.process_time()
    call()
    return time.process_time() - before


def peak_megabytes(call: Callable[[], object]) -> float:
    """By how much the process grows at most. Linux only."""

    def status(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    call()
    return status("VmHWM") - before


@torch.no_grad()
def measured(count: int, rounds: int, channels: int = 256, heads: int = 4) -> dict[str, float]:
    """Seconds and megabytes of both ways, and how far their results are apart."""
    torch.manual_seed(0)
    structure = shell(count)
    attention = WindowedAttention(channels, heads, SIDE, SHIFT, qk_rms_norm=False)
    x = torch.randn(count, channels)
    ways = {
        "windows": lambda: attention(x, structure),
        "mask": lambda: with_mask(attention, x, structure),
    }
    found: dict[str, float] = {"voxels": count}
    if sys.platform == "linux":  # before anything else, so that no freed memory lies ready
        found |= {f"{name} MB": peak_megabytes(call) for name, call in ways.items()}
        found["times less memory"] = found["mask MB"] / found["windows MB"]
    found["largest difference"] = float((ways["windows"]() - ways["mask"]()).abs().max())
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            times[name].append(seconds(call))
    found |= {f"{name} s": statistics.median(own) for name, own in times.items()}
    found["times as fast"] = found["mask s"] / found["windows s"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(count, words.rounds) for count in words.voxels]
    for row in rows:
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()))
    if words.json:
        words.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
