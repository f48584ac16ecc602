"""Adapters at another strength."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lorgnette.common.identity import lasting_identity
from lorgnette.lora import LoRAConfig, at_strength, inject_lora


def model(**settings: bool) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    x = torch.randn(3, 6)
    base = net(x)
    inject_lora(net, LoRAConfig(r=2, lora_alpha=4, target_modules=["1"], **settings))
    for name, p in net.named_parameters():
        if name.endswith("lora_B"):
            nn.init.normal_(p)
    return net, x, base


@pytest.mark.parametrize("rslora", [False, True])
def test_what_is_added_counts_as_often_as_asked(rslora: bool):
    net, x, base = model(use_rslora=rslora)
    full = net(x)
    for strength in (0.25, 1.0, 1.5):
        with at_strength(net, strength):
            torch.testing.assert_close(net(x), base + strength * (full - base))
    assert torch.equal(net(x), full)


def test_zero_is_the_base_bit_for_bit_and_an_error_leaves_all_as_it_was():
    net, x, base = model()
    full = net(x)
    with at_strength(net, 0):
        assert torch.equal(net(x), base)
    with pytest.raises(RuntimeError, match="shapes"), at_strength(net, 0.5):
        net(x[:, :2])
    assert torch.equal(net(x), full)


@pytest.mark.parametrize("strength", [0, 0.5, 1])
def test_a_model_is_known_as_the_one_it_was(strength: float):
    net, x, _ = model()
    before = lasting_identity(net)
    with at_strength(net, strength):
        net(x)
    assert lasting_identity(net) == before


def test_a_model_without_adapters_stays_as_it_is():
    net = nn.Linear(2, 2)
    x = torch.randn(1, 2)
    with at_strength(net, 0.5):
        assert torch.equal(net(x), nn.functional.linear(x, net.weight, net.bias))
