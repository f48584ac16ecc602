"""The path of small steps: how far a view is turned says which blocks it goes through."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.systems.faceview.test_model import batch, shake, small

from lorgnette import build, lora
from lorgnette.checkpoint import save
from lorgnette.systems import faceview
from lorgnette.systems.faceview.steps import StepPath


def degrees(*angles: float) -> torch.Tensor:
    return torch.tensor([[math.radians(angle)] for angle in angles])


def path() -> StepPath:
    torch.manual_seed(0)
    made = StepPath(8, 4, hidden=16, rank=3)
    for parameter in (*made.up.parameters(), *made.wide.parameters()):
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
    for layers in (made.up, made.wide):
        reached = [bool(layer.weight.grad.any()) for layer in layers]  # pyright: ignore[reportOptionalMemberAccess]
        assert reached == [number < used for number in range(6)]


def test_turns_to_the_left_and_to_the_right_have_linear_maps_of_their_own():
    made, x, condition = path(), torch.randn(1, 8), torch.randn(1, 4)
    both = [made(x, condition, degrees(turn)) for turn in (50, -50)]
    assert not torch.allclose(*both, atol=1e-3)
    with torch.no_grad():
        for layer in made.narrow:
            layer.weight[3:] += 1  # of the turns to the right
    assert torch.equal(made(x, condition, degrees(50)), both[0])
    assert not torch.allclose(made(x, condition, degrees(-50)), both[1], atol=1e-3)
    with torch.no_grad():
        for layer in made.wide:
            layer.weight.zero_()
    assert torch.equal(*(made(x, condition, degrees(turn)) for turn in (50, -50)))  # what is not linear is shared


def test_a_turn_within_a_step_counts_by_the_square_of_its_share():
    made, x, condition = path(), torch.randn(1, 8), torch.randn(1, 4)
    whole, third = made(x, condition, degrees(15)) - x, made(x, condition, degrees(5)) - x
    assert torch.allclose(third, whole / 9, atol=1e-5)


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
        if name.startswith(("steps.up", "steps.wide")):
            torch.nn.init.zeros_(parameter)
    assert torch.equal(model(**turned), still)  # no turn, no step
    assert not torch.allclose(model(**given), shake(small(use_steps=True))(**given), atol=1e-3)


def test_the_gate_holds_the_transformer_and_not_the_steps():
    given = batch()
    gated, free = (shake(small(use_steps=True, use_projection_layer=False, gate=gate)) for gate in ("dream", "none"))
    assert not torch.allclose(gated(**given), free(**given), atol=1e-3)
    for model in (gated, free):
        for parameter in model.head.parameters():
            torch.nn.init.zeros_(parameter)
    assert free(**given).abs().max() > 1e-2
    assert torch.equal(gated(**given), free(**given))


def test_the_room_s_adapter_is_small_and_reaches_the_steps(tmp_path: Path):
    """Rank 8 on the path and 4 on the attentions: 1.07 MB of numbers for the default network."""
    recipe = faceview.Recipe(model=faceview.Model(allow_untrained=True))
    task = build(recipe)
    assert {name.split(".")[0] for name in lora.adapted_layers(task.model)} == {"layers", "steps"}
    counted = {part: sum(p.numel() for n, p in task.model.named_parameters() if "lora_" in n and n.startswith(part))
               for part in ("layers", "steps")}  # fmt: skip
    assert counted == {"layers": 131_936, "steps": 136_032}
    folder = save(task, recipe, tmp_path)
    assert (folder / "adapter_model.safetensors").stat().st_size <= 1.1e6


def test_an_adapter_maps_by_the_steps_alone():
    """The gate keeps the transformer from a small turn, and the head is zero: what is learnt goes through the path."""
    recipe = faceview.Recipe(model=faceview.Model(num_layers=1, dim_feedforward=16, allow_untrained=True))
    task = build(recipe)
    assert isinstance(task, faceview.FaceMapping)
    views = next(iter(faceview.invented(1, 6).values())).video
    given = torch.from_numpy(views.embedding), torch.from_numpy(views.pose), torch.from_numpy(views.keypoints)
    assert torch.allclose(task.eval().map(*given), given[0], atol=1e-6)
    (task.map(*given) * torch.randn(6, 512)).sum().backward()
    learnt = [name for name, p in task.model.named_parameters() if p.grad is not None and p.grad.any()]
    assert {name.split(".")[1] for name in learnt} == {"up", "wide"}  # all else waits for them, which are zero
    with torch.no_grad():
        for name, parameter in task.model.named_parameters():
            if name.startswith("steps.up") and "lora_B" in name:
                parameter.normal_(std=0.1)
    assert not torch.allclose(task.map(*given), given[0], atol=1e-3)
