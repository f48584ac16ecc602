"""Raw parameters travel to PEFT's `target_parameters` and back."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from lorgnette.lora import (
    LoRAConfig,
    adapted_layers,
    adapter_info,
    effective_parameter,
    get_lora_params,
    inject_lora,
    load_adapter,
    save_adapter,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies, at import
    peft = pytest.importorskip("peft")


class Scan(nn.Module):
    """(B, 4) -> (B, 4): stacks as in a selective scan, a matrix, and layers inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.x_proj_weight = nn.Parameter(torch.randn(3, 5, 4))
        self.bias = nn.Parameter(torch.randn(4))
        self.dt_projs_weight = nn.Parameter(torch.randn(3, 4, 5))
        self.mix = nn.Parameter(torch.randn(4, 4))
        self.alone = nn.Parameter(torch.randn(1, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        low = torch.einsum("kri,bi->bkr", effective_parameter(self, "x_proj_weight"), self.inner(x))
        x = torch.einsum("kor,bkr->bo", effective_parameter(self, "dt_projs_weight"), low.tanh()) + self.bias
        return x @ effective_parameter(self, "mix").mT + x @ effective_parameter(self, "alone")[0].mT


class Outer(nn.Module):
    """A module with a raw parameter around one with several."""

    def __init__(self) -> None:
        super().__init__()
        self.scan = Scan()
        self.gate_weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.scan(x) @ effective_parameter(self, "gate_weight").mT


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Outer(), Scan()
        self.head = nn.Linear(4, 3)
        self.own = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x))) @ effective_parameter(self, "own").mT


def make() -> Net:
    torch.manual_seed(0)
    return Net().eval()


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def trained(model):
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


OURS = {
    "stacks": {"target_parameters": ["x_proj_weight", "dt_projs_weight"]},
    "everything below the top": {"target_parameters": r".+\.(x_proj_weight|dt_projs_weight|mix|alone)"},
    "with layers inside": {"target_parameters": ["mix", "second.x_proj_weight"], "target_modules": ["inner", "head"]},
    "patterns": {
        "target_parameters": ["x_proj_weight", "mix"],
        "rank_pattern": {"mix": 1, r"first\.scan\.x_proj_weight": 5},
        "alpha_pattern": {"second.mix": 2},
    },
    "rslora": {"target_parameters": ["mix"], "use_rslora": True},
    "a saved module beside": {"target_parameters": ["second.mix"], "modules_to_save": ["head"]},
}


