"""One table of what a GPU does with this package: at most eight minutes, nothing but torch and the package needed.

    python benchmarks/on_gpu.py --out on_gpu.md     # with CUDA; without it each line says "not measured"
    python benchmarks/on_gpu.py --tiny              # the whole path, on a processor too: its figures mean nothing

| lines | what is beside them |
|---|---|
| the selective scan by Triton | its floor: a copy of as many bytes as it reads and writes; and plain torch |
| a step with fused adapters | PEFT's, where it is installed, and the frozen base with a gradient for its input |
| LM-LTE, shipped weights | the same with all colours at once |
| MambaIR light, x2; the mesh decoder, 768 wide, 12 blocks | nothing |

The ways of a line take turns; times are medians of the clock between two waits for the device. `peak` is what the first
way adds at most to the device's memory. A line that cannot be measured says why, and the others are measured all the
same. Triton's scan is compared with plain torch before it is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from parts.memory import peak_bytes
from parts.stacks import SMALL, STACKS, Stack
from torch import Tensor

from lorgnette.lora import inject_lora
from lorgnette.nn.selective_scan import selective_scan
from lorgnette.shipped import load_shipped
from lorgnette.systems.mesh import SLatMeshDecoder
from lorgnette.systems.restore import MambaIR

Ways = dict[str, Callable[[], object]]
"""The first is what is measured, the others are beside it."""
HEADER = ("what", "case", "ms", "beside", "peak MB")
WARM, ROUNDS = 3, 10


class Line(NamedTuple):
    """A line of the table before it is measured."""

    what: str
    case: str
    ways: Callable[[str], Ways]
    """Makes them on a device."""


# --------------------------------------------------------------------------------------------------------- what


def scans(tiny: bool) -> Iterator[Line]:
    for channels, n, side in [(16, 4, 8)] if tiny else [(480, 16, 64), (1440, 16, 128)]:
        for backward in (False, True):
            case = f"{channels} channels, {n} states, {side} x {side}, forward{' and backward' if backward else ''}"
            yield Line("selective scan", case, partial(scan, channels=channels, n=n, side=side, backward=backward))


def scan(device: str, channels: int, n: int, side: int, backward: bool) -> Ways:
    """Triton where there is CUDA; its floor; plain torch. Refuses to be measured where results differ."""
    generator = torch.Generator().manual_seed(0)
    k, d, length = 4, channels // 4, side**2
    shapes = [(1, length, d), (1, length, k, d), (1, length, k, n), (1, length, k, n), (k, d), (k, d)]
    u, dt, B, C, D, bias = (torch.randn(shape, generator=generator).to(device) for shape in shapes)
    A = -torch.arange(1, n + 1, dtype=torch.float32, device=device).expand(k, d, n).contiguous()
    inputs = [u, dt, A, B, C, D, bias - 3]

    def run(way: str) -> Tensor:
        if not backward:
            return selective_scan(*inputs, (side, side), way=way)
        leaves = [x.detach().requires_grad_() for x in inputs]
        y = selective_scan(*leaves, (side, side), way=way)
        y.square().mean().backward()
        return leaves[1].grad  # type: ignore[return-value]

    ours = "triton" if device != "cpu" else "blocked"
    torch.testing.assert_close(run(ours), run("doubling"), rtol=1e-3, atol=1e-4)
    # Inputs and output once; with gradients the inputs twice, and a gradient of each tensor. A clone reads and writes.
    moved = sum(x.numel() for x in (u, dt, B, C, u)) * (3 if backward else 1)
    floor = torch.zeros(moved // 2, device=device)
    return {ours: lambda: run(ours), "the floor": floor.clone, "plain torch": lambda: run("blocked")}


def steps(tiny: bool) -> Iterator[Line]:
    for name in ("vit", "swin", "conv"):
        stack = (SMALL if tiny else STACKS)[name]()
        for dtype in (torch.float32, torch.bfloat16):
            case = f"{stack.title}, rank 8, {str(dtype).removeprefix('torch.')}"
            yield Line("step with adapters", case, partial(step, stack=stack, dtype=dtype))


def step(device: str, stack: Stack, dtype: torch.dtype) -> Ways:
    """Forward, loss, backward with adapters of ours, of PEFT's, and with none on a frozen base."""

    def way(model: Any, x: Tensor) -> Callable[[], object]:
        def once() -> None:
            model(x).float().square().mean().backward()
            for parameter in (*model.parameters(), x):
                parameter.grad = None

        return once

    def base() -> Any:
        torch.manual_seed(0)
        return stack.make().to(device, dtype).train()

    x = torch.randn(stack.shape).to(device, dtype)
    ours = inject_lora(base(), target_modules=stack.targets, rank=8, alpha=16)
    ways = {"fused": way(ours, x)}
    try:
        from parts.models import with_peft

        ways["PEFT"] = way(with_peft(base(), stack.targets, 8, 0.0), x)
    except ImportError:
        pass
    return ways | {"the frozen base": way(base().requires_grad_(False), x.clone().requires_grad_())}


def rendering(tiny: bool) -> Iterator[Line]:
    for side, scale in [(12, 2)] if tiny else [(256, 4), (512, 4)]:
        for dtype in (torch.float32, torch.bfloat16):
            case = f"{side} x {side} to {side * scale} x {side * scale}, {str(dtype).removeprefix('torch.')}"
            yield Line("LM-LTE", case, partial(render, side=side, scale=scale, dtype=dtype))


