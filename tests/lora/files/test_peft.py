"""PEFT reads what is written here, and what PEFT writes is read here; both give the same output."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from lorgnette.lora import (
    LoRAConfig,
    adapted_layers,
    adapter_info,
    inject_lora,
    load_adapter,
    save_adapter,
    trained_tensors,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies, at import
    peft = pytest.importorskip("peft")


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


OURS = {
    "one rank": LoRAConfig(r=4, lora_alpha=8, target_modules=["to_qkv", "stem", "head"]),
    "patterns": LoRAConfig(
        r=4,
        lora_alpha=6,
        target_modules="all-linear",
        rank_pattern={r"1\.to_qkv": 2, "head": 11},
        alpha_pattern={r"0\.to_out\.0": 2.5},
    ),
    "rslora": LoRAConfig(r=4, use_rslora=True, target_modules=r"stem|blocks\.0\.to_qkv"),
    "saved modules": LoRAConfig(r=2, target_modules=["to_qkv"], modules_to_save=["head", "bn", "1.norm"]),
}


@pytest.mark.parametrize("config", OURS.values(), ids=OURS)
def test_peft_loads_ours_without_a_warning(make_net, images, shake, tmp_path, config):
    net = inject_lora(make_net(), config)
    shake(net)
    if config.modules_to_save:
        with torch.no_grad():
            for tensor in (net.head.weight, net.bn.running_mean, net.blocks[1].norm.bias):
                tensor.add_(0.5)
    wanted = net(images)
    folder = save_adapter(net, tmp_path)
    assert adapter_info(folder)["peft"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings = peft.LoraConfig.from_pretrained(str(folder))
        theirs = peft.PeftModel.from_pretrained(make_net(), str(folder)).eval()
    assert settings.peft_type == "LORA"
    adapted = {name for name, module in theirs.named_modules() if hasattr(module, "base_layer")}
    assert adapted == {f"base_model.model.{name}" for name in adapted_layers(net)}
    close(theirs(images), wanted)
    close(theirs.merge_and_unload()(images), wanted)


THEIRS = {
    "linear and conv": {"r": 4, "lora_alpha": 8, "target_modules": ["to_qkv", "stem"]},
    "patterns": {
        "target_modules": r"blocks.*to_(qkv|out\.0)|head",
        "rank_pattern": {"to_qkv": 3, "^head": 12},
        "alpha_pattern": {"0.to_qkv": 5},
        "lora_dropout": 0.1,
    },
    "rslora": {"r": 4, "use_rslora": True, "target_modules": ["head"], "init_lora_weights": "gaussian"},
    "saved modules": {"target_modules": ["to_qkv"], "modules_to_save": ["head"]},
}


def written_by_peft(net, folder, **settings):
    model = peft.get_peft_model(net, peft.LoraConfig(**settings))
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
            assert "lora" not in name or parameter.requires_grad
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(folder))
    return model.eval()


@pytest.mark.parametrize("settings", THEIRS.values(), ids=THEIRS)
def test_we_load_what_peft_wrote(make_net, images, tmp_path, settings):
    theirs = written_by_peft(make_net(), tmp_path, **settings)
    net = make_net()
    report = load_adapter(net, tmp_path)
    assert report.complete
    assert report.base is None
    assert report.extra == {}
    assert adapter_info(tmp_path) == {}
    close(net(images), theirs(images))
    inject_again = make_net()
    load_adapter(inject_again, tmp_path)
    again = save_adapter(inject_again, tmp_path / "again")
    back = peft.PeftModel.from_pretrained(make_net(), str(again)).eval()
    close(back(images), theirs(images))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([1, 3, (1, 3)]),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 1, "same"]),
    st.sampled_from([1, 6]),
)
def test_convolutions_of_any_shape_mean_the_same_to_peft(tmp_path_factory, wide, out, kernel, stride, padding, r):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(wide, out, kernel, stride=1 if padding == "same" else stride, padding=padding))
    net = inject_lora(copy.deepcopy(base), target_modules=["0"], rank=r, alpha=3)
    net[0].lora_B.data.normal_()
    x = torch.randn(2, wide, 6, 5)
    folder = save_adapter(net, tmp_path_factory.mktemp("conv"))
    close(peft.PeftModel.from_pretrained(base, str(folder)).eval()(x), net(x))


OTHER_LAYERS = {
    "embedding": (nn.Embedding(9, 4, padding_idx=0), torch.tensor([[0, 3, 8]])),
    "conv 1d": (nn.Conv1d(3, 4, 3, stride=2, padding=1), torch.randn(2, 3, 7)),
    "conv 3d": (nn.Conv3d(2, 3, (1, 3, 2), padding=1), torch.randn(1, 2, 3, 4, 5)),
}


@pytest.mark.parametrize(("layer", "x"), OTHER_LAYERS.values(), ids=OTHER_LAYERS)
def test_the_other_layers_that_both_have_go_both_ways(tmp_path, layer, x):
    def base() -> nn.Module:
        return nn.Sequential(copy.deepcopy(layer))

    net = inject_lora(base(), target_modules=["0"], rank=3, alpha=5)
    net[0].lora_B.data.normal_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = peft.PeftModel.from_pretrained(base(), str(save_adapter(net, tmp_path / "ours"))).eval()
    close(theirs(x), net(x))
    assert not torch.equal(net(x), base()(x))

    theirs = written_by_peft(base(), tmp_path / "theirs", target_modules=["0"], r=3, lora_alpha=5)
    net = base()
    load_adapter(net, tmp_path / "theirs")
    close(net(x), theirs(x))
    again = peft.PeftModel.from_pretrained(base(), str(save_adapter(net, tmp_path / "again"))).eval()
    assert torch.equal(again(x), theirs(x))


class Alike(nn.Module):
    """`fc` is the end of another layer's name."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.inner = nn.ModuleDict({"fc": nn.Linear(4, 4)})

    def forward(self, x):
        return self.inner["fc"](self.fc(x))