@pytest.mark.parametrize("settings", OURS.values(), ids=OURS)
def test_peft_loads_ours_without_a_warning(tmp_path, settings):
    net = trained(inject_lora(make(), LoRAConfig(r=2, lora_alpha=6, **settings)))
    wanted = net(X)
    folder = save_adapter(net, tmp_path)
    assert adapter_info(folder)["peft"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # PEFT looks for what a pattern means among layers alone, warns, and applies it all the same.
        warnings.filterwarnings("ignore", r".*(rank|alpha)_pattern keys did not match")
        theirs = peft.PeftModel.from_pretrained(make(), str(folder)).eval()
    close(theirs(X), wanted)
    wrappers = [module for module in theirs.modules() if type(module).__name__ == "ParamWrapper"]
    assert len(wrappers) + len(settings.get("target_modules", ())) + ("target_modules" in settings) == len(
        adapted_layers(net)
    )
    again = make()
    assert load_adapter(again, folder).complete
    assert torch.equal(again(X), wanted)
    (folder / "lorgnette.json").unlink()  # as if PEFT had written it
    again = make()
    assert load_adapter(again, folder).complete
    close(again(X), wanted)


THEIRS = {
    "stacks": {"target_parameters": ["x_proj_weight", "dt_projs_weight"]},
    "nested": {"target_parameters": ["mix", "x_proj_weight", "alone"], "target_modules": ["inner"]},
    "patterns": {
        "target_parameters": ["scan.mix", "second.dt_projs_weight"],
        "rank_pattern": {"scan.mix": 3},
        "alpha_pattern": {"dt_projs_weight": 9},
    },
    "the weight of a layer": {
        "target_parameters": ["first.scan.mix", "second.inner.weight", "head.weight"],
        "alpha_pattern": {"inner.weight": 2},
    },
}


@pytest.mark.filterwarnings(r"ignore:.*(rank|alpha)_pattern keys did not match")
@pytest.mark.parametrize("settings", THEIRS.values(), ids=THEIRS)
def test_what_peft_wrote(tmp_path, settings):
    settings = {"target_modules": []} | settings
    theirs = trained(peft.get_peft_model(make(), peft.LoraConfig(r=2, lora_alpha=6, **settings))).eval()
    wanted = theirs(X)
    theirs.save_pretrained(str(tmp_path))
    net = make()
    assert load_adapter(net, tmp_path).complete
    close(net(X), wanted)
    assert all(parameter.requires_grad for parameter in get_lora_params(net))
    again = make()  # what was read is written, and read again
    assert load_adapter(again, save_adapter(net, tmp_path / "again")).complete
    assert torch.equal(again(X), net(X))


BEYOND = {
    "the model's own": ({"target_parameters": ["own"]}, "none of the model itself"),
    "dropout": ({"target_parameters": ["mix"], "lora_dropout": 0.1}, "no dropout where it adapts raw parameters"),
    "a name that ends another": ({"target_parameters": ["first.scan.mix"]}, None),
    "nested": ({"target_parameters": ["first.gate_weight", "mix"]}, "cannot adapt parameters inside first"),
    "saved inside": (
        {"target_parameters": ["first.gate_weight"], "modules_to_save": ["scan.inner"]},
        "inside the wrapper",
    ),
}


@pytest.mark.parametrize(("settings", "reason"), BEYOND.values(), ids=BEYOND)
def test_what_peft_cannot_hold_is_marked(tmp_path, settings, reason):
    net = trained(inject_lora(make(), LoRAConfig(r=2, **settings)))
    wanted = net.eval()(X)
    folder = save_adapter(net, tmp_path)
    description = json.loads((folder / "adapter_config.json").read_text())
    if reason is None:
        assert description["target_parameters"] == ["first.scan.mix"]
    else:
        assert description["peft_type"] == "LORGNETTE"
        assert any(reason in line for line in description["reasons"])
    again = make()
    assert load_adapter(again, folder).complete
    assert torch.equal(again(X), wanted)


def test_a_name_that_would_take_another_along(tmp_path):
    net = nn.ModuleDict({"a": Scan(), "b": nn.ModuleDict({"a": Scan()})})
    inject_lora(net, LoRAConfig(r=2, target_parameters=r"a\.mix"))
    folder = save_adapter(net, tmp_path)
    description = json.loads((folder / "adapter_config.json").read_text())
    assert description["reasons"] == ["b.a: PEFT would adapt more of its parameters, whose names end alike"]


def test_files_that_do_not_fit_are_refused(tmp_path):
    config = peft.LoraConfig(r=2, target_modules=[], target_parameters=["x_proj_weight", "second.mix"])
    peft.get_peft_model(make(), config).save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_model.safetensors"
    whole = safetensors.torch.load_file(path)
    lost = {key: tensor for key, tensor in whole.items() if ".second.lora_" not in key}
    safetensors.torch.save_file(lost, path)
    with pytest.raises(ValueError, match=r"holds nothing for 'second\.mix', which target_parameters names"):
        load_adapter(make(), tmp_path)
    broken = whole | {"base_model.model.first.scan.lora_A.weight": torch.zeros(7, 4)}
    safetensors.torch.save_file(broken, path)
    with pytest.raises(ValueError, match=r"scan\.x_proj_weight: lora_A is 7x4, which fits no stack of 3"):
        load_adapter(make(), tmp_path)
    safetensors.torch.save_file(whole, path)
    other = make()
    other.second.x_proj_weight = nn.Parameter(torch.randn(3, 6, 4))
    with pytest.raises(ValueError, match="is 3x5x2, in the model 3x6x2"):
        load_adapter(other, tmp_path)
    other = make()
    other.second.is_transposed = True
    with pytest.raises(ValueError, match=r"second\.x_proj_weight: its last axis is that of the outputs"):
        load_adapter(other, tmp_path)
    description = tmp_path / "adapter_config.json"
    settings = json.loads(description.read_text())
    description.write_text(json.dumps(settings | {"target_parameters": "mix"}))
    with pytest.raises(ValueError, match="target_parameters = 'mix' is not a list of names"):
        load_adapter(make(), tmp_path)


def test_an_adapter_whose_stacks_were_kept_by_name_loads(tmp_path):
    net = trained(inject_lora(make(), LoRAConfig(r=2, target_parameters=["own", "mix"])))
    before = copy.deepcopy(net)
    save_adapter(net, tmp_path)
    names = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.second.lora_mix.lora_A.weight" in names  # as always where PEFT has no place for it
    again = make()
    assert load_adapter(again, tmp_path).complete
    assert torch.equal(again(X), before(X))
