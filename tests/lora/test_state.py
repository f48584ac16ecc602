"""The adapter as tensors by name: exact, strict, and never half loaded."""
# ruff: noqa: E501  (tables of messages)

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from lorgnette.lora import (
    LoRAConfig,
    fingerprint,
    get_lora_state_dict,
    inject_lora,
    load_lora_state_dict,
    merge_lora_weights,
    trained_tensors,
    unload_lora,
)

CONFIG = LoRAConfig(r=4, target_modules=["to_qkv", "stem"], modules_to_save=["head", "bn"])


@pytest.fixture
def state(make_net, shake):
    net = inject_lora(make_net(), CONFIG)
    shake(net)
    with torch.no_grad():
        net.head.weight.add_(1)
        net.bn.running_mean.add_(1)
    return copy.deepcopy(get_lora_state_dict(net))


def changed(state, **tensors):
    return {name: tensor for name, tensor in (state | tensors).items() if tensor is not None}


def test_the_state_holds_factors_and_trained_base_tensors(state):
    factors = {f"{name}.{f}" for name in ("stem", "blocks.0.to_qkv", "blocks.1.to_qkv") for f in ("lora_A", "lora_B")}
    statistics = {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
    assert set(state) == factors | statistics | {"head.weight", "head.bias", "bn.weight", "bn.bias"}
    assert all(not tensor.requires_grad for tensor in state.values())


def test_a_round_trip_is_exact_whatever_requires_grad_says(make_net, images, state):
    net = inject_lora(make_net(), CONFIG)
    net.requires_grad_(False)
    report = load_lora_state_dict(net, state)
    assert report.complete
    assert set(report.loaded) == set(state)
    assert str(report) == "13 tensors loaded"
    again = get_lora_state_dict(net)
    assert set(again) == set(state)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_tensors_unfrozen_by_hand_belong_to_the_adapter_too(net, make_net):
    inject_lora(net, target_modules=["head"])
    net.stem.bias.requires_grad_(True)
    net.bn.weight.requires_grad_(True)
    names = {"stem.bias", "bn.weight", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
    assert set(trained_tensors(net)) == names
    other = inject_lora(make_net(1), target_modules=["head"])
    load_lora_state_dict(other, get_lora_state_dict(net))
    assert set(trained_tensors(other)) == names, "they stay with the adapter although frozen here"
    assert torch.equal(other.stem.bias, net.stem.bias)
    assert not other.stem.bias.requires_grad
    assert set(trained_tensors(copy.deepcopy(other))) == names
    assert not trained_tensors(merge_lora_weights(other, inplace=False))
    assert not trained_tensors(unload_lora(other))


def test_the_names_peft_uses_are_understood(make_net, state):
    def peft_name(name: str) -> str:
        return f"base_model.model.{name}" + (".weight" if "lora_" in name else "")

    net = inject_lora(make_net(), CONFIG)
    load_lora_state_dict(net, {peft_name(name): tensor for name, tensor in state.items()})
    assert torch.equal(net.stem.lora_B, state["stem.lora_B"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem.lora_A": None}, "1 missing ('stem.lora_A')"),
        ({"head.bias": None}, "1 missing ('head.bias')"),
        ({"blocks.0.to_kqv.lora_A": torch.zeros(4, 8)}, "1 unexpected ('blocks.0.to_kqv.lora_A' (did you mean 'blocks.0.to_qkv.lora_A'?))"),
        ({"stem.lora_A": torch.zeros(2, 3, 3, 3)}, "'stem.lora_A' has rank 2, the model 4"),
        ({"stem.lora_B": torch.zeros(8, 2, 1, 1)}, "'stem.lora_B' has rank 2, the model 4"),
        ({"stem.lora_A": torch.zeros(4, 3, 5, 5)}, "'stem.lora_A' is 4x3x5x5, in the model 4x3x3x3"),
        ({"head.weight": torch.zeros(9, 8)}, "'head.weight' is 9x8, in the model 4x8"),
        ({"bn.num_batches_tracked": torch.zeros(2)}, "'bn.num_batches_tracked' is 2, in the model a scalar"),
        ({"base_model.model.stem.lora_A.weight": torch.zeros(4, 3, 3, 3)}, "1 unexpected ('stem.lora_A'"),
        ({f"x{i}": torch.zeros(1) for i in range(9)}, "9 unexpected ('x0', 'x1', 'x2', 'x3', ...)"),
    ],
)  # fmt: skip
def test_a_strict_load_names_what_is_wrong_and_copies_nothing(make_net, state, change, message):
    net = inject_lora(make_net(), CONFIG)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="the adapter does not fit SmallNet: ") as error:
        load_lora_state_dict(net, changed(state, **change))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_load_that_is_not_strict_reports_exactly_and_takes_whole_layers_only(make_net, state):
    net = inject_lora(make_net(), CONFIG)
    wrong = {"stem.lora_A": None, "blocks.0.to_qkv.lora_B": torch.zeros(24, 9), "what": torch.zeros(1)}
    report = load_lora_state_dict(net, changed(state, **wrong), strict=False)
    assert report.missing == ("stem.lora_A",)
    assert report.unexpected == {"what": ""}
    assert report.mismatched == {"blocks.0.to_qkv.lora_B": "has rank 9, the model 4"}
    untouched = {"stem.lora_A", "stem.lora_B", "blocks.0.to_qkv.lora_A", "blocks.0.to_qkv.lora_B"}
    assert set(report.loaded) == set(state) - untouched
    assert not report.complete
    assert not net.stem.lora_B.any()
    assert torch.equal(net.blocks[1].to_qkv.lora_B, state["blocks.1.to_qkv.lora_B"])


def test_tied_layers_take_equal_factors_and_refuse_different_ones(shake):
    def tied() -> nn.Module:
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        return inject_lora(net, target_modules="all-linear", rank=2)

    net, other = tied(), tied()
    shake(net)
    state = get_lora_state_dict(net)
    assert set(state) == {"0.lora_A", "0.lora_B", "1.lora_A", "1.lora_B"}
    load_lora_state_dict(other, state)
    assert torch.equal(other[1].lora_B, net[0].lora_B)
    one_name = {name: tensor for name, tensor in state.items() if name.startswith("0")}
    assert load_lora_state_dict(other, one_name).complete
    with pytest.raises(ValueError, match=r"'1\.lora_B' shares its memory with '0\.lora_B' but has other values"):
        load_lora_state_dict(other, state | {"1.lora_B": state["1.lora_B"] + 1})


def test_a_fingerprint_tells_bases_apart_and_says_how(net, make_net):
    mine = fingerprint(net)
    assert mine == fingerprint(make_net())
    assert mine.difference(fingerprint(make_net())) == ""
    other = make_net(1)
    assert fingerprint(other).structure == mine.structure
    assert fingerprint(other).content != mine.content
    # LayerNorm and BatchNorm start alike.
    assert mine.difference(fingerprint(other)) == "12 of 21 tensors have other values, such as 'blocks.0.to_out.0.bias'"
    other = make_net()
    other.head = nn.Linear(8, 5)
    assert mine.difference(fingerprint(other)) == "'head.bias' is 5 instead of 4"
    assert mine.difference(fingerprint(other), skip={"head.bias", "head.weight"}) == ""
    other.head = nn.Identity()
    assert mine.difference(fingerprint(other)) == "it lacks 2 of 21 tensors, such as 'head.bias'"
    assert fingerprint(other).difference(mine) == "it has 2 tensors more, such as 'head.bias'"
    assert mine.tensors["bn.num_batches_tracked"].startswith("scalar ")
    with pytest.raises(AttributeError):
        mine.content = ""  # type: ignore[misc]
    assert replace(mine, content="x").difference(mine) == ""


def test_a_fingerprint_sees_every_bit_in_any_dtype(net):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        net.to(dtype)
        before = fingerprint(net)
        net.head.weight.data[-1, -1] = torch.nextafter(net.head.weight.data[-1, -1], torch.tensor(9.0, dtype=dtype))
        assert fingerprint(net).content != before.content


def test_a_model_without_adapters_is_told_what_comes_first():
    model = nn.Sequential(nn.Linear(3, 3))
    state = get_lora_state_dict(inject_lora(nn.Sequential(nn.Linear(3, 3)), target_modules=["0"]))
    for given in (state, {f"base_model.model.{name}.weight": tensor for name, tensor in state.items()}):
        for strict in (True, False):
            with pytest.raises(ValueError, match="Sequential has no adapter to load into: inject_lora or load_adapter"):
                load_lora_state_dict(model, given, strict=strict)
