"""Adapters of parts of a module: raw parameters, slices of a fused projection."""
# ruff: noqa: E501  (tables of messages)

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from lorgnette.lora import (
    LoRAConfig,
    adapted_layers,
    adapter_info,
    count_parameters,
    disabled,
    effective_parameter,
    fingerprint,
    get_lora_params,
    get_lora_state_dict,
    inject_lora,
    is_adapted,
    load_adapter,
    load_lora_state_dict,
    merge_lora_weights,
    save_adapter,
    unload_lora,
    verify,
)

DATA = Path(__file__).parents[2] / "data" / "adapter_v1_parts"
quick = settings(max_examples=40, deadline=None)


class Scan(nn.Module):
    """Reads stacked projections as SS2D does: (B, C) -> (B, K, N)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.x_proj_weight = nn.Parameter(torch.randn(*(shape or (4, 3, 6))))
        self.A_logs = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...nc,bc->b...n", effective_parameter(self, "x_proj_weight"), x) + self.A_logs.sum()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Scan(), Scan()])
        self.head = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x).sum(1) + self.blocks[1](x).sum(1)
        return self.head(x) @ effective_parameter(self, "scale")


CONFIG = LoRAConfig(r=2, lora_alpha=6, target_parameters=["x_proj_weight", "scale"], target_modules=["head"])


def make(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


@quick
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.sampled_from([1, 3, 9]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_a_raw_parameter_is_exact_whatever_its_shape(shape, r, dtype):
    torch.manual_seed(0)
    scan = Scan(*shape).to(dtype)
    x = torch.randn(2, shape[-1], dtype=dtype)
    before, weight = scan(x), scan.x_proj_weight.detach().clone()
    net = inject_lora(nn.Sequential(scan), LoRAConfig(r=r, target_parameters=["x_proj_weight"]))
    assert torch.equal(net(x), before)
    adapter = adapted_layers(net)["0.lora_x_proj_weight"]
    assert adapter.r == r
    assert adapter.lora_A.shape == (*shape[:-2], r, shape[-1])
    assert adapter.lora_A.dtype == torch.promote_types(dtype, torch.float32)
    adapter.lora_B.data.normal_()
    wanted = net(x)
    slow = weight.double() + adapter.scaling * (adapter.lora_B.double() @ adapter.lora_A.double())
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float64: 1e-14}[dtype]  # rounded once
    found = effective_parameter(scan, "x_proj_weight").double()
    torch.testing.assert_close(found, slow, rtol=tolerance, atol=tolerance)
    with disabled(net):
        assert torch.equal(net(x), before)
        assert effective_parameter(scan, "x_proj_weight") is scan.x_proj_weight
    assert torch.equal(merge_lora_weights(net, inplace=False)(x), wanted), "the same sum, rounded once"
    assert torch.equal(scan.x_proj_weight, weight)
    assert torch.equal(unload_lora(copy.deepcopy(net))(x), before)
    merge_lora_weights(net)
    assert torch.equal(net(x), wanted)
    assert list(net.state_dict()) == ["0.x_proj_weight", "0.A_logs"]


def test_gradients_of_a_stacked_parameter_in_float64():
    torch.manual_seed(0)
    net = inject_lora(nn.Sequential(Scan(2, 3, 4).double()), LoRAConfig(r=2, target_parameters=".*x_proj.*"))
    adapter = net[0].lora_x_proj_weight
    adapter.lora_B.data.normal_()
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)

    def output(x, a, b):
        names = {"0.lora_x_proj_weight.lora_A": a, "0.lora_x_proj_weight.lora_B": b}
        return torch.func.functional_call(net, names, (x,))

    assert torch.autograd.gradcheck(output, (x, adapter.lora_A, adapter.lora_B))


def test_parameters_go_through_a_folder_and_the_base_is_recognised(tmp_path):
    net, base = make(), fingerprint(make())
    inject_lora(net, CONFIG)
    assert list(adapted_layers(net)) == [
        "blocks.0.lora_x_proj_weight",
        "blocks.1.lora_x_proj_weight",
        "head",
        "lora_scale",
    ]
    assert fingerprint(net) == base
    assert count_parameters(net).trainable == count_parameters(net).lora == 2 * (4 * 2 * 9) + 2 * 5 + 2 * 4
    for parameter in get_lora_params(net):
        nn.init.normal_(parameter)
    assert "blocks.0.lora_x_proj_weight.lora_B" in get_lora_state_dict(net)
    x = torch.randn(3, 6)
    wanted = net(x)
    folder = save_adapter(net, tmp_path, CONFIG)
    assert not adapter_info(folder)["peft"]
    reasons = json.loads((folder / "adapter_config.json").read_text())["reasons"]
    assert "lora_scale: PEFT adapts raw parameters of two or three dimensions, and none of the model itself" in reasons
    other = make()
    assert load_adapter(other, folder).complete
    assert torch.equal(other(x), wanted)
    assert {n for n, p in other.named_parameters() if p.requires_grad} == set(get_lora_state_dict(net))
    injected = inject_lora(make(), CONFIG)
    load_adapter(injected, folder)
    assert torch.equal(injected(x), wanted)
    again = inject_lora(make(), CONFIG)
    load_lora_state_dict(again, get_lora_state_dict(net))
    assert torch.equal(again(x), wanted)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), wanted)
    assert verify(net, x).ok


def test_who_reads_a_raw_parameter_past_its_adapter_is_found():
    class Raw(Scan):
        def forward(self, x):
            weight = effective_parameter(self, "x_proj_weight") if self.training else self.x_proj_weight
            return torch.einsum("...nc,bc->b...n", weight, x)

    net = inject_lora(nn.Sequential(Raw()), LoRAConfig(r=2, target_parameters=["x_proj_weight"]))
    report = verify(net, torch.randn(2, 6))
    assert report.dead_in_train == ()
    assert report.dead_in_eval == ("0.lora_x_proj_weight",)


def test_dropout_of_a_raw_parameter_acts_on_its_factor():
    net = inject_lora(nn.Sequential(Scan()), LoRAConfig(r=2, lora_dropout=0.5, target_parameters=["x_proj_weight"]))
    x = torch.randn(2, 6)
    net[0].lora_x_proj_weight.lora_B.data.normal_()
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_parameters_of_one_memory_share_their_factors():
    net = make()
    net.blocks[1].x_proj_weight = net.blocks[0].x_proj_weight
    inject_lora(net, LoRAConfig(r=2, target_parameters=["x_proj_weight"]))
    assert len(get_lora_params(net)) == 2
    nn.init.normal_(get_lora_params(net)[1])
    x = torch.randn(3, 6)
    wanted = net(x)
    merged = merge_lora_weights(net)
    torch.testing.assert_close(merged(x), wanted)
    assert net.blocks[0].x_proj_weight is net.blocks[1].x_proj_weight


class Sealed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.norm = nn.GroupNorm(1, 2)
        self.table = nn.Parameter(torch.zeros(3, 3, dtype=torch.complex64))
        self.inner = Scan()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["x_proj"], "lora.target_parameters: 'x_proj' matches no parameter of Sealed that can be adapted; it has 'x_proj_weight'"),
        (["A_logs"], "lora.target_parameters: 'inner.A_logs' has 1 dimensions; 2 to 4 can be adapted"),
        (["conv.weight"], "'conv.weight' is read raw by its nn.Conv2d: a layer is named in lora.target_modules"),
        (["norm.weight"], "'norm.weight' is read raw by its nn.GroupNorm"),
        (["table"], "lora.target_parameters: 'table' has a complex64 table"),
        (r".*conv\.weight", "matches no parameter of Sealed that can be adapted"),
        ([3], "lora.target_parameters: [3] is not a list of names"),
    ],
)  # fmt: skip
def test_a_parameter_that_cannot_be_adapted_is_named(targets, message):
    net = Sealed()
    with pytest.raises(ValueError, match="lora") as error:
        inject_lora(net, LoRAConfig(target_parameters=targets))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not is_adapted(net)


def test_a_second_adapter_of_the_same_parameter_is_refused():
    net = inject_lora(make(), CONFIG)
    with pytest.raises(ValueError, match=r"'blocks\.0\.x_proj_weight' is adapted already"):
        inject_lora(net, LoRAConfig(target_parameters=["x_proj_weight"]))


def test_patterns_may_call_a_raw_parameter_by_its_name_and_nothing_is_overwritten():
    net = inject_lora(make(), LoRAConfig(target_parameters=["x_proj_weight"], rank_pattern={"0.x_proj_weight": 3}))
    assert [adapter.r for adapter in adapted_layers(net).values()] == [3, 8]
    net = make()
    net.blocks[0].lora_x_proj_weight = "taken"
    with pytest.raises(ValueError, match=r"has an attribute 'blocks\.0\.lora_x_proj_weight' already"):
        inject_lora(net, LoRAConfig(target_parameters=["x_proj_weight"]))
    assert not is_adapted(net)


class Fused(nn.Module):
    """(B, L, 6) -> (B, L, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.proj = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(F.softmax(q @ k.mT, -1) @ v)


@quick
@given(
    st.lists(st.sampled_from(["q", "k", "v"]), min_size=1, max_size=3, unique=True),
    st.sampled_from([1, 4, 20]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_slices_of_a_fused_projection_are_exact(slices, r, dtype):
    torch.manual_seed(0)
    net, x = Fused().to(dtype).requires_grad_(False), torch.randn(2, 5, 6, dtype=dtype)
    before = net(x)
    inject_lora(net, LoRAConfig(r=r, target_modules=["qkv", "proj"], slices={"qkv": slices}))
    assert torch.equal(net(x), before)
    assert list(adapted_layers(net)) == [*(f"qkv.lora_{s}" for s in slices), "proj"]
    for name in slices:
        net.qkv.get_submodule(f"lora_{name}").lora_B.data.normal_()
    rows = (net.qkv.effective_weight() != net.qkv.weight).any(1)
    assert rows.view(3, 6).any(1).tolist() == [name in slices for name in "qkv"]
    if dtype != torch.bfloat16:
        torch.testing.assert_close(
            F.linear(x, net.qkv.effective_weight(), net.qkv.bias), net.qkv(x), rtol=1e-4, atol=1e-4
        )
        wanted = net(x)
        torch.testing.assert_close(merge_lora_weights(net, inplace=False)(x), wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(unload_lora(net)(x), before)
    assert type(net.qkv) is nn.Linear
    assert repr(net.qkv) == repr(nn.Linear(6, 18))


def test_each_slice_has_its_own_rank_and_goes_through_a_folder(tmp_path):
    def base() -> Fused:
        torch.manual_seed(0)
        return Fused()

    config = LoRAConfig(
        r=4, target_modules=["qkv"], slices={"qkv": ["q", "12:18"]}, rank_pattern={"lora_12_18": 2}, lora_dropout=0.1
    )
    net = inject_lora(base(), config)
    assert {name: adapter.r for name, adapter in adapted_layers(net).items()} == {"qkv.lora_q": 4, "qkv.lora_12_18": 2}
    for parameter in get_lora_params(net):
        nn.init.normal_(parameter)
    x = torch.randn(2, 5, 6)
    wanted = net.eval()(x)
    other = base().eval()
    load_adapter(other, save_adapter(net, tmp_path))
    assert torch.equal(other(x), wanted)
    assert adapter_info(tmp_path)["layers"]["qkv.lora_12_18"]["rows"] == [12, 18]
    assert type(pickle.loads(pickle.dumps(net)).qkv) is type(net.qkv)
    assert verify(net, x).ok
    assert not torch.equal(net.train()(x), net(x))
    inject_lora(net, LoRAConfig(r=1, target_modules=["qkv"], slices={"qkv": ["k"]}))
    assert list(adapted_layers(net)) == ["qkv.lora_q", "qkv.lora_12_18", "qkv.lora_k"]
    torch.testing.assert_close(net.eval()(x), wanted)  # the third slice starts at zero
    report = torch._dynamo.explain(net)(x)
    assert report.graph_break_count == 0
    with pytest.raises(ValueError, match="'qkv' is adapted already"):
        inject_lora(net, target_modules=["qkv"])


def test_gradients_of_a_sliced_projection_in_float64():
    torch.manual_seed(0)
    net = inject_lora(
        nn.Sequential(nn.Linear(3, 6).double()), LoRAConfig(r=2, target_modules=["0"], slices={"0": ["k", "4:5"]})
    )
    for parameter in get_lora_params(net):
        nn.init.normal_(parameter)
    names, x = list(get_lora_state_dict(net)), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def output(x, *factors):
        return torch.func.functional_call(net, dict(zip(names, factors, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *get_lora_params(net)))


class Version1Parts(nn.Module):
    """The base of the committed adapter; its weights are made by formula, not by a random generator."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.qkv = nn.Linear(4, 12)
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)
        self.other = nn.MultiheadAttention(4, 2, kdim=3, vdim=2, batch_first=True)
        self.up = nn.ConvTranspose1d(4, 2, 2, groups=2)
        self.scan = Scan(2, 3, 4)
        for parameter in self.parameters():
            parameter.data = torch.linspace(-1, 1, parameter.numel()).view(parameter.shape)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + self.attn(q, k, v)[0]
        x = x + self.other(x, x[..., :3], x[..., :2])[0]
        return self.scan(self.up(x.mT).mT.flatten(1)[:, :4]).flatten(1)


def test_a_version_1_adapter_of_parts_loads_for_ever(tmp_path):
    net = Version1Parts().eval()
    shutil.copytree(DATA, tmp_path / "adapter")
    report = load_adapter(net, tmp_path / "adapter")
    assert report.complete
    assert {name: layer.r for name, layer in adapted_layers(net).items()} == {
        "table": 2, "qkv.lora_q": 2, "qkv.lora_8_12": 1, "attn.lora_in_proj": 2, "attn.out_proj": 2,
        "other.lora_k": 2, "up": 2, "scan.lora_x_proj_weight": 3,
    }  # fmt: skip
    expected = safetensors.torch.load_file(DATA.parent / "adapter_v1_parts_output.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(net(expected["tokens"]), expected["output"], rtol=1e-4, atol=1e-5)
        merge_lora_weights(net)
        torch.testing.assert_close(net(expected["tokens"]), expected["output"], rtol=1e-4, atol=1e-5)


def test_a_load_that_is_not_strict_says_exactly_which_parts_found_no_place():
    net = Version1Parts().eval()
    net.qkv = nn.Linear(4, 9)
    net.other = nn.Identity()
    net.scan.x_proj_weight = nn.Parameter(torch.zeros(2, 3, 5))
    del net.up
    report = load_adapter(net, DATA, strict=False)
    assert set(adapted_layers(net)) == {"table", "qkv.lora_q", "attn.lora_in_proj", "attn.out_proj"}
    assert {name.rpartition(".")[0] for name in report.unexpected} == {"qkv.lora_8_12", "other.lora_k", "up"}
    assert report.unexpected["qkv.lora_8_12.lora_A"] == ", which has no rows 8 to 12"
    assert report.unexpected["other.lora_k.lora_B"] == ", which is no parameter of the model"
    assert report.mismatched == {"scan.lora_x_proj_weight.lora_A": "is 2x3x4, in the model 2x3x5"}
    narrow = Version1Parts()
    narrow.qkv = nn.Linear(4, 9)
    with pytest.raises(ValueError, match=r"'qkv\.lora_8_12' has no rows 8 to 12"):
        load_adapter(narrow, DATA, check_base=False)
    assert not is_adapted(narrow)


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ({"qkv": ["x"]}, "lora.slices: 'x' is no slice of 'qkv'; 'q', 'k', 'v' or rows such as '0:9' are"),
        ({"qkv": ["q", "3:9"]}, "lora.slices: those of 'qkv', q, 3:9, overlap"),
        ({"qkv": ["9:99"]}, "lora.slices: '9:99' is no slice of 'qkv'"),
        ({"proj": ["q"]}, "lora.slices: 'proj' matches no adapted layer; it has 'qkv'"),
        ({"qkv": "q"}, "lora.slices['qkv']: 'q' is not a list of parts such as ['q', 'v']"),
        ({"conv": ["q"]}, "lora.slices: 'conv' is a Conv1d; only nn.Linear has slices"),
        ({"(": ["q"]}, "lora.slices: '(' is not a regular expression"),
    ],
)
def test_a_wrong_slice_is_named(slices, message):
    net = Fused()
    net.conv = nn.Conv1d(1, 3, 1)
    with pytest.raises(ValueError, match="lora") as error:
        inject_lora(net, LoRAConfig(target_modules=["qkv", *(["conv"] if "conv" in slices else [])], slices=slices))
    assert str(error.value).startswith(message)
    assert not is_adapted(net)


def test_a_damaged_description_of_a_part_is_refused(tmp_path):
    net = inject_lora(Fused(), LoRAConfig(target_modules=["qkv"], slices={"qkv": ["q"]}))
    manifest = save_adapter(net, tmp_path) / "lorgnette.json"
    good = json.loads(manifest.read_text())
    for change, message in (
        ({"rows": "all"}, "is damaged"),
        ({"rows": [0, 99]}, "'qkv.lora_q' has no rows 0 to 99"),
        ({"parameter": "bias"}, "has 1 dimensions"),
        ({"parameter": "what"}, "is no parameter of the model"),
        ({"parameter": 3}, "is damaged"),
    ):
        bad = copy.deepcopy(good)
        bad["layers"]["qkv.lora_q"] |= change
        manifest.write_text(json.dumps(bad))
        other = Fused()
        with pytest.raises(ValueError, match=r"adapter|lorgnette\.json") as error:
            load_adapter(other, tmp_path, check_base=False)
        assert message in str(error.value)
        assert not is_adapted(other)
