"""The kernels for CUDA, in Triton's interpreter: right anywhere; how quick they are, only a GPU tells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA wheels, or alone by pip")
SOURCE = Path(__file__).parents[2] / "src"

CHECK = """
import sys
import torch
from lorgnette.nn.selective_scan.reference import reference_scan
from lorgnette.nn.selective_scan.triton_scan import triton_scan

device = sys.argv[1]
for batch, (h, w), d, n, order, seed in [
    (2, (2, 3), 20, 3, (0, 1, 2, 3), 0),
    (1, (5, 7), 16, 4, (3, 1), 1),
    (1, (1, 1), 5, 1, (2,), 2),
    (1, (3, 4), 3, 17, (1,), 3),
]:
    g = torch.Generator().manual_seed(seed)
    k, length = len(order), h * w
    shapes = [(batch, length, d), (batch, length, k, d), (k, d, n), *[(batch, length, k, n)] * 2, (k, d), (k, d)]
    tensors = [torch.randn(shape, generator=g) for shape in shapes]
    tensors[2] = -tensors[2].exp()
    results = []
    for scan, dtype, place in ((reference_scan, torch.float64, "cpu"), (triton_scan, torch.float32, device)):
        leaves = [x.to(place, dtype).requires_grad_() for x in tensors]
        y = scan(*leaves, (h, w), order)
        weights = torch.arange(y.numel(), dtype=dtype, device=place).view(y.shape).cos()
        (y * weights).sum().backward()
        results.append([y.detach(), *(x.grad for x in leaves)])
    for name, mine, exact in zip("y u dt A B C D bias".split(), results[1], results[0]):
        worst = (mine.cpu().double() - exact).abs().max() / exact.abs().max().clamp(min=1e-3)
        assert worst < 1e-5, (name, order, float(worst))
low = triton_scan(*[x.bfloat16() if x.ndim != 2 else x for x in (t.to(device) for t in tensors)], (h, w), order)
assert low.dtype == torch.bfloat16
print("equal")
"""


def run(device: str, **env: str) -> None:
    path = os.pathsep.join([str(SOURCE), *sys.path])
    settings = os.environ | {"PYTHONPATH": path} | env
    done = subprocess.run([sys.executable, "-c", CHECK, device], env=settings, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr[-2000:]


def test_kernels_give_the_formula_and_its_gradients_in_the_interpreter():
    run("cpu", TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_give_the_formula_and_its_gradients_on_a_gpu():
    run("cuda")
