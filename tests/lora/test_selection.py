"""Which layers are chosen, and what is said when none is."""
# ruff: noqa: E501  (tables of messages)

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from lorgnette.lora import (
    LoRAConfig,
    adapted_layers,
    count_parameters,
    inject_lora,
    load_adapter,
    merge_lora_weights,
    plan,
    save_adapter,
)


def chosen(net: nn.Module, **settings) -> list[str]:
    return list(adapted_layers(inject_lora(net, LoRAConfig(**settings))))


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (["head"], ["head"]),
        (["to_qkv"], ["blocks.0.to_qkv", "blocks.1.to_qkv"]),
        (["1.to_qkv", "stem"], ["stem", "blocks.1.to_qkv"]),
        (("to_out.0",), ["blocks.0.to_out.0", "blocks.1.to_out.0"]),
        (r"blocks\.0\..*", ["blocks.0.to_qkv", "blocks.0.to_out.0"]),
        (
            "all-linear",
            ["blocks.0.to_qkv", "blocks.0.to_out.0", "blocks.1.to_qkv", "blocks.1.to_out.0", "head"],
        ),
    ],
)
def test_names_regular_expressions_and_all_linear(net, targets, names):
    assert chosen(net, target_modules=targets) == names


def test_exclusion_and_modules_to_save_are_left_out(net):
    names = chosen(net, target_modules="all-linear", exclude_modules=r".*to_out.*", modules_to_save=["blocks.0"])
    assert names == ["blocks.1.to_qkv", "head"]
    assert all(parameter.requires_grad for parameter in net.blocks[0].parameters())


def test_a_callable_decides_and_may_give_settings(net):
    def choose(name: str, layer: nn.Module) -> bool | LoRAConfig | None:
        if isinstance(layer, nn.Conv2d):
            return LoRAConfig(r=2, lora_alpha=6)
        return True if name == "head" else None

    layers = adapted_layers(inject_lora(net, LoRAConfig(r=5), target_modules=choose))
    assert {name: (layer.r, layer.scaling) for name, layer in layers.items()} == {
        "stem": (2, 3.0),
        "head": (5, 8 / 5),
    }


def test_patterns_give_rank_and_alpha_and_the_first_counts(net):
    config = LoRAConfig(
        r=8,
        target_modules=["to_qkv", "head"],
        rank_pattern={"0.to_qkv": 2, "to_qkv": 3},
        alpha_pattern={"^head": 32},
    )
    layers = adapted_layers(inject_lora(net, config))
    assert [(layer.r, layer.lora_alpha) for layer in layers.values()] == [(2, 8), (3, 8), (8, 32)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["to_kqv"]}, "lora.target_modules: 'to_kqv' matches no layer of SmallNet; it has 'to_qkv', 'to_out.0'"),
        ({"target_modules": ["to_qkv", "nope"]}, "lora.target_modules: 'nope' matches no layer"),
        ({"target_modules": ["to"]}, "lora.target_modules: 'to' matches no layer"),
        ({"target_modules": "to_qkv"}, "a string is a regular expression for the whole name, the list ['to_qkv'] works"),
        ({"target_modules": ["norm"]}, "'norm' matches 'blocks.0.norm', a LayerNorm; only nn.Linear, nn.Embedding, nn.MultiheadAttention and (transposed) convolutions can"),
        ({"target_modules": ["to_out"]}, "a Sequential; only nn.Linear, nn.Embedding, nn.MultiheadAttention and (transposed) convolutions can be adapted; inside it is 'blocks.0.to_out.0'"),
        ({"target_modules": r"blocks\.\d"}, "'blocks\\\\.\\\\d' matches 'blocks.0', a Block"),
        ({}, "lora.target_modules: not set; it has 'stem'"),
        ({"target_modules": ["head"], "exclude_modules": ["haed"]}, "lora.exclude_modules: 'haed' matches no layer of SmallNet; it has 'head'"),
        ({"target_modules": ["head"], "exclude_modules": "head"}, "no layer of SmallNet is chosen"),
        ({"target_modules": ["head"], "modules_to_save": ["norms"]}, "lora.modules_to_save: 'norms' matches no module of SmallNet; it has 'norm'"),
        ({"target_modules": ["head"], "rank_pattern": {"stem": 4}}, "lora.rank_pattern: 'stem' matches no adapted layer; it has 'head'"),
        ({"target_modules": ["head"], "alpha_pattern": {"x.*": 4}}, "lora.alpha_pattern: 'x.*' matches no adapted layer"),
    ],
)  # fmt: skip
def test_a_miss_is_one_line_that_says_what_there_is(net, settings, message):
    with pytest.raises(ValueError, match="lora") as error:
        inject_lora(net, LoRAConfig(**settings))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not adapted_layers(net)
    assert all(p.requires_grad for p in net.parameters()), "nothing was changed"


