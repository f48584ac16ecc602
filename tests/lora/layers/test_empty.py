"""Batches of no samples, as detectors have where nothing was proposed: adapted layers take them as PyTorch's own do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lorgnette.lora import (
    LoRAConfig,
    add_adapter,
    get_lora_params,
    inject_lora,
    merge_lora_weights,
    per_sample,
    watch_gates,
)
from lorgnette.lora.layers.tables import LAYERS, METHODS

LAYERS_AND_INPUTS = {
    "linear": (lambda: nn.Linear(4, 6), (0, 4)),
    "linear, no tokens": (lambda: nn.Linear(4, 6), (2, 0, 4)),
    "embedding": (lambda: nn.Embedding(5, 6), None),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (0, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), (0, 4, 6, 6)),
    "conv2d 1x1": (lambda: nn.Conv2d(4, 6, 1), (0, 4, 6, 6)),
    "conv2d same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), (0, 4, 6, 6)),
    "conv2d reflecting": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (0, 4, 6, 6)),
    "conv2d grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (0, 4, 6, 6)),
    "conv2d stride": (lambda: nn.Conv2d(4, 6, 3, stride=2, dilation=2), (0, 4, 9, 9)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 1), (0, 4, 2, 2, 2)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 2), (0, 4, 5)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(4, 6, 2, 2), (0, 4, 4, 4)),
    "transposed 2d grouped": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), (0, 4, 4, 4)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 6, 1), (0, 4, 2, 2, 2)),
    "slices": (lambda: nn.Linear(4, 6), (0, 4)),
}


def test_the_table_has_every_type_of_layer():
    assert {type(make()) for make, _ in LAYERS_AND_INPUTS.values()} == set(LAYERS)


def empty(shape: tuple[int, ...] | None, dtype: torch.dtype) -> Tensor:
    return torch.zeros(0, 3, dtype=torch.long) if shape is None else torch.zeros(shape, dtype=dtype, requires_grad=True)


def accepts(layer: nn.Module, x: Tensor) -> bool:
    try:
        layer(x)
    except RuntimeError:  # not on this processor
        return False
    return True


@pytest.mark.parametrize(
    ("method", "dtype"),
    [*((method, torch.float32) for method in METHODS), ("lora", torch.bfloat16), ("lora", torch.float16)],
    ids=str,
)
@pytest.mark.parametrize("kind", LAYERS_AND_INPUTS)
def test_forward_backward_and_twice_and_merged(kind, method, dtype):
    make, shape = LAYERS_AND_INPUTS[kind]
    layer, x = make().to(dtype), empty(shape, dtype)
    slices = {"0": ["q"]} if kind == "slices" else {}
    config = LoRAConfig(r=2, target_modules=["0"], slices=slices, lora_dropout=0.1, method=method)
    if not accepts(layer, x):
        pytest.skip("the layer itself takes none")
    wanted = layer(x)
    if not METHODS[method].merges and kind in ("embedding", "slices"):
        pytest.skip("cannot have it")
    model = inject_lora(nn.Sequential(layer), config)
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            y = model(x)
        assert y.shape == wanted.shape
        assert y.dtype == wanted.dtype
        y = model(x)
        parameters = [p for p in get_lora_params(model) if p.requires_grad]
        wrt = parameters if shape is None else [x, *parameters]
        first = torch.autograd.grad(y.square().sum(), wrt, create_graph=True, allow_unused=True)
        assert all(grad is None or not grad.any() for grad in first)
        total = sum(grad.sum() for grad in first if grad is not None)
        if shape is not None and isinstance(total, Tensor) and total.requires_grad:
            torch.autograd.grad(total, wrt, allow_unused=True)
        with torch.autocast("cpu", torch.bfloat16):
            assert model(x).shape == wanted.shape
    if METHODS[method].merges:
        assert merge_lora_weights(model)(x).shape == wanted.shape


def test_attentions_of_no_samples():
    x = torch.zeros(0, 3, 4)
    model = inject_lora(
        nn.Sequential(nn.TransformerEncoderLayer(4, 2, 4, batch_first=True)), target_modules=r".*attn|.*linear."
    )
    for training in (True, False):
        y = model.train(training)(x)
        assert y.shape == (0, 3, 4)
        y.sum().backward()


def test_mixed_adapters_and_gates_of_no_samples():
    model = inject_lora(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2)), target_modules=["0", "2"])
    add_adapter(model, "other", LoRAConfig(target_modules=["0"]))
    with per_sample(model.eval(), []):
        assert model(torch.zeros(0, 3, 6, 6)).shape == (0, 2)
    gated = inject_lora(nn.Sequential(nn.Linear(3, 3)), LoRAConfig(r=2, target_modules=["0"], dynamic_rank=True))
    with watch_gates(gated) as seen:
        gated(torch.zeros(0, 3))
    assert seen.ranks()["0"].mean == 0
