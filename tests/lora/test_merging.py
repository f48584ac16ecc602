"""Merging and back: bit for bit, whatever the layer, its type and its ties; and what rounding costs."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.lora.cases import adapters, cases
from torch import Tensor, nn

from lorgnette.lora import (
    DeltaSurvival,
    LoRAConfig,
    adapted_layers,
    delta_survival,
    effective_parameter,
    get_lora_params,
    get_lora_state_dict,
    inject_lora,
    is_adapted,
    load_adapter,
    merge_lora_weights,
    merged,
    save_adapter,
    trained_tensors,
    unload_lora,
    unmerge_lora_weights,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().view(torch.uint8) for name, tensor in model.state_dict().items()}


def same_bits(model: nn.Module, before: dict[str, Tensor]) -> bool:
    now = bits(model)
    return list(now) == list(before) and all(torch.equal(now[name], before[name]) for name in now)


@settings(max_examples=100, deadline=None)
@given(cases, adapters, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_merging_and_unmerging_restore_every_bit(case, config, dtype):
    layer, x = case[0].to(dtype), case[1]
    x = x.to(dtype) if x.is_floating_point() else x
    model = inject_lora(nn.Sequential(layer), config, target_modules=["0"])
    nn.init.normal_(layer.lora_B, std=0.1)
    before, kind, output, representation = bits(model), type(layer), model(x), repr(model)
    factors = get_lora_params(model)
    for _ in range(3):
        assert merge_lora_weights(model, keep=True) is model
        assert not is_adapted(model)
        assert type(layer) is kind.base_class
        assert unmerge_lora_weights(model) is model
        assert same_bits(model, before)
    assert type(layer) is kind
    assert repr(model) == representation
    assert torch.equal(model(x), output)
    assert all(a is b for a, b in zip(get_lora_params(model), factors, strict=True)), "an optimiser goes on"


class Everything(nn.Module):
    """A tied pair, a weight half adapted, a sliced and an attention's projection, a raw parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.plain = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.plain.weight
        self.qkv = nn.Linear(6, 18)
        self.attn = nn.MultiheadAttention(6, 2, batch_first=True)
        self.raw = nn.Parameter(torch.randn(2, 6, 6))
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tied(self.plain(self.two(self.one(x))))
        q, k, v = self.qkv(x).chunk(3, -1)
        x = self.norm(self.attn(q, k, v)[0])
        return x @ effective_parameter(self, "raw").sum(0)


def everything() -> Everything:
    torch.manual_seed(0)
    config = LoRAConfig(
        r=2,
        target_modules=["one", "two", "tied", "qkv", "attn"],
        target_parameters=["raw"],
        slices={"qkv": ["q", "v"]},
        modules_to_save=["norm"],
    )
    model = inject_lora(Everything().eval(), config)
    for parameter in get_lora_params(model):
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_context_merges_and_restores_also_after_an_error(dtype):
    model = everything().to(dtype)
    x = torch.randn(2, 3, 6, dtype=dtype)
    before, representation, trained = bits(model), repr(model), set(trained_tensors(model))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        adapted = model(x)
        with merged(model) as plain:
            assert plain is model
            assert not is_adapted(model)
            tolerance = 1e-4 if dtype == torch.float32 else 0.2
            torch.testing.assert_close(model(x), adapted, rtol=tolerance, atol=tolerance)
            assert {type(module).__module__.split(".")[0] for module in model.children()} == {"torch"}
        with pytest.raises(RuntimeError, match="stop"), merged(model):
            raise RuntimeError("stop")
        assert same_bits(model, before)
        assert repr(model) == representation
        assert torch.equal(model(x), adapted)
    assert set(trained_tensors(model)) == trained
    assert learning == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert model.two.weight is model.one.weight
    assert model.tied.weight is model.plain.weight
    with merged(nn.Linear(2, 2)):
        pass