def test_many_names_are_cut_short_and_a_model_without_layers_says_so():
    many = nn.ModuleDict({f"layer{i}": nn.Linear(1, 1) for i in range(20)})
    with pytest.raises(ValueError, match=r"'layer\d+' and 12 more$"):
        inject_lora(many, target_modules=["layr"])
    with pytest.raises(
        ValueError,
        match=r"ReLU is chosen; it has no nn\.Linear, nn\.Embedding, nn\.MultiheadAttention or \(transposed\) convolutions inside$",
    ):
        inject_lora(nn.ReLU(), target_modules="all-linear")


class OwnForward(nn.Linear):
    def forward(self, input):
        return super().forward(input) * 2


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight / weight.norm(), bias)


class OwnAttention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x)[0]


def patched() -> nn.Module:
    layer = nn.Linear(2, 2)
    inner = layer.forward
    layer.forward = lambda x: inner(x)
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (OwnForward(2, 2), "'0' (OwnForward) has a forward of its own"),
        (OwnConvolution(2, 2, 1), "'0' (OwnConvolution) has a forward of its own"),
        (patched(), "'0' (Linear) has a forward of its own"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "'0' computes its weight"),
        (nn.LazyLinear(2), "'0' has no weight yet: run one batch"),
        (nn.Linear(2, 2, dtype=torch.complex64), "'0' has a complex64 weight"),
        (nn.Embedding(2, 2, max_norm=1.0), "'0' rescales its rows in place at every call (max_norm)"),
        (OwnAttention(4, 2), "'0' (OwnAttention) has a forward of its own"),
        (nn.ModuleDict({"attn": OwnAttention(4, 2)}), "'0.attn.out_proj' is read raw by a sub-class of"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_layers_whose_forward_would_pass_an_adapter_by_are_refused_by_name(layer, reason):
    target = r"0\.attn\.out_proj" if isinstance(layer, nn.ModuleDict) else "0"
    with pytest.raises(ValueError, match=r"leave it out with lora\.exclude_modules") as error:
        inject_lora(nn.Sequential(layer), target_modules=target)
    assert reason in str(error.value)


def test_an_encoder_layer_with_a_forward_of_its_own_is_no_obstacle():
    class Own(nn.TransformerEncoderLayer):
        def forward(self, src):
            return self.linear2(self.linear1(src).relu())

    assert list(adapted_layers(inject_lora(nn.Sequential(Own(4, 2, 8)), target_modules=["linear1"])))


def test_a_second_injection_takes_other_layers_and_refuses_the_same(net):
    inject_lora(net, target_modules=["head"])
    inject_lora(net, target_modules=["stem"], rank=2)
    assert list(adapted_layers(net)) == ["stem", "head"]
    assert net.head.lora_A.requires_grad
    with pytest.raises(ValueError, match="'head' is adapted already"):
        inject_lora(net, target_modules=["head"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "lora.r: 0 is not a whole number"),
        ({"r": 2.5}, "lora.r: 2.5"),
        ({"r": True}, "lora.r: True"),
        ({"lora_alpha": "8"}, "lora.lora_alpha: '8' is not a number"),
        ({"lora_alpha": float("nan")}, "lora.lora_alpha: nan"),
        ({"lora_dropout": 1.0}, "lora.lora_dropout: 1.0 is not in"),
        ({"lora_dropout": "much"}, "lora.lora_dropout: 'much'"),
        ({"target_modules": "("}, "lora.target_modules: '(' is not a regular expression"),
        ({"target_modules": []}, "lora.target_modules: [] is not a list of names"),
        ({"exclude_modules": [3]}, "lora.exclude_modules: [3] is not a list of names"),
        (
            {"modules_to_save": "head"},
            "lora.modules_to_save: 'head' is a name, not a list of names; ['head'] works",
        ),
        ({"rank_pattern": {"a": 0}}, "lora.rank_pattern['a']: 0"),
        ({"rank_pattern": {"(": 1}}, "lora.rank_pattern: '(' is not a regular expression"),
        ({"alpha_pattern": {"a": float("inf")}}, "lora.alpha_pattern['a']: inf"),
        ({"lora_dtype": "int8"}, "lora.lora_dtype: 'int8' is not known; null, 'float32'"),
        ({"bias": "some"}, "lora.bias: 'some' is not known; 'none', 'all', 'lora_only' work"),
        ({"overrides": {"a": {}}}, "lora.overrides['a']: {} is not a table"),
        ({"overrides": {"a": {"rank": 2}}}, "lora.overrides['a']: 'rank' is no setting of a layer"),
        (
            {"overrides": {"a": {"lora_drpout": 2}}},
            "lora.overrides['a']: 'lora_drpout' is no setting of a layer (did you mean 'lora_dropout'?)",
        ),
        ({"overrides": {"a": {"lora_dropout": 2}}}, "lora.overrides['a']: lora.lora_dropout: 2 is not in"),
        ({"overrides": {"(": {"r": 2}}}, "lora.overrides: '(' is not a regular expression"),
        ({"init_lora_weights": False}, "lora.init_lora_weights: False is not known"),
        ({"init_lora_weights": "loftq"}, "lora.init_lora_weights: 'loftq' is not known"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match="lora") as error:
        LoRAConfig(**settings)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_layers_are_chosen_by_their_class(net, make_net):
    assert list(adapted_layers(inject_lora(net, target_modules=nn.Conv2d))) == ["stem"]
    both = adapted_layers(inject_lora(make_net(), LoRAConfig(r=3), target_modules=(nn.Conv2d, nn.Linear)))
    assert len(both) == 6
    assert all(layer.r == 3 for layer in both.values())
    with pytest.raises(ValueError, match="no layer of SmallNet is chosen"):
        inject_lora(make_net(), target_modules=nn.Conv3d)


def test_overrides_give_each_layer_its_own_settings(net):
    config = LoRAConfig(
        r=8,
        target_modules="all-linear",
        rank_pattern={"to_qkv": 3},
        overrides={
            r"0\.to_qkv": {"r": 2, "lora_dropout": 0.2, "lora_dtype": "bfloat16"},
            "head": {"use_rslora": True, "init_lora_weights": "gaussian"},
        },
    )
    layers = adapted_layers(inject_lora(net, config))
    assert {name: layer.r for name, layer in layers.items() if "qkv" in name} == {
        "blocks.0.to_qkv": 2,
        "blocks.1.to_qkv": 3,
    }
    first = layers["blocks.0.to_qkv"]
    assert (first.lora_dropout, first.lora_A.dtype, first.scaling) == (0.2, torch.bfloat16, 4.0)
    assert layers["blocks.1.to_qkv"].lora_dropout == 0
    assert layers["head"].scaling == 8 / 8**0.5
    assert layers["head"].lora_A.abs().max() > 8**-0.5 / 8**0.5, "a normal distribution has a tail"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_factors_of_another_type_go_through_a_folder(net, make_net, images, shake, tmp_path, dtype):
    inject_lora(net, LoRAConfig(r=2, target_modules=["stem", "head"], lora_dtype=dtype))
    shake(net)
    wanted = net(images)
    assert wanted.dtype == torch.float32
    other = make_net()
    load_adapter(other, save_adapter(net, tmp_path))
    assert other.head.lora_A.dtype == (torch.float32 if dtype == "float64" else getattr(torch, dtype))
    torch.testing.assert_close(other(images), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merge_lora_weights(net)(images), wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("bias", "names"), [
    ("all", {"stem.bias", "bn.bias", "blocks.0.norm.bias", "blocks.1.to_out.0.bias", "head.bias"}),
    ("lora_only", {"stem.bias", "head.bias"}),
])  # fmt: skip
def test_biases_are_trained_and_kept_with_the_adapter(net, make_net, images, tmp_path, bias, names):
    config = LoRAConfig(r=2, target_modules=["stem", "head"], bias=bias)
    inject_lora(net, config)
    learning = {name for name, parameter in net.named_parameters() if parameter.requires_grad and "lora" not in name}
    assert names <= learning
    assert learning == names if bias == "lora_only" else all(name.endswith("bias") for name in learning)
    with torch.no_grad():
        for name in learning:
            net.get_parameter(name).add_(0.5)
    wanted = net(images)
    net.requires_grad_(False)  # what is kept does not depend on whether it is trained now
    other = make_net()
    assert load_adapter(other, save_adapter(net, tmp_path)).complete
    assert torch.equal(other(images), wanted)
    assert torch.equal(merge_lora_weights(other)(images), wanted)


def test_a_plan_is_what_injection_then_does(net):
    config = LoRAConfig(
        r=4,
        target_modules=["stem", "to_qkv", "to_out.0"],
        slices={"0.to_qkv": ["q", "v"]},
        rank_pattern={"lora_v": 2},
        modules_to_save=["head"],
    )
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    table = plan(net, config)
    assert not adapted_layers(net)
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert [row.name for row in table.rows] == [
        "stem", "blocks.0.to_qkv.lora_q", "blocks.0.to_qkv.lora_v", "blocks.0.to_out.0", "blocks.1.to_qkv", "blocks.1.to_out.0",
    ]  # fmt: skip
    assert table.total == sum(tensor.numel() for name, tensor in before.items() if "running" not in name) - 1
    inject_lora(net, config)
    layers = adapted_layers(net)
    assert {row.name: (row.r, row.parameters) for row in table.rows} == {
        name: (layer.r, layer.lora_A.numel() + layer.lora_B.numel()) for name, layer in layers.items()
    }
    assert table.parameters == count_parameters(net).lora
    assert table.saved == 8 * 4 + 4
    lines = str(table).splitlines()
    assert lines[0].split() == ["adapter", "type", "shape", "rank", "scaling", "parameters", "of", "its", "weight"]
    assert lines[2].split() == ["blocks.0.to_qkv.lora_q", "Linear.weight[0:8]", "8x8", "4", "2", "64", "100.0%"]
    assert lines[-1] == "modules_to_save: 36 parameters more"
    with pytest.raises(ValueError, match="'nope' matches no layer"):
        plan(net, target_modules=["nope"])


def test_a_shared_weight_counts_once_in_a_plan():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    table = plan(net, target_modules=nn.Linear, rank=2)
    assert [row.parameters for row in table.rows] == [16, 0]
    assert "shared" in str(table)


def test_sets_of_names_become_lists_and_scaling_follows():
    config = LoRAConfig(r=4, lora_alpha=8, target_modules={"b", "a"}, use_rslora=True)
    assert config.target_modules == ["a", "b"]
    assert config.scaling == 4.0
    assert LoRAConfig(r=4, lora_alpha=8).scaling == 2.0


@pytest.mark.parametrize("pattern", ["head|to_qkv", "to_qkv|head", r"blocks\.0\.to_qkv|head"])
def test_a_pattern_may_be_an_alternation(net, pattern):
    """Each side of it is a whole one: 'head|x' means neither 'ahead' nor 'x.y'."""
    net.ahead = nn.Linear(2, 2)
    net.head_norm = nn.Linear(2, 2)
    config = LoRAConfig(r=2, target_modules=r".*(to_qkv|to_out\.0|head|ahead|head_norm)", rank_pattern={pattern: 4})
    ranks = {name: layer.r for name, layer in adapted_layers(inject_lora(net, config)).items()}
    first_only = "blocks" in pattern
    assert ranks == {
        name: 4 if name in ("head", "blocks.0.to_qkv") or (name == "blocks.1.to_qkv" and not first_only) else 2
        for name in ranks
    }
    assert len(ranks) == 7


class OwnLinear(nn.Linear):
    """A kind of Linear."""


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (nn.Conv2d, ["stem"]),
        ((nn.Conv2d, OwnLinear), ["stem", "own"]),
        ([nn.Linear], ["own", "head"]),
        (["head", "class:Conv2d"], ["stem", "head"]),
        ("class:OwnLinear", ["own"]),
        ({nn.Conv2d}, ["stem"]),
    ],
)
def test_classes_are_named_in_settings_too(targets, names, tmp_path):
    def net() -> nn.Sequential:
        torch.manual_seed(0)
        layers = {"stem": nn.Conv2d(3, 4, 1), "flat": nn.Flatten(), "own": OwnLinear(16, 4), "head": nn.Linear(4, 2)}
        return nn.Sequential(OrderedDict(layers))

    config = LoRAConfig(target_modules=targets)
    assert chosen(net(), target_modules=targets) == names
    assert LoRAConfig(**json.loads(json.dumps(asdict(config)))) == config
    save_adapter(inject_lora(net(), config), tmp_path)
    loaded = net()
    load_adapter(loaded, tmp_path)
    assert list(adapted_layers(loaded)) == names