def test_a_name_that_ends_another_is_not_mistaken(tmp_path, shake):
    torch.manual_seed(0)
    base = Alike()
    net = inject_lora(copy.deepcopy(base), LoRAConfig(r=2, target_modules="fc"))
    shake(net)
    folder = save_adapter(net, tmp_path)
    x = torch.randn(2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
    close(theirs(x), net(x))
    net = inject_lora(net, LoRAConfig(r=3, target_modules=[r"inner.fc"]))
    shake(net)
    theirs = peft.PeftModel.from_pretrained(base, str(save_adapter(net, tmp_path))).eval()
    close(theirs(x), net(x))


def test_layers_that_scale_in_two_ways_are_written_with_equal_scaling(make_net, images, shake, tmp_path):
    net = inject_lora(make_net(), LoRAConfig(r=4, use_rslora=True, target_modules=["head"]))
    inject_lora(net, LoRAConfig(r=2, target_modules=["stem"]))
    shake(net)
    theirs = peft.PeftModel.from_pretrained(make_net(), str(save_adapter(net, tmp_path))).eval()
    close(theirs(images), net(images))


class Beyond(nn.Module):
    def __init__(self, **conv) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=2, **conv)
        self.shared = nn.ModuleList([self.conv])
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.conv(x) * self.scale


BEYOND = {
    "groups": ({"groups": 2}, ["conv"], "factorises a convolution with groups"),
    "padding": ({"padding_mode": "reflect"}, ["conv"], "not by 'reflect'"),
    "dilation": ({"dilation": 2}, ["conv"], "does not dilate"),
    "shared layer": ({}, ["conv"], "only one of the places"),
}


@pytest.mark.parametrize(("conv", "targets", "reason"), BEYOND.values(), ids=BEYOND)
def test_what_peft_cannot_express_is_marked_and_peft_refuses_it(tmp_path, shake, conv, targets, reason):
    torch.manual_seed(0)
    base = Beyond(**conv)
    net = inject_lora(copy.deepcopy(base), target_modules=targets, rank=3)
    net.scale.requires_grad_(True)
    shake(net)
    folder = save_adapter(net, tmp_path)
    description = json.loads((folder / "adapter_config.json").read_text())
    assert description["peft_type"] == "LORGNETTE"
    assert not adapter_info(folder)["peft"]
    assert any(reason in text for text in description["reasons"])
    assert description["reasons"][-1] == "the model: PEFT saves whole innermost modules only"
    with pytest.raises(KeyError, match="LORGNETTE"):
        peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder))
    x = torch.randn(1, 4, 6, 6)
    other = copy.deepcopy(base)
    load_adapter(other, folder)
    assert torch.equal(other(x), net(x))
    assert other.scale.requires_grad
    (folder / "lorgnette.json").unlink()
    with pytest.raises(ValueError, match="peft_type 'LORGNETTE' is not supported; 'LORA' is"):
        load_adapter(base, folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
        ({"use_dora": True}, "1 missing ('head.lora_magnitude')"),
        ({"bias": "all"}, "bias = 'all', and adapter_model.safetensors lacks 'head.bias': it is incomplete"),
        ({"bias": "some"}, "bias = 'some' is not supported; 'none', 'all', 'lora_only' are"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4' changed base weights"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern: '(' is not a regular expression"),
        ({"alpha_pattern": [1]}, "alpha_pattern = [1] is not a table"),
        ({"lora_alpha": "much"}, "lora.lora_alpha: 'much'"),
        ({"lora_dropout": 2}, "lora.lora_dropout: 2"),
    ],
)
def test_peft_settings_with_another_meaning_are_refused(make_net, tmp_path, changes, message):
    written_by_peft(make_net(), tmp_path, target_modules=["head"])
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match="the adapter in") as error:
        load_adapter(make_net(), tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_other_files_of_peft_are_refused(make_net, tmp_path):
    written_by_peft(make_net(), tmp_path, target_modules=["head"])
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(ValueError, match="peft_type None is not supported"):
        load_adapter(make_net(), tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*adapter_config\.json"):
        load_adapter(make_net(), tmp_path)
    renamed = make_net()
    renamed.haed = renamed.head
    del renamed.head
    written_by_peft(make_net(), tmp_path, target_modules=["head"])
    with pytest.raises(ValueError, match=r"2 unexpected \('head\.lora_A'"):
        load_adapter(renamed, tmp_path)
    written_by_peft(make_net(), tmp_path, target_modules=["head"])
    file = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file({name.replace("lora_", "other_"): t for name, t in tensors.items()}, file)
    with pytest.raises(ValueError, match="holds no lora_A"):
        load_adapter(make_net(), tmp_path)


class Biased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x).flatten(2).mT))