def test_an_optimiser_goes_on_after_a_merge():
    model, other = everything(), everything()
    x = torch.randn(2, 3, 6)
    for net in (model, other):
        optimizer = torch.optim.Adam(get_lora_params(net), lr=1e-2)
        for _ in range(3):
            net(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if net is model:
                with torch.no_grad(), merged(net):
                    net(x)
    a, b = get_lora_state_dict(model), get_lora_state_dict(other)
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_what_is_kept_survives_copies_and_is_not_part_of_the_state():
    model = everything()
    before, plain_keys = bits(model), list(unload_lora(copy.deepcopy(model)).state_dict())
    merge_lora_weights(model, keep=True)
    assert list(model.state_dict()) == plain_keys
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same_bits(unmerge_lora_weights(twin), before)
        assert (
            twin.qkv.lora_q.lora_A
            is not adapted_layers(unmerge_lora_weights(copy.deepcopy(model)))["qkv.lora_q"].lora_A
        )
    copied = merge_lora_weights(unmerge_lora_weights(model), inplace=False, keep=True)
    assert same_bits(model, before)
    assert same_bits(unmerge_lora_weights(copied), before)


def test_unmerging_says_what_is_in_its_way():
    with pytest.raises(ValueError, match="Linear keeps no merge; merge_lora_weights"):
        unmerge_lora_weights(nn.Linear(2, 2))
    model = merge_lora_weights(everything(), keep=True)
    inject_lora(model, target_modules=["plain"])
    with pytest.raises(ValueError, match="was adapted since; unload_lora comes first"):
        unmerge_lora_weights(model)
    with pytest.raises(ValueError, match="keeps an earlier merge; unmerge_lora_weights comes first"):
        merge_lora_weights(model, keep=True)
    unload_lora(model).bfloat16()
    with pytest.raises(ValueError, match=r"is torch\.bfloat16 on cpu now and was torch\.float32 on cpu"):
        unmerge_lora_weights(model)
    assert is_adapted(unmerge_lora_weights(model.float()))


def test_survival_tells_how_much_of_an_update_rounding_leaves():
    torch.manual_seed(0)
    shares = []
    for deviation in (0.02, 0.002, 0.0002):
        model = inject_lora(nn.Sequential(nn.Linear(256, 256)), target_modules=["0"], rank=8, alpha=16)
        nn.init.normal_(model[0].lora_B, std=deviation)
        assert delta_survival(model).total > 0.999
        model.bfloat16()
        for parameter in get_lora_params(model):
            parameter.data = parameter.data.float()
        report = delta_survival(model)
        weight = model[0].weight.float()
        wanted = model[0].delta_weight()
        left = merge_lora_weights(model, inplace=False)[0].weight.float() - weight
        assert report.layers["0"] == pytest.approx(
            max(0.0, 1 - ((left - wanted).norm() / wanted.norm()).item()), abs=1e-3
        )
        shares.append(report.total)
    assert shares[0] > 0.9
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.5


def test_survival_of_a_model_speaks_of_every_adapter():
    model = everything()
    report = delta_survival(model)
    assert list(report.layers) == list(adapted_layers(model))
    assert str(report).startswith("100.0% of the updates survives merging; the worst is '")
    assert str(DeltaSurvival({"a": 0.9, "b": 0.25, "c": 0.5}, 0.6)).endswith("the worst is 'b' with 25.0%")
    model.tied.lora_B.data.zero_()
    assert delta_survival(model).layers["tied"] == 1.0
    with pytest.raises(ValueError, match="Linear has no adapter; inject_lora comes first"):
        delta_survival(nn.Linear(2, 2))


def test_a_head_that_was_frozen_again_is_kept_through_a_merge(net, images, tmp_path):
    """Marks, not gradients, say what belongs to the adapter."""
    inject_lora(net, LoRAConfig(r=2, target_modules=["to_qkv"], modules_to_save=["head"]))
    net.head.bias.data.add_(1)
    net.head.requires_grad_(False)
    before = set(get_lora_state_dict(net))
    assert "head.bias" in before
    unmerge_lora_weights(merge_lora_weights(net, keep=True))
    assert set(get_lora_state_dict(net)) == before
    with merged(net):
        pass
    assert set(get_lora_state_dict(net)) == before
    again = type(net)().eval()
    again.load_state_dict({n: t for n, t in net.state_dict().items() if "lora_" not in n})
    again.head.bias.data.sub_(1)
    load_adapter(again, save_adapter(net, tmp_path))
    torch.testing.assert_close(again(images), net(images))
