"""The optimiser's groups, the schedule, averaged weights."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from lorgnette import lora
from lorgnette.train.config import TrainConfig
from lorgnette.train.optim import Averaged, lr_factor, make_optimizer


def adapted(modules_to_save: list[str] | None = None) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return lora.inject_lora(model, lora.LoRAConfig(r=2, target_modules=["0"], modules_to_save=modules_to_save))


def rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    """Peak learning rate by the identity of the parameter."""
    return {id(p): group["peak_lr"] for group in optimizer.param_groups for p in group["params"]}


def test_adapters_and_trained_base_tensors_have_rates_of_their_own():
    model = adapted(["2"])
    layer, head = model[0], model[2]
    both = rates(make_optimizer(model, TrainConfig(lr=0.1, base_lr=0.01)))
    expected = {id(p): 0.1 for p in (layer.lora_A, layer.lora_B)} | {id(p): 0.01 for p in head.parameters()}
    assert both == expected
    assert set(rates(make_optimizer(model, TrainConfig(lr=0.1))).values()) == {0.1}


def test_without_adapters_everything_is_trained_at_lr():
    model = nn.Linear(2, 2)
    assert rates(make_optimizer(model, TrainConfig(lr=0.3, base_lr=0.01))) == {id(p): 0.3 for p in model.parameters()}


def test_nothing_to_train_is_refused():
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        make_optimizer(model, TrainConfig())


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_each_optimiser(name: Literal["adam", "adamw", "sgd"], kind: type):
    optimizer = make_optimizer(adapted(), TrainConfig(optimizer=name, weight_decay=0.2))
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2]
    if name == "sgd":
        assert optimizer.defaults["momentum"] == 0.9
    else:
        assert optimizer.defaults["betas"] == (0.9, 0.999)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(0, 70), st.floats(0, 1), st.sampled_from(["cosine", "constant"]))
def test_the_rate_rises_to_its_peak_and_falls_to_its_floor(total: int, warmup: int, floor: float, schedule):
    config = TrainConfig(schedule=schedule, warmup_steps=warmup, final_lr_ratio=floor)
    factors = [lr_factor(step, total, config) for step in range(total + 1)]
    rising, falling = factors[:warmup], factors[warmup:]
    assert rising == pytest.approx([(step + 1) / warmup for step in range(len(rising))])
    assert all(0 < factor <= 1 for factor in rising)
    if falling:
        assert falling[0] == 1
        assert all(a >= b for a, b in pairwise(falling))
        assert all(floor - 1e-12 <= factor <= 1 for factor in falling)
    if schedule == "constant":
        assert set(falling) <= {1.0}
    elif warmup < total:
        assert falling[-1] == pytest.approx(floor)
        middle = (total + warmup) / 2
        if middle.is_integer():
            assert factors[int(middle)] == pytest.approx((1 + floor) / 2)


def test_averages_follow_their_formula():
    value = nn.Parameter(torch.tensor([1.0, 2.0]))
    averaged = Averaged({"value": value}, 0.9)
    expected = torch.tensor([1.0, 2.0])
    for step in range(1, 200):
        with torch.no_grad():
            value.add_(1)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value.detach()
        averaged.update(step)
        torch.testing.assert_close(averaged.mean["value"], expected)
        if step == 1:  # early on the start is soon forgotten: a tenth of it would still be there
            assert averaged.mean["value"].tolist() == pytest.approx([1 + 9 / 11, 2 + 9 / 11])
    # In the end it trails by decay / (1 - decay) steps.
    assert (value.detach() - averaged.mean["value"]).tolist() == pytest.approx([9, 9], rel=1e-3)
    assert averaged.mean["value"].requires_grad is False


def test_the_average_of_half_precision_is_kept_in_float32():
    value = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    averaged = Averaged({"value": value}, 0.999)
    with torch.no_grad():
        value.fill_(2)
    for step in range(20000, 20010):
        averaged.update(step)  # each moves it by less than bfloat16 can show
    assert averaged.mean["value"].item() == pytest.approx(2 - 0.999**10, rel=1e-5)


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_swapping_in_gives_every_bit_back(error: type[Exception] | None):
    own = torch.tensor([1 / 3, -0.0, 1e-42, math.inf, 7e8])
    value = nn.Parameter(own.clone())
    averaged = Averaged({"value": value}, 0.5)
    averaged.mean["value"].fill_(4)
    try:
        with averaged.swapped_in():
            assert value.tolist() == [4] * 5
            if error:
                raise error
    except ZeroDivisionError:
        pass
    assert torch.equal(value.detach().view(torch.int32), own.view(torch.int32))
    assert averaged.mean["value"].tolist() == [4] * 5


def test_no_averaging_keeps_no_copies():
    value = nn.Parameter(torch.ones(2))
    averaged = Averaged({"value": value}, 0)
    averaged.update(1)
    assert averaged.mean == {}
    with averaged.swapped_in():
        assert value.tolist() == [1, 1]
