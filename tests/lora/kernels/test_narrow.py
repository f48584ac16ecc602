"""Narrow convolutions made of other products give what PyTorch's own give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from lorgnette.lora import LoRAConfig, get_lora_params, inject_lora
from lorgnette.lora.kernels import narrow


@st.composite
def geometries(draw: st.DrawFn):
    torch.manual_seed(draw(st.integers(0, 99)))
    dims = draw(st.integers(1, 3))
    kernel = draw(st.lists(st.integers(1, 4), min_size=dims, max_size=dims))
    dilation = tuple(draw(st.integers(1, 2)) for _ in kernel)
    # A padding beyond the kernel's reach crops the gradient instead of padding it.
    padding = tuple(draw(st.integers(0, step * (k - 1) + 1)) for k, step in zip(kernel, dilation, strict=True))
    size = [draw(st.integers(step * (k - 1) + 1, 7)) for k, step in zip(kernel, dilation, strict=True)]
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    A = torch.randn(draw(st.integers(1, 3)), 3, *kernel, dtype=torch.float64)
    return x.requires_grad_(True), A.requires_grad_(True), padding, dilation


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_every_geometry(case):
    x, A, padding, dilation = case
    h = (F.conv1d, F.conv2d, F.conv3d)[A.dim() - 3](x, A, padding=padding, dilation=dilation)
    grad = torch.randn_like(h)
    dx, dA = torch.autograd.grad(h, (x, A), grad)
    torch.testing.assert_close(narrow.lower_by_rows(x, A, padding, dilation), h)
    torch.testing.assert_close(narrow.weight_grad_by_rows(grad, x, A, padding, dilation), dA)
    torch.testing.assert_close(
        narrow.weight_grad_by_taps(grad, x, A, padding, dilation).double(), dA, rtol=1e-5, atol=1e-5
    )
    before = torch.randn_like(x)
    torch.testing.assert_close(narrow.add_input_grad_by_taps(before.clone(), grad, A, padding, dilation), before + dx)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_layer_learns_the_same_whichever_way_is_taken(dtype, dropout, monkeypatch):
    torch.manual_seed(0)
    layer, x = nn.Conv2d(32, 48, 3, padding=1).to(dtype), torch.randn(4, 32, 32, 34).to(dtype)
    model = inject_lora(nn.Sequential(layer), LoRAConfig(r=4, lora_dropout=dropout, target_modules=["0"]))
    nn.init.normal_(model[0].lora_B, std=0.1)
    pays = {torch.float32: narrow.rows_pay, torch.bfloat16: narrow.taps_pay}[dtype]
    assert pays(x, model[0].lora_A, (1, 1))

    def gradients():
        torch.manual_seed(1)
        leaf = x.clone().requires_grad_(True)
        loss = (model(leaf).float() - 1).square().mean()
        return torch.autograd.grad(loss, [*get_lora_params(model), leaf])

    found = gradients()
    monkeypatch.setattr(narrow, "_WORTH_IT", 10**9)
    assert not pays(x, model[0].lora_A, (1, 1))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for mine, other in zip(found, gradients(), strict=True):
        error = (mine.float() - other.float()).norm() / other.float().norm()
        assert error < tolerance
