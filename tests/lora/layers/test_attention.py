"""`nn.MultiheadAttention` and the encoders around it: no path, fused or not, forgets an adapter."""
# ruff: noqa: E501  (tables of messages)

from __future__ import annotations

import copy
import json
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from lorgnette.lora import (
    LoRAConfig,
    adapted_layers,
    adapter_info,
    disabled,
    get_lora_params,
    get_lora_state_dict,
    inject_lora,
    is_adapted,
    load_adapter,
    merge_lora_weights,
    save_adapter,
    unload_lora,
    verify,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage"),
]


class Attend(nn.Module):
    """An attention with its settings and call, as a whole model."""

    def __init__(self, need_weights: bool = True, **settings) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, **settings)
        self.need_weights = need_weights

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **masks: Tensor) -> tuple[Tensor, ...]:
        output, weights = self.attn(query, key, value, need_weights=self.need_weights, **masks)
        return (output, weights) if self.need_weights else (output,)


@st.composite
def attentions(draw: st.DrawFn):
    torch.manual_seed(draw(st.integers(0, 99)))
    self_attention = draw(st.booleans())
    kdim, vdim = (8, 8) if self_attention else (draw(st.sampled_from([8, 5])), draw(st.sampled_from([8, 3])))
    batch_first = draw(st.booleans())
    net = Attend(
        draw(st.booleans()),
        bias=draw(st.booleans()),
        add_bias_kv=draw(st.booleans()),
        add_zero_attn=draw(st.booleans()),
        kdim=kdim,
        vdim=vdim,
        batch_first=batch_first,
    ).train(draw(st.booleans()))
    query = torch.randn(2, 4, 8)
    key, value = (query, query) if self_attention else (torch.randn(2, 4, kdim), torch.randn(2, 4, vdim))
    inputs = (query, key, value) if batch_first else tuple(x.transpose(0, 1).contiguous() for x in (query, key, value))
    if self_attention:
        inputs = (inputs[0],) * 3
    masks = {}
    if draw(st.booleans()):
        masks["key_padding_mask"] = torch.tensor([[False] * 4, [False, False, True, True]])
    if draw(st.booleans()):
        masks["attn_mask"] = torch.ones(4, 4, dtype=torch.bool).triu(1)
    return net, inputs, masks


def shake(net: nn.Module) -> None:
    for parameter in get_lora_params(net):
        parameter.data.normal_(std=0.5)