def render(device: str, side: int, scale: int, dtype: torch.dtype) -> Ways:
    model: Any = load_shipped("superres").model.to(device).eval()
    inp, size = torch.rand(1, 3, side, side, device=device) * 2 - 1, (side * scale, side * scale)

    @torch.no_grad()
    def run(**more: int) -> Tensor:
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
            return model.render(inp, size, **more)

    return {"as it is": run, "all colours at once": lambda: run(chunk=4 * size[0] * size[1])}


def light(tiny: bool) -> Iterator[Line]:
    side = 16 if tiny else 128
    depths = (1, 1) if tiny else (6, 6, 6, 6)
    for what in ("forward", "step, adapters of rank 8"):
        case = f"{side} x {side}, {what}"
        yield Line("MambaIR light, x2", case, partial(restored, side=side, depths=depths, train=what != "forward"))


def restored(device: str, side: int, depths: tuple[int, ...], train: bool) -> Ways:
    torch.manual_seed(0)
    light = {"embed_dim": 60, "d_state": 10, "mlp_ratio": 1.2, "upscale": 2, "upsampler": "pixelshuffledirect"}
    model = MambaIR(depths=depths, **light).to(device).train(train)
    if train:
        inject_lora(model, target_modules=["in_proj", "out_proj"], rank=8, alpha=16)
    x = torch.rand(1, 3, side, side, device=device)

    def run() -> Tensor:
        with torch.set_grad_enabled(train):
            y = model(x)
        if train:
            y.square().mean().backward()
        return y

    return {"as it is": run}


def meshes(tiny: bool) -> Iterator[Line]:
    for count in (60,) if tiny else (5_000, 20_000):
        for dtype in (torch.float32, torch.bfloat16):
            case = f"{count:,} voxels, {str(dtype).removeprefix('torch.')}"
            yield Line("mesh decoder", case, partial(decoder, count=count, dtype=dtype, tiny=tiny))


def decoder(device: str, count: int, dtype: torch.dtype, tiny: bool) -> Ways:
    """Voxels nearest to a sphere's surface."""
    size = {"model_channels": 32, "num_blocks": 2, "num_heads": 2, "num_groups": 4} if tiny else {}
    torch.manual_seed(0)
    model = SLatMeshDecoder(**size).to(device).eval()
    axis = torch.arange(64)
    grid = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), axis, axis, axis)
    away = ((grid[:, 1:] - 31.5).double().norm(dim=1) - (count / 30) ** 0.5).abs()
    coords = grid[away.argsort()[:count].sort().values].to(device)
    feats = torch.randn(count, 8, device=device)

    @torch.no_grad()
    def run() -> Tensor:
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
            return model(coords, feats)[1]

    return {"as it is": run}


PARTS = (scans, steps, rendering, light, meshes)

# -------------------------------------------------------------------------------------------------------- table


def measured(line: Line, device: str, warm: int, rounds: int) -> tuple[str, str, str]:
    """Milliseconds, how they are to those beside, and peak, of a line."""
    ways = line.ways(device)
    on_cuda = device != "cpu"

    def once(call: Callable[[], object]) -> float:
        if on_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if on_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for call in ways.values():
        for _ in range(warm):
            once(call)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            times[name].append(once(call))
    ours, *others = ways
    peak = peak_bytes(ways[ours], on_cuda)
    median = {name: statistics.median(own) for name, own in times.items()}
    beside = "; ".join(f"{median[ours] / median[name]:.2f} of {name}" for name in others)
    return f"{median[ours] * 1e3:.3g}", beside or "-", "-" if peak is None else f"{peak / 1e6:,.0f}"


def rows(device: str | None, tiny: bool, minutes: float) -> Iterator[tuple[str, ...]]:
    """The table, line by line, as it is measured."""
    end = time.monotonic() + 60 * minutes
    warm, rounds = (0, 1) if tiny else (WARM, ROUNDS)
    for part in PARTS:
        for line in part(tiny):
            why = "no CUDA device" if device is None else f"{minutes:g} minutes were over"
            if device is None or time.monotonic() > end:
                yield (line.what, line.case, "not measured", why, "-")
                continue
            try:
                yield (line.what, line.case, *measured(line, device, warm, rounds))
            except Exception as error:  # of one line: memory, a kernel, a result that differs
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                yield (line.what, line.case, "not measured", f"{type(error).__name__}: {reason}"[:120], "-")
            if device != "cpu":
                torch.cuda.empty_cache()


def title(device: str | None, tiny: bool) -> str:
    where = "no CUDA device" if device is None else "a processor" if device == "cpu" else torch.cuda.get_device_name()
    said = "; tiny sizes: the figures mean nothing" if tiny else ""
    return f"PyTorch {torch.__version__}, {where}, {time.strftime('%Y-%m-%d')}{said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes, on a processor where there is no GPU")
    parser.add_argument("--minutes", type=float, default=8, help="what is not begun by then is not measured")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the table as Markdown")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu" if options.tiny else None
    lines = [title(device, options.tiny), "", f"| {' | '.join(HEADER)} |", "|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    for row in rows(device, options.tiny, options.minutes):
        lines.append(f"| {' | '.join(row)} |")
        print(lines[-1], flush=True)
        if options.out:  # each time: what stops half-way leaves what it has
            options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