def test_a_class_that_no_layer_has_is_named(net):
    with pytest.raises(ValueError, match=r"lora.target_modules: no layer of \w+ is of class Embedding; it has"):
        inject_lora(net, LoRAConfig(target_modules=[nn.Embedding, "head"]))


def test_rank_and_alpha_have_the_same_two_names_everywhere(net):
    short = LoRAConfig(rank=3, alpha=6, dropout=0.1, target_modules=["head"])
    assert short == LoRAConfig(r=3, lora_alpha=6, lora_dropout=0.1, target_modules=["head"])
    assert (short.rank, short.alpha, short.dropout) == (3, 6, 0.1)
    assert replace(short, r=5).rank == 5
    assert asdict(short).keys() == asdict(LoRAConfig()).keys()
    for words in ({"rank": 3, "alpha": 6}, {"r": 3, "lora_alpha": 6}):
        layer = adapted_layers(inject_lora(copy.deepcopy(net), target_modules=["head"], **words))["head"]
        assert (layer.r, layer.scaling) == (3, 2.0)
    with pytest.raises(ValueError, match=r"lora.r: given twice, as r and as rank"):
        LoRAConfig(r=3, rank=3)
    with pytest.raises(ValueError, match=r"lora.r: 0 .*1"):
        LoRAConfig(rank=0)
