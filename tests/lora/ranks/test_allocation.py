"""A budget is met, goes where it helps, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.lora.ranks.test_resizing import IMAGE, Mixed, adapted
from torch import nn

from lorgnette import lora


def squares(model, batch):
    return model(batch).square().mean()


def units(model):
    return {n: (a.lora_A.numel() + a.lora_B.numel()) // a.r for n, a in lora.adapted_layers(model).items()}


@settings(max_examples=25, deadline=None)
@given(budget=st.integers(230, 1500), seed=st.integers(0, 9))
def test_the_budget_is_met_to_within_the_cheapest_rank(budget, seed):
    model = adapted(2, seed)
    cost = units(model)
    budget = max(budget, sum(cost.values()))
    found = lora.allocate(model, [IMAGE], squares, budget=budget)
    found.apply(model)
    assert lora.count_parameters(model).lora == found.parameters <= budget
    most = {}
    for name, layer in lora.adapted_layers(model).items():
        A, B = (layer.lora_A, layer.lora_B) if "lora_" in name else (layer.lora_A.flatten(1), layer.lora_B.flatten(1))
        most[name] = min(A.shape[-1], B.shape[-2])
        assert 1 <= layer.r <= most[name]
    growing = [cost[row.name] for row in found.rows if row.new < most[row.name]]
    assert not growing or budget - found.parameters < min(growing)


def test_it_is_repeatable_and_leaves_the_model_alone():
    model = adapted(3, lora_dropout=0.3).train()
    before = copy.deepcopy(model.state_dict())
    asked = {name: p.requires_grad for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    first = lora.allocate(model, [IMAGE, IMAGE + 1], squares, mean_rank=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == asked
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert lora.allocate(model, [IMAGE, IMAGE + 1], squares, mean_rank=3) == first
    assert first.budget == 3 * sum(units(model).values())
    assert f"{first.parameters:,} parameters of {first.budget:,}" in str(first)


def test_the_pattern_gives_a_fresh_model_the_same_ranks():
    model = adapted(3)
    found = lora.allocate(model, [IMAGE], squares, mean_rank=3)
    assert len(set(found.ranks.values())) > 1
    again = adapted(3, rank_pattern=found.rank_pattern)
    assert {name: layer.r for name, layer in lora.adapted_layers(again).items()} == found.ranks


def test_the_gain_is_that_of_the_weights_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4))
    x = torch.randn(7, 5)
    squares(model, x).backward()
    values = torch.linalg.svdvals(model[0].weight.grad).square()
    lora.inject_lora(model, target_modules=["0"], rank=2)
    row = lora.allocate(model, [x], squares, mean_rank=2).rows[0]
    assert row.gain == pytest.approx(float(values[:2].sum() / values.sum()), rel=1e-5)


class Branches(nn.Module):
    """Three layers beside each other, of which the second reaches the output most."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.05 * self.layers[0](x) + self.layers[1](x) + 0.05 * self.layers[2](x)


def test_the_budget_goes_where_it_helps():
    """The second layer has to change, by rank 7: with the same parameters it comes closer than even ranks do."""
    torch.manual_seed(0)
    base, x = Branches(), torch.randn(256, 16)
    wanted = copy.deepcopy(base)
    with torch.no_grad():
        wanted.layers[1].weight += torch.randn(16, 7) @ torch.randn(7, 16) * 0.3
        y = wanted(x)

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    def trained(allocated: bool):
        torch.manual_seed(1)
        model = lora.inject_lora(copy.deepcopy(base), target_modules="all-linear", rank=3, alpha=3)
        if allocated:
            found = lora.allocate(model, [(x, y)], loss, mean_rank=3)
            assert list(found.ranks.values()) == [1, 7, 1]
            found.apply(model)
        optimiser = torch.optim.Adam(lora.get_lora_params(model), 0.02)
        for _ in range(150):
            optimiser.zero_grad()
            value = loss(model, (x, y))
            value.backward()
            optimiser.step()
        return float(value.detach())

    even, spread = trained(False), trained(True)
    assert spread < 0.5 * even, (spread, even)


def test_layers_of_one_weight_share_their_rank_and_count_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    lora.inject_lora(model, target_modules="all-linear", rank=2)
    found = lora.allocate(model, [torch.randn(3, 4)], squares, budget=40)
    assert found.ranks["0"] == found.ranks["1"]
    found.apply(model)
    assert model[0].lora_A is model[1].lora_A
    assert lora.count_parameters(model).lora == found.parameters == 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"^allocate: give either budget, in parameters, or mean_rank$"),
        ({"budget": 99, "mean_rank": 2}, r"^allocate: give either budget"),
        ({"budget": 7}, r"^allocate: budget 7 is too small: rank 1 everywhere takes \d+ parameters$"),
        ({"mean_rank": float("nan")}, r"^allocate: mean_rank nan is not a number$"),
        ({"mean_rank": 2, "batches": []}, r"^allocate: there is no batch$"),
        (
            {"mean_rank": 2, "loss": lambda m, b: m(b).sum() * torch.inf},
            r"^allocate: the loss of batch 0 is -?inf$",
        ),
        ({"mean_rank": 2, "loss": lambda m, b: torch.tensor(1.0)}, r"^allocate: the loss does not depend"),
    ],
)
def test_what_does_not_work_is_named(settings, message):
    model = adapted(2)
    batches, loss = settings.pop("batches", [IMAGE]), settings.pop("loss", squares)
    with pytest.raises(ValueError, match=message):
        lora.allocate(model, batches, loss, **settings)
    assert not any(p.requires_grad for name, p in model.named_parameters() if "lora_" not in name)
    with pytest.raises(ValueError, match=r"^allocate: Mixed has no adapter"):
        lora.allocate(Mixed(), [IMAGE], squares, mean_rank=2)
    pissa = lora.inject_lora(
        nn.Sequential(nn.Linear(4, 4)), lora.LoRAConfig(r=2, target_modules=["0"], init_lora_weights="pissa")
    )
    with pytest.raises(ValueError, match=r"^allocate: '0' has lora.init_lora_weights 'pissa'"):
        lora.allocate(pissa, [IMAGE], squares, mean_rank=2)


def test_a_layer_that_is_scaled_more_gets_more():
    """What is scaled learns faster: the gain of a rank goes with the square of the factor."""

    def ranks(alphas):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        config = lora.LoRAConfig(r=2, target_modules=["0", "1"], alpha_pattern=alphas)
        lora.inject_lora(model, config)
        return lora.allocate(
            model, [torch.randn(8, 6, generator=torch.Generator().manual_seed(1))], squares, mean_rank=3
        )

    first, second = ranks({"0": 200, "1": 2}).ranks, ranks({"0": 2, "1": 200}).ranks
    assert first["0"] > first["1"]
    assert second["1"] > second["0"]


def test_the_seed_decides_what_a_random_loss_draws():
    model = adapted(3)

    def noisy(net, batch):
        y = net(batch)
        return (y * torch.randn(y.shape)).sum()

    def gains(seed):
        return [row.gain for row in lora.allocate(model, [IMAGE], noisy, mean_rank=2, seed=seed).rows]

    torch.manual_seed(1)
    first = gains(0)
    torch.manual_seed(2)
    assert gains(0) == first
    assert gains(1) != first
