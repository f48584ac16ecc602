"""What adapters keep in memory for the backward pass, beside PEFT: figures that do not depend on the machine."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies, at import
    pytest.importorskip("peft")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

LIMITS = {("float32", 0.0): 1.0, ("bfloat16", 0.0): 0.66, ("float32", 0.1): 0.70, ("bfloat16", 0.1): 0.45}


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("lora_vs_peft")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("rank", [4, 16, 64])
@pytest.mark.parametrize("setting", LIMITS, ids=str)
@pytest.mark.parametrize("stack", ["vit", "swin", "conv"])
def test_no_more_is_kept_than_promised(bench, stack, setting, rank):
    models = bench.variants(bench.SMALL[stack](), bench.Case(stack, *setting, rank))
    kept = {name: bench.kept_bytes(*pair) for name, pair in models.items()}
    assert kept["lorgnette"] <= LIMITS[setting] * kept["peft"]
    assert kept["floor"] <= kept["lorgnette"]


RECOMPUTING = {
    ("own-vit", "float32", 0.0): 0.65,
    ("own-vit", "bfloat16", 0.0): 0.45,
    ("own-vit", "float32", 0.1): 0.45,
    ("own-vit", "bfloat16", 0.1): 0.30,
    ("own-swin", "float32", 0.0): 0.75,
    ("own-swin", "bfloat16", 0.0): 0.52,
    ("own-swin", "float32", 0.1): 0.53,
    ("own-swin", "bfloat16", 0.1): 0.35,
}


@pytest.mark.parametrize("rank", [4, 8])
@pytest.mark.parametrize("setting", RECOMPUTING, ids=str)
def test_blocks_that_recompute_keep_no_more_than_promised(bench, setting, rank):
    models = bench.variants(bench.SMALL[setting[0]](), bench.Case(*setting, rank))
    kept = {name: bench.kept_bytes(*pair) for name, pair in models.items()}
    assert kept["recompute"] <= RECOMPUTING[setting] * kept["peft"]


def test_the_measure_counts_each_storage_once_and_no_parameter(bench):
    torch = bench.torch
    layer = torch.nn.Linear(4, 4, bias=False)
    x = torch.randn(3, 4, requires_grad=True)
    assert bench.kept_bytes(layer, x) == x.nbytes
    assert bench.kept_bytes(torch.nn.Sequential(layer, layer), x) == 2 * x.nbytes
