"""Other ranks: larger bit for bit, smaller as close as can be."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from lorgnette import lora
from lorgnette.nn.ss2d import SS2D


class Mixed(nn.Module):
    """A layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6)
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.up = nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.qkv = nn.Linear(6, 18)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.scan = SS2D(6, 2, expand=1.0)
        self.head = nn.Linear(6, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.up(self.depthwise(self.conv(image)))
        x = self.scan(x.permute(0, 2, 3, 1)).flatten(1, 2) + self.words(torch.arange(x[0, 0].numel()) % 7)
        x = x + self.qkv(x).chunk(3, -1)[1]
        return self.head(x + self.attention(x, x, x)[0])


def adapted(r: int = 3, seed: int = 0, **settings: object) -> Mixed:
    torch.manual_seed(seed)
    config = {
        "r": r,
        "lora_alpha": 6,
        "target_modules": ["words", "conv", "depthwise", "up", "qkv", "attention", "head"],
        "target_parameters": ["x_proj_weight"],
        "slices": {"qkv": ["k"]},
    }
    model = lora.inject_lora(Mixed().eval(), lora.LoRAConfig(**(config | settings)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


IMAGE = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(1))


@settings(max_examples=30, deadline=None)
@given(old=st.integers(1, 5), more=st.integers(1, 9), seed=st.integers(0, 50), rslora=st.booleans())
def test_a_larger_rank_changes_nothing(old, more, seed, rslora):
    model = adapted(old, seed, use_rslora=rslora)
    scaling = {name: layer.scaling for name, layer in lora.adapted_layers(model).items()}
    before = model(IMAGE)
    report = lora.resize(model, old + more)
    # products of another size may add up in another order: rounding is all that may differ
    assert (model(IMAGE) - before).norm() <= 1e-5 * before.norm()
    assert {(row.old, row.new, row.error) for row in report.rows} == {(old, old + more, 0.0)}
    for name, layer in lora.adapted_layers(model).items():
        assert layer.r == old + more
        assert layer.scaling == pytest.approx(scaling[name], rel=1e-12)
    assert lora.verify(model, IMAGE).ok  # and what is new can learn


def test_the_update_itself_keeps_every_bit():
    """In float64, whose rounding is far below that of the weights it is added to."""
    model = adapted(3).double()
    before = {name: site.adapter.merged_into(site.weight).float() for name, site in _sites(model).items()}
    lora.resize(model, 8)
    for name, site in _sites(model).items():
        assert torch.equal(site.adapter.merged_into(site.weight).float(), before[name]), name


@pytest.mark.parametrize("rslora", [False, True])
def test_a_smaller_rank_is_the_best_of_its_size_and_says_what_it_lost(rslora: bool):
    model = adapted(5, use_rslora=rslora)
    old = {name: site.adapter.merged_into(site.weight * 0) for name, site in _sites(model).items()}
    report = lora.resize(model, 2)
    rows = {row.name: row for row in report.rows}
    for name, site in _sites(model).items():
        new = site.adapter.merged_into(site.weight * 0)
        error = float((new - old[name]).norm() / old[name].norm())
        assert error == pytest.approx(rows[name].error, abs=1e-4)
        stack = old[name] if "x_proj" in name else old[name].flatten(1)[None]
        if "lora_k" in name:
            stack = old[name][6:12][None]
        lost = sum(float(S[2:].square().sum()) for S in map(torch.linalg.svdvals, stack))
        assert rows[name].error == pytest.approx((lost / float(old[name].square().sum())) ** 0.5, abs=1e-4)
    assert report.error == max(row.error for row in report.rows)
    assert "5 -> 2" in str(report)


def _sites(model):
    from lorgnette.lora.layers.parameter import sites

    return sites(model)


def test_nothing_is_lost_down_to_the_rank_that_an_update_has():
    model = adapted(2)
    before = model(IMAGE)
    lora.resize(model, 6)
    report = lora.resize(model, 2)
    assert report.error < 1e-6
    torch.testing.assert_close(model(IMAGE), before, rtol=1e-5, atol=1e-5)


def test_ranks_by_name_and_all_that_comes_after(tmp_path):
    model = adapted(3)
    lora.resize(model, {"conv": 1, "attention.lora_in_proj": 5, "head": 3})
    ranks = {name: layer.r for name, layer in lora.adapted_layers(model).items()}
    assert (ranks["conv"], ranks["attention.lora_in_proj"], ranks["head"], ranks["up"]) == (1, 5, 3, 3)
    wanted = model(IMAGE)
    folder = lora.save_adapter(model, tmp_path)
    torch.manual_seed(0)
    again = Mixed().eval()
    lora.load_adapter(again, folder)
    assert torch.equal(again(IMAGE), wanted)
    merged = lora.merge_lora_weights(copy.deepcopy(model))
    torch.testing.assert_close(merged(IMAGE), wanted, rtol=1e-5, atol=1e-5)


def test_layers_of_one_weight_stay_together():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    lora.inject_lora(model, target_modules="all-linear", rank=2)
    nn.init.normal_(model[0].lora_B)
    lora.resize(model, 5)
    assert model[0].lora_A is model[1].lora_A
    assert model[1].r == 5
    assert model[1].scaling == model[0].scaling


def test_dora_keeps_its_lengths():
    model = adapted(2, use_dora=True, target_parameters=None, slices={}, target_modules=["conv", "head", "up"])
    before = model(IMAGE)
    lora.resize(model, 4)
    torch.testing.assert_close(model(IMAGE), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (0, r"^resize: rank 0 of 'words' is not a whole number of at least 1"),
        ({"haed": 2}, r"^resize: there is no adapter 'haed' \(did you mean 'head'"),
    ],
)
def test_what_does_not_work_is_named_and_nothing_changes(rank, message):
    model = adapted(2)
    with pytest.raises(ValueError, match=message):
        lora.resize(model, rank)
    assert all(layer.r == 2 for layer in lora.adapted_layers(model).values())
    start = lora.inject_lora(
        nn.Sequential(nn.Linear(4, 4)),
        lora.LoRAConfig(r=2, target_modules=["0"], init_lora_weights="pissa"),
    )
    with pytest.raises(ValueError, match=r"^resize: '0' of rank 2 keeps the factors that it started from"):
        lora.resize(start, 3)
    with pytest.raises(ValueError, match=r"^resize: Linear has no adapter"):
        lora.resize(nn.Linear(2, 2), 3)
