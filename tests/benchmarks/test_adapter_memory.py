"""What adapters keep in memory for the backward pass, beside PEFT: figures that do not depend on the machine."""

from __future__ import annotations

import warnings

import pytest
from tests.benchmarks.scripts import imported

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies, at import
    pytest.importorskip("peft")

RANKS = (4, 16, 64)
LIMITS = {
    "vit": {
        ("float32", 0.0): (1.0, 1.0, 1.0),
        ("bfloat16", 0.0): (0.66, 0.66, 0.66),
        ("float32", 0.1): (0.69, 0.69, 0.69),
        ("bfloat16", 0.1): (0.44, 0.44, 0.44),
    },
    "swin": {
        ("float32", 0.0): (1.0, 0.98, 0.90),
        ("bfloat16", 0.0): (0.66, 0.66, 0.58),
        ("float32", 0.1): (0.69, 0.69, 0.63),
        ("bfloat16", 0.1): (0.44, 0.44, 0.40),
    },
    "conv": {
        ("float32", 0.0): (0.95, 0.81, 0.51),
        ("bfloat16", 0.0): (0.41, 0.42, 0.45),
        ("float32", 0.1): (0.52, 0.56, 0.67),
        ("bfloat16", 0.1): (0.30, 0.32, 0.37),
    },
}
"""Of each stack of layers, dtype and dropout, for each rank: a share of what PEFT keeps."""


@pytest.fixture(scope="module")
def bench():
    return imported("lora_vs_peft")


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("setting", LIMITS["vit"], ids=str)
@pytest.mark.parametrize("stack", LIMITS)
def test_no_more_is_kept_than_promised(bench, stack, setting, rank):
    models = bench.variants(bench.SMALL[stack](), bench.Case(stack, *setting, rank))
    kept = {name: bench.kept_bytes(*pair) for name, pair in models.items()}
    assert kept["lorgnette"] <= LIMITS[stack][setting][RANKS.index(rank)] * kept["peft"]
    assert kept["floor"] <= kept["lorgnette"]


RECOMPUTING = {
    ("own-vit", "float32", 0.0): 0.65,
    ("own-vit", "bfloat16", 0.0): 0.43,
    ("own-vit", "float32", 0.1): 0.44,
    ("own-vit", "bfloat16", 0.1): 0.28,
    ("own-swin", "float32", 0.0): 0.68,
    ("own-swin", "bfloat16", 0.0): 0.47,
    ("own-swin", "float32", 0.1): 0.49,
    ("own-swin", "bfloat16", 0.1): 0.32,
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
