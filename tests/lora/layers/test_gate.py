"""A rank that depends on the input: exact at the start, trained, kept, and refused where it cannot be."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lorgnette.federate.aggregation.adapter_state import Adapter
from lorgnette.lora import (
    LoRAConfig,
    adapted_layers,
    add_adapter,
    allocate,
    combine,
    delta_survival,
    get_lora_params,
    inject_lora,
    load_adapter,
    merge_lora_weights,
    per_sample,
    plan,
    resize,
    save_adapter,
    set_adapter,
    unmerge_lora_weights,
    verify,
    watch_gates,
)

LAYERS = {
    "linear": (nn.Linear(5, 4), torch.randn(3, 2, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1), torch.randn(2, 4, 5)),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="reflect"), torch.randn(2, 4, 5, 4)),
    "one image": (nn.Conv2d(4, 6, 3, padding="same", dilation=2), torch.randn(4, 5, 4)),
    "grouped": (nn.Conv2d(4, 6, 2, groups=2), torch.randn(2, 4, 3, 3)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), torch.randn(4, 3, 3)),
    "conv3d": (nn.Conv3d(2, 3, 2), torch.randn(1, 2, 3, 3, 2)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), torch.randn(2, 4, 2, 3)),
    "transposed plain": (nn.ConvTranspose1d(3, 2, 2), torch.randn(3, 4)),
}
each_layer = pytest.mark.parametrize(("layer", "x"), LAYERS.values(), ids=LAYERS)


def adapted(layer, r=3, **settings):
    config = LoRAConfig(r=r, lora_alpha=4, target_modules=["0"], **{"dynamic_rank": True} | settings)
    return inject_lora(nn.Sequential(copy.deepcopy(layer)), config)


def shake(model):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in get_lora_params(model):
            parameter.add_(torch.randn_like(parameter))
    return model


@each_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_start_is_the_base_and_plain_lora(layer, x, dtype):
    base, x = copy.deepcopy(layer).to(dtype), x.to(dtype)
    model, plain = adapted(base, lora_dropout=0.2), adapted(base, dynamic_rank=False).eval()
    assert torch.equal(model(x), base(x))
    assert not model[0].lora_gate.any()
    assert not model[0].lora_gate_bias.any()
    model.eval()
    for factor in ("lora_A", "lora_B"):
        value = torch.randn_like(getattr(model[0], factor))
        getattr(model[0], factor).data, getattr(plain[0], factor).data = value, value.clone()
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(model(x), plain(x), rtol=tolerance, atol=3 * tolerance)


@each_layer
def test_the_update_is_the_sum_of_the_gated_directions(layer, x):
    model, base = shake(adapted(layer)).double(), copy.deepcopy(layer).double()
    adapter, x = model[0], x.double()
    parts = []
    for i in range(3):  # each direction alone is a layer of rank 1 whose output the gate weighs
        one = adapted(layer, r=1, dynamic_rank=False).double()[0]
        one.lora_A.data, one.lora_B.data = adapter.lora_A[i : i + 1].detach(), adapter.lora_B[:, i : i + 1].detach()
        one.lora_alpha = adapter.scaling
        parts.append(one(x) - base(x))
    with watch_gates(model) as seen:
        y = model(x)
    (g,) = seen.gates["0"]
    if isinstance(layer, nn.Linear):
        torch.testing.assert_close(y, base(x) + sum(g[..., i : i + 1] * parts[i] for i in range(3)))
        z = 1 + F.linear(F.linear(x, adapter.lora_A), adapter.lora_gate, adapter.lora_gate_bias)
        torch.testing.assert_close(g.sum(-1), torch.full(g.shape[:-1], 3.0).double())
        assert (g >= 0).all()
        shift = (z - g).amax(-1, keepdim=True)  # the nearest point: all that is open moved by the same amount
        torch.testing.assert_close(g, (z - shift).clamp_min(0))
    else:  # with the same gate everywhere, it stands before each part
        adapter.lora_gate.data.zero_()
        adapter.lora_gate_bias.data = torch.tensor([-4.0, 0.25, 1.25]).double()
        torch.testing.assert_close(model(x), base(x) + 0 * parts[0] + 1 * parts[1] + 2 * parts[2])


@each_layer
def test_gradients_are_those_of_the_output(layer, x):
    model = shake(adapted(layer.double())).double()
    layer.float()
    inputs = (x.double().requires_grad_(True), *get_lora_params(model))
    assert len(inputs) == 5
    assert torch.autograd.gradcheck(lambda *_: model(inputs[0]), inputs)


@each_layer
def test_kept_loaded_strictly_and_verified(layer, x, tmp_path):
    model = shake(adapted(layer))
    save_adapter(model, tmp_path)
    again = nn.Sequential(copy.deepcopy(layer))
    assert load_adapter(again, tmp_path).complete
    assert torch.equal(again(x), model(x))
    assert all(parameter.requires_grad for parameter in get_lora_params(again))
    assert verify(again, x).ok
    assert torch.equal(copy.deepcopy(again)(x), model(x))
    plain = adapted(layer, dynamic_rank=False)
    with pytest.raises(ValueError, match="lora_gate"):
        load_adapter(plain, tmp_path)
    kind = json.loads((tmp_path / "adapter_config.json").read_text())
    assert kind["peft_type"] == "LORGNETTE"
    assert "PEFT does not have lora.dynamic_rank" in kind["reasons"][0]


def mixed():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    config = LoRAConfig(r=2, target_modules=["0", "2"], overrides={"2": {"dynamic_rank": True}})
    return shake(inject_lora(net, config)), torch.randn(2, 3, 7, 7)


def test_merging_folds_the_others_and_names_what_stays():
    model, x = mixed()
    wanted = model(x)
    assert list(delta_survival(model).layers) == ["0"]
    copied = merge_lora_weights(model, inplace=False)
    assert list(adapted_layers(copied)) == ["2"]
    assert list(adapted_layers(model)) == ["0", "2"]
    assert copied[2].weight is model[2].weight
    torch.testing.assert_close(copied(x), wanted, rtol=1e-5, atol=1e-5)
    merge_lora_weights(model, keep=True)
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)
    unmerge_lora_weights(model)
    assert torch.equal(model(x), wanted)
    for ask in (model[2].effective_weight, model[2].merged_weight, model[2].delta_weight, model[2].merge_weights):
        with pytest.raises(ValueError, match=r"lora\.dynamic_rank: the update depends on the input"):
            ask()


def test_the_plan_counts_every_parameter():
    for settings in ({"dynamic_rank": True}, {"use_dora": True}, {"init_lora_weights": "pissa"}):
        config = LoRAConfig(r=2, target_modules=["0"], **settings)
        net = nn.Sequential(nn.Linear(5, 4))
        planned = plan(net, config)
        assert planned.parameters == sum(p.numel() for p in get_lora_params(inject_lora(net, config)))


def test_training_with_the_cost_lowers_the_rank_where_the_input_needs_less():
    torch.manual_seed(3)
    model = adapted(nn.Linear(8, 8), r=8)
    base = copy.deepcopy(model[0].weight.detach()), model[0].bias.detach()
    simple, rich = torch.zeros(64, 8), torch.zeros(64, 8)
    simple[:, 0], rich[:, 1:] = torch.randn(64) + 3, torch.randn(64, 7)
    mix = torch.linalg.qr(torch.randn(8, 8)).Q[:, :4] @ torch.linalg.qr(torch.randn(8, 8)).Q[:4]
    x = torch.cat([simple, rich])
    y = F.linear(x, *base) + torch.cat([simple[:, :1] * mix[0], rich @ mix])
    optimizer = torch.optim.Adam(get_lora_params(model), lr=0.03)
    for _ in range(400):
        with watch_gates(model) as seen:
            loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        (loss + 0.05 * seen.cost()).backward()
        optimizer.step()
    ranks = []
    for part in (simple, rich):
        with watch_gates(model) as seen:
            model(part)
        ranks.append(seen.ranks()["0"])
    assert loss < 0.05
    assert ranks[0].r == 8
    assert ranks[0].mean < 3 < ranks[1].mean < 6  # of one direction and of four
    with watch_gates(model) as seen, pytest.raises(ValueError, match="has run"):
        seen.cost()
    with pytest.raises(ValueError, match=r"no adapter of Linear has lora\.dynamic_rank"):
        watch_gates(nn.Linear(2, 2)).__enter__()


def test_where_it_cannot_be_it_is_refused_by_name(tmp_path):
    config = LoRAConfig(r=2, target_modules=["0"], dynamic_rank=True)
    with pytest.raises(ValueError, match=r"'0' \(Embedding\) cannot have lora\.dynamic_rank"):
        inject_lora(nn.Sequential(nn.Embedding(4, 4)), config)
    with pytest.raises(ValueError, match="a part of a layer, which cannot have"):
        inject_lora(nn.Sequential(nn.MultiheadAttention(4, 2)), config)
    with pytest.raises(ValueError, match="a part of a layer, which cannot have"):
        inject_lora(
            nn.Sequential(nn.Linear(4, 6)), LoRAConfig(target_modules=["0"], dynamic_rank=True, slices={"0": ["q"]})
        )
    encoder = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True))
    for name in ("out_proj", "linear1"):
        slices = {"self_attn": ["out_proj"]} if name == "out_proj" else {}
        target = "self_attn" if slices else name
        with pytest.raises(ValueError, match=r"is read raw by its nn\..*, so that it cannot have lora\.dynamic_rank"):
            inject_lora(encoder, LoRAConfig(target_modules=[target], dynamic_rank=True, slices=slices))
    for other in ({"use_dora": True}, {"init_lora_weights": "pissa"}):
        with pytest.raises(ValueError, match=r"lora\.dynamic_rank: does not go together with"):
            LoRAConfig(dynamic_rank=True, **other)

    model, x = mixed()
    with pytest.raises(ValueError, match="resize: '2' of rank 2 has a gate over its directions"):
        resize(model, 4)
    with pytest.raises(ValueError, match=r"has lora\.dynamic_rank"):
        allocate(model, [x], lambda model, x: model(x).square().mean(), mean_rank=2)
    with pytest.raises(ValueError, match=r"federation: '2' has lora\.dynamic_rank, whose update does not add up"):
        Adapter(model)
    with pytest.raises(ValueError, match=r"combine: 'default' has lora\.dynamic_rank at '2'"):
        combine(model, {"default": 1.0}, "other")
    with pytest.raises(ValueError, match=r"has lora\.dynamic_rank at '2'"), per_sample(model, ["default", None]):
        pass


def test_it_stands_beside_others_by_name():
    model, x = mixed()
    wanted = model(x)
    add_adapter(model, "plain", LoRAConfig(r=1, target_modules=["0"]))
    set_adapter(model, "plain")
    assert torch.equal(model(x), nn.Sequential.forward(copy.deepcopy(model), x))
    assert list(adapted_layers(model)) == ["0"]
    set_adapter(model, "default")
    assert torch.equal(model(x), wanted)


def test_it_is_exported_as_it_stands():
    model, x = mixed()
    exported = torch.export.export(model.eval(), (x,))
    torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-4, atol=1e-3)
