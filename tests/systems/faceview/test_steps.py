"""The path of small steps: how far a view is turned says which blocks it goes through."""

from __future__ import annotations

import math

import pytest
import torch
from tests.systems.faceview.test_model import batch, shake, small

from lorgnette.systems.faceview.steps import StepPath


def degrees(*angles: float) -> torch.Tensor:
    return torch.tensor([[math.radians(angle)] for angle in angles])


def path() -> StepPath:
    torch.manual_seed(0)
    made = StepPath(8, 4, hidden=16)
    for parameter in made.up.parameters():
        torch.nn.init.normal_(parameter)
    return made


def test_no_effect_at_the_start_and_without_a_turn():
    x, condition = torch.randn(3, 8), torch.randn(3, 4)
    assert torch.equal(StepPath(8, 4)(x, condition, degrees(0, 40, 90)), x)
    assert torch.equal(path()(x, condition, degrees(0, 0, 0)), x)


@pytest.mark.parametrize(("turn", "used"), [(10, 1), (15, 1), (16, 2), (40, 3), (90, 6), (170, 6)])
def test_a_turn_goes_through_its_blocks(turn: float, used: int):
    made, x, condition = path(), torch.randn(1, 8, requires_grad=True), torch.randn(1, 4)
    made(x, condition, degrees(turn)).sum().backward()
    reached = [bool(layer.weight.grad.any()) for layer in made.up]
    assert reached == [number < used for number in range(6)]


def test_a_turn_within_a_step_counts_by_its_share():
    made, x, condition = path(), torch.randn(1, 8), torch.randn(1, 4)
    whole, third = made(x, condition, degrees(15)) - x, made(x, condition, degrees(5)) - x
    assert torch.allclose(third, whole / 3, atol=1e-5)


def test_in_the_network():
    given = batch()
    fresh = small(use_steps=True, use_lora_attention=False)
    assert not fresh(**given).any()
    base = shake(small(use_lora_attention=False))
    fresh.load_base(base.state_dict())  # a base without them
    assert torch.allclose(fresh(**given), base(**given), atol=1e-6)
    model = shake(small(use_steps=True))
    turned = given | {"pose": given["angles"].clone()}
    still = model(**turned)
    for name, parameter in model.named_parameters():
        if name.startswith("steps.up"):
            torch.nn.init.zeros_(parameter)
    assert torch.equal(model(**turned), still)  # no turn, no step
    assert not torch.allclose(model(**given), shake(small(use_steps=True))(**given), atol=1e-3)