@pytest.mark.parametrize(("bias", "trained"), [("lora_only", 2), ("all", 3)])
def test_trained_biases_go_both_ways(tmp_path, shake, bias, trained):
    torch.manual_seed(0)
    base, x = Biased(), torch.randn(2, 3, 4, 4)
    net = inject_lora(copy.deepcopy(base), LoRAConfig(r=2, target_modules=["conv", "fc"], bias=bias))
    shake(net)
    assert len(trained_tensors(net)) == trained
    with torch.no_grad():
        for tensor in trained_tensors(net).values():
            tensor.add_(1)
    folder = save_adapter(net, tmp_path / "ours")
    assert json.loads((folder / "adapter_config.json").read_text())["bias"] == bias
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
    close(theirs(x), net(x))
    theirs = written_by_peft(copy.deepcopy(base), tmp_path / "t", target_modules=["conv", "fc"], bias=bias)
    back = copy.deepcopy(base)
    load_adapter(back, tmp_path / "t")
    assert len(trained_tensors(back)) == trained
    close(back(x), theirs(x))


@pytest.mark.parametrize("settings", [{}, {"bias": "lora_only"}, {"use_rslora": True, "alpha_pattern": {"attn": 5}}])
def test_an_attention_that_peft_trained_is_read(tmp_path, settings):
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x):
            return self.attn(x, x, x)[0]

    torch.manual_seed(0)
    base, x = Attention(), torch.randn(2, 4, 6)
    theirs = written_by_peft(copy.deepcopy(base), tmp_path, target_modules=["attn"], r=3, **settings)
    net = copy.deepcopy(base).eval()
    load_adapter(net, tmp_path)
    close(net(x), theirs(x))
    again = copy.deepcopy(base).eval()
    load_adapter(again, save_adapter(net, tmp_path / "again"))
    assert torch.equal(again(x), net(x))


def test_half_a_file_of_peft_is_refused(make_net, tmp_path):
    written_by_peft(make_net(), tmp_path, target_modules=["head", "to_qkv"])
    file = tmp_path / "adapter_model.safetensors"
    whole = safetensors.torch.load_file(file)
    cuts = {
        "blocks.1.to_qkv.": "holds nothing for 'blocks.1.to_qkv', which adapter_config.json names",
        "head.lora_B": "1 missing ('head.lora_B')",
    }
    for cut, message in cuts.items():
        safetensors.torch.save_file({name: t for name, t in whole.items() if cut not in name}, file)
        net = make_net()
        with pytest.raises(ValueError, match="the adapter in") as error:
            load_adapter(net, tmp_path)
        assert message in str(error.value)
        assert list(net.state_dict()) == list(make_net().state_dict())
    wrong = whole | {"base_model.model.head.lora_B.weight": torch.zeros(4, 3)}
    safetensors.torch.save_file(wrong, file)
    with pytest.raises(ValueError, match=r"'head\.lora_B' has rank 3, the model 8"):
        load_adapter(make_net(), tmp_path)


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
def test_a_convolution_that_peft_pads_in_another_way_is_refused(tmp_path):
    base = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    written_by_peft(copy.deepcopy(base), tmp_path / "reflect", target_modules=["0"])
    with pytest.raises(ValueError, match="PEFT trained '0' with zeros around its low-rank path"):
        load_adapter(base, tmp_path / "reflect")
    base = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    written_by_peft(copy.deepcopy(base), tmp_path / "groups", target_modules=["0"], r=2)
    with pytest.raises(ValueError, match=r"'0\.lora_A' is 2x4x3x3, in the model 2x2x3x3"):
        load_adapter(base, tmp_path / "groups")