def close(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> None:
    for mine, other in zip(a, b, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    attentions(),
    st.sampled_from([None, ["q"], ["k", "v"], ["q", "k", "v", "out_proj"], ["out_proj"]]),
    st.sampled_from([1, 3, 12]),
    st.booleans(),
)
def test_attention_is_exact_in_every_form(case, slices, r, grad):
    net, inputs, masks = case
    net.requires_grad_(grad)  # PyTorch chooses its kernels by this, and with them the last bit
    with torch.set_grad_enabled(grad):
        before = net(*inputs, **masks)
        structure = repr(net)
        config = LoRAConfig(r=r, target_modules=["attn"], slices={"attn": slices} if slices else {})
        inject_lora(net, config)
        for mine, other in zip(net(*inputs, **masks), before, strict=True):
            assert torch.allclose(mine, other, atol=1e-6) if grad else torch.equal(mine, other)
        shake(net)
        wanted = net(*inputs, **masks)
        assert not torch.equal(wanted[0], before[0])
        merged = merge_lora_weights(net, inplace=False)
        assert type(merged.attn) is nn.MultiheadAttention
        close(merged(*inputs, **masks), wanted)
        assert repr(unload_lora(net)) == structure
        net.requires_grad_(grad)
        for mine, other in zip(net(*inputs, **masks), before, strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize("separate", [False, True])
def test_gradients_of_an_attention_in_float64(separate):
    torch.manual_seed(0)
    net = Attend(kdim=3 if separate else None, vdim=5 if separate else None, batch_first=True).double()
    inject_lora(net, LoRAConfig(r=2, target_modules=["attn"]))
    shake(net)
    names = list(get_lora_state_dict(net))
    assert len(names) == (8 if separate else 4)
    query = torch.randn(1, 3, 8, dtype=torch.float64)
    inputs = (query, torch.randn(1, 3, 3).double(), torch.randn(1, 3, 5).double()) if separate else (query,) * 3

    def output(*factors):
        return torch.func.functional_call(net, dict(zip(names, factors, strict=True)), inputs)

    assert torch.autograd.gradcheck(output, tuple(net.get_parameter(name) for name in names))


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"target_modules": ["attn"]}, ["attn.lora_in_proj", "attn.out_proj"]),
        ({"target_modules": ["attn.out_proj"]}, ["attn.out_proj"]),
        ({"target_modules": "all-linear"}, ["attn.out_proj"]),
        ({"target_modules": ["attn"], "exclude_modules": ["out_proj"]}, ["attn.lora_in_proj"]),
        ({"target_modules": ["attn"], "slices": {"attn": ["v", "out_proj"]}}, ["attn.lora_v", "attn.out_proj"]),
        ({"target_parameters": ["attn.in_proj_weight"]}, ["attn.lora_in_proj_weight"]),
    ],
)
def test_each_projection_can_be_chosen_alone_and_none_is_dead(settings, names, tmp_path):
    def base() -> Attend:
        torch.manual_seed(0)
        return Attend(batch_first=True).eval()

    net = inject_lora(base(), LoRAConfig(r=2, lora_dropout=0.1, **settings))
    assert sorted(adapted_layers(net)) == sorted(names)
    shake(net)
    x = torch.randn(2, 4, 8)
    assert verify(net, (x, x, x)).ok
    with torch.no_grad():
        wanted = net(x, x, x)
        other = base()
        load_adapter(other, save_adapter(net, tmp_path))
        assert torch.equal(other(x, x, x)[0], wanted[0])
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(twin(x, x, x)[0], wanted[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slices": {"attn": ["x"]}}, "lora.slices: 'x' is no part of the attention 'attn'; q, k, v, in_proj, out_proj are"),
        ({"slices": {"attn": ["0:4"]}}, "lora.slices: '0:4' is no part of the attention 'attn'"),
    ],
)  # fmt: skip
def test_a_wrong_part_of_an_attention_is_named(settings, message):
    net = Attend()
    with pytest.raises(ValueError, match="lora") as error:
        inject_lora(net, LoRAConfig(target_modules=["attn"], **settings))
    assert str(error.value).startswith(message)
    assert not is_adapted(net)


def test_patterns_that_name_an_attention_speak_of_all_its_projections():
    config = LoRAConfig(r=8, target_modules=["attn"], rank_pattern={"out_proj": 1, "attn": 2})
    net = inject_lora(Attend(), config)
    assert {name: layer.r for name, layer in adapted_layers(net).items()} == {
        "attn.lora_in_proj": 2,
        "attn.out_proj": 1,
    }
    with disabled(net):
        x = torch.randn(2, 4, 8)
        shake(net)
        plain = unload_lora(copy.deepcopy(net))
        assert torch.equal(net(x, x, x)[0], plain(x, x, x)[0])


class Plain(nn.MultiheadAttention):
    """A sub-class that keeps the forward."""


def test_a_sub_class_of_attention_with_the_same_forward_keeps_its_nature():
    net = Attend()
    net.attn.__class__ = Plain
    inject_lora(net, target_modules=["attn"])
    assert isinstance(net.attn, Plain)
    assert type(copy.deepcopy(net).attn) is type(net.attn)
    x = torch.randn(2, 4, 8)
    assert verify(net, (x, x, x)).ok
    assert type(unload_lora(net).attn) is Plain


def encoder(**settings) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0, **settings)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=not settings.get("norm_first", False)).eval()


TARGETS = {
    "all": {"target_modules": ["self_attn", "linear1", "linear2"]},
    "one feed-forward": {"target_modules": ["layers.1.linear2"]},
    "sliced": {"target_modules": ["linear1"], "slices": {"linear1": ["0:4"]}},
    "out_proj": {"target_modules": ["layers.0.self_attn.out_proj"]},
}


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_fused_evaluation_of_an_encoder_uses_the_adapters(targets, norm_first, padded):
    net = encoder(norm_first=norm_first)
    x = torch.randn(2, 4, 8)
    mask = torch.tensor([[False] * 4, [False, False, True, True]]) if padded else None
    keep = ~mask if padded else torch.ones(2, 4, dtype=torch.bool)
    with torch.no_grad():
        before = net(x, src_key_padding_mask=mask)
    inject_lora(net, LoRAConfig(r=2, **targets))
    with torch.no_grad():
        assert torch.equal(net(x, src_key_padding_mask=mask), before)
    shake(net)
    with torch.no_grad():
        fused = net(x, src_key_padding_mask=mask)
        merged = merge_lora_weights(net, inplace=False)
        assert type(merged) is nn.TransformerEncoder
        torch.testing.assert_close(fused, merged(x, src_key_padding_mask=mask), rtol=1e-4, atol=1e-5)
    learning = net(x, src_key_padding_mask=mask)  # gradients in evaluation: no nested tensor, no fused path
    torch.testing.assert_close(learning[keep], fused[keep], rtol=1e-4, atol=1e-5)
    learning[keep].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in get_lora_params(net))
    torch.testing.assert_close(net.train()(x, src_key_padding_mask=mask)[keep], fused[keep], rtol=1e-4, atol=1e-5)
    assert verify(net, x).ok
    with torch.no_grad():
        assert torch.equal(unload_lora(net.eval())(x, src_key_padding_mask=mask), before)
    assert {type(module).__module__.split(".")[0] for module in net.modules()} == {"torch"}


class Wrapped(nn.TransformerEncoderLayer):
    """A sub-class whose forward ends in the base's, and so in its fused evaluation."""

    def forward(self, src: Tensor, *args, **kwargs) -> Tensor:
        return 2 * super().forward(src, *args, **kwargs)


def test_a_sub_class_that_calls_the_fused_forward_of_its_base_is_no_gap():
    torch.manual_seed(0)
    net = nn.Sequential(Wrapped(8, 2, 16, batch_first=True, dropout=0.0)).eval()
    x = torch.randn(2, 4, 8)
    with torch.no_grad():
        before = net(x)
        inject_lora(net, target_modules=["self_attn", "linear1"], rank=2)
        assert torch.equal(net(x), before)
        shake(net)
        assert verify(net, x).ok
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(twin(x), net(x))
        torch.testing.assert_close(merge_lora_weights(net, inplace=False)(x), net(x), rtol=1e-4, atol=1e-5)
        assert type(unload_lora(net)[0]) is Wrapped
        assert torch.equal(net(x), before)


def test_encoders_and_attention_compile_to_one_graph_and_export():
    net = inject_lora(encoder(), LoRAConfig(r=2, **TARGETS["all"]))
    shake(net)
    x = torch.randn(2, 4, 8)
    for training in (True, False):
        assert torch._dynamo.explain(net.train(training))(x).graph_break_count == 0
    with torch.no_grad():
        exported = torch.export.export(net.eval(), (x,)).module()
        torch.testing.assert_close(exported(x), net(x), rtol=1e-4, atol=1e-5)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies, at import
    peft = pytest.importorskip("peft")


@pytest.mark.parametrize("version", [None, "0.99.0"])
def test_an_attention_that_peft_adapted_is_read_as_peft_applies_it(tmp_path, version):
    def base() -> Attend:
        torch.manual_seed(0)
        return Attend(batch_first=True).eval()

    theirs = peft.get_peft_model(base(), peft.LoraConfig(r=3, lora_alpha=5, target_modules=["attn"])).eval()
    for name, parameter in theirs.named_parameters():
        if "lora" in name:
            parameter.data.normal_(std=0.5)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    if version:
        file = tmp_path / "theirs" / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_version": version}))
        with pytest.raises(ValueError, match=r"is of PEFT 0\.99\.0; PEFT up to 0\.21 applied .* twice"):
            load_adapter(base(), tmp_path / "theirs")
        return
    inputs = (torch.randn(2, 4, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8))
    net = base()
    assert load_adapter(net, tmp_path / "theirs").complete
    layers = adapted_layers(net)
    assert {name: layer.scaling for name, layer in layers.items()} == {
        "attn.lora_in_proj": 5 / 3,
        "attn.out_proj": 10 / 3,
    }
    with torch.no_grad():
        close(net(*inputs), theirs(*inputs))
        assert not adapter_info(save_adapter(net, tmp_path / "ours"))["peft"]
        again = base()
        load_adapter(again, tmp_path / "ours")
        close(again(*inputs), net(*inputs))
