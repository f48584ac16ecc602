"""A new method is one class and one line in the table: shown with three, one for each place where a method may act."""

from __future__ import annotations

import ast
import copy
import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lorgnette
from lorgnette.federate.aggregation.adapter_state import Adapter
from lorgnette.lora import (
    LoRAConfig,
    LoRALinear,
    add_adapter,
    allocate,
    combine,
    get_lora_params,
    inject_lora,
    load_adapter,
    merge_lora_weights,
    per_sample,
    plan,
    resize,
    save_adapter,
    set_adapter,
    verify,
)
from lorgnette.lora.layers.base import LoRALayer, LowRank
from lorgnette.lora.layers.method import Method, Sizes
from lorgnette.lora.layers.tables import LAYERS, METHODS, adapted_class

SOURCE = Path(lorgnette.__file__).parent


class OutputScale(Method):
    """A learned scale for each row of B: it acts on the factors, and so its adapters can be added up and merged."""

    name = "output scale"
    tensors = ("lora_scale",)

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        return {"lora_scale": (sizes.B[0], *[1] * (len(sizes.B) - 1))}

    def start(self, adapter: LowRank, weight: Tensor, config: LoRAConfig) -> None:
        B = adapter.lora_B
        adapter.lora_scale = nn.Parameter(torch.ones(B.shape[0], *[1] * (B.dim() - 1), dtype=B.dtype))

    def factors(self, adapter: LowRank, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        return A, B * adapter.get_parameter("lora_scale")


class Curved(Method):
    """A learned threshold between the factors: the update depends on the input, and no weight holds it."""

    name = "curved"
    acts_on = "activations"
    tensors = ("lora_threshold",)
    fixed_rank = "has a threshold for each of its directions"

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        return {"lora_threshold": (sizes.r,)}

    def start(self, adapter: LowRank, weight: Tensor, config: LoRAConfig) -> None:
        adapter.lora_threshold = nn.Parameter(torch.zeros(config.r, dtype=adapter.lora_A.dtype))

    def between(self, adapter: LowRank, h: Tensor) -> Tensor:
        return h * torch.sigmoid(h - adapter.get_parameter("lora_threshold").to(h.dtype))


class Shrinking(Method):
    """A learned strength of the whole weight, update included."""

    name = "shrinking"
    acts_on = "weight"
    tensors = ("lora_strength",)

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        return {"lora_strength": (1,)}

    def start(self, adapter: LowRank, weight: Tensor, config: LoRAConfig) -> None:
        adapter.lora_strength = nn.Parameter(torch.ones(1))

    def weight(self, adapter: LowRank, total: Tensor, undropped: Tensor) -> Tensor:
        return total * adapter.get_parameter("lora_strength").to(total.dtype)


TOYS: dict[str, Method] = {method.name: method for method in (OutputScale(), Curved(), Shrinking())}
X = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def table(monkeypatch):
    for name, method in TOYS.items():
        monkeypatch.setitem(METHODS, name, method)


class Net(nn.Module):
    """Convolutions of every kind and a Linear layer: (B, 3, H, W) -> (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 2, groups=2)
        self.up = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.up(self.grouped(self.conv(x)).relu()).mean((2, 3)))


TARGETS = ["conv", "grouped", "up", "fc"]


def base() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def adapted(name: str, **settings) -> Net:
    return inject_lora(base(), LoRAConfig(r=2, target_modules=TARGETS, method=name, **settings))


def trained(model: nn.Module) -> nn.Module:
    """After a few steps, each of which lowers the loss."""
    optimizer, losses = torch.optim.Adam(get_lora_params(model), lr=0.05), []
    for _ in range(20):
        loss = (model(X) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    return model


@pytest.mark.parametrize("name", TOYS)
def test_it_starts_at_the_base_trains_and_comes_back_from_its_folder(name, tmp_path):
    model, own = adapted(name, lora_dropout=0.1), TOYS[name].tensors
    assert torch.equal(model(X), base()(X))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained(model.train()).eval()
    assert all(not torch.equal(model.get_parameter(f"fc.{tensor}"), before[f"fc.{tensor}"]) for tensor in own)
    assert verify(model, X).ok

    save_adapter(model, tmp_path)
    kind = json.loads((tmp_path / "adapter_config.json").read_text())
    assert kind["peft_type"] == "LORGNETTE"
    assert f"PEFT does not have lora.method {name!r}" in kind["reasons"][0]
    again = base()
    assert load_adapter(again, tmp_path).complete
    assert torch.equal(again(X), model(X))
    assert all(parameter.requires_grad for parameter in get_lora_params(again))
    assert torch.equal(copy.deepcopy(again)(X), model(X))
    for other in (LoRAConfig(r=2, target_modules=TARGETS), LoRAConfig(r=2, target_modules=TARGETS, use_dora=True)):
        with pytest.raises(ValueError, match=own[0]):
            load_adapter(inject_lora(base(), other), tmp_path)
    shown = plan(base(), LoRAConfig(r=2, target_modules=TARGETS, method=name))
    assert shown.parameters == sum(parameter.numel() for parameter in get_lora_params(model))


@pytest.mark.parametrize("name", TOYS)
def test_it_is_merged_added_up_and_mixed_where_it_acts_so(name):
    model, method = trained(adapted(name)), TOYS[name]
    wanted = model(X)
    merged = merge_lora_weights(model, inplace=False)
    torch.testing.assert_close(merged(X), wanted, rtol=1e-4, atol=1e-5)
    assert isinstance(merged.fc, LoRALinear) is not method.merges
    if not method.merges:
        with pytest.raises(ValueError, match="'curved': the update depends on the input, so that no weight holds"):
            model.fc.effective_weight()
    if method.linear:
        combine(model, {"default": 1.0}, "same")
        set_adapter(model, "same")
        torch.testing.assert_close(model(X), wanted, rtol=1e-4, atol=1e-5)
        with torch.no_grad(), per_sample(model, ["same", None]):
            torch.testing.assert_close(model(X), torch.stack([wanted[0], base()(X)[1]]), rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(ValueError, match=f"combine: 'default' has lora.method {name!r} at 'conv', whose update"):
            combine(model, {"default": 1.0}, "same")
        with pytest.raises(ValueError, match=f"has lora.method {name!r}"), per_sample(model, ["default", None]):
            pass


@pytest.mark.parametrize("name", TOYS)
def test_it_is_refused_where_it_cannot_be(name):
    model = adapted(name)
    with pytest.raises(ValueError, match=f"allocate: 'conv' has lora.method {name!r}"):
        allocate(model, [X], lambda model, x: model(x).square().mean(), mean_rank=2)
    with pytest.raises(ValueError, match=f"federation: 'conv' has lora.method {name!r}"):
        Adapter(model)
    if TOYS[name].fixed_rank:
        with pytest.raises(ValueError, match="resize: 'conv' of rank 2 has a threshold"):
            resize(model, 3)
    else:
        resize(model, 3)
        assert torch.equal(model(X), base()(X))
    words = nn.Sequential(nn.Embedding(5, 4))
    config = LoRAConfig(r=2, target_modules=["0"], method=name)
    if TOYS[name].merges:
        before = words(torch.arange(5))
        assert torch.equal(inject_lora(words, config)(torch.arange(5)), before)
    else:
        with pytest.raises(ValueError, match=rf"\(Embedding\) cannot have lora.method {name!r}"):
            inject_lora(words, config)
        attention = nn.Sequential(nn.MultiheadAttention(4, 2))
        with pytest.raises(ValueError, match=r"a part of a layer, which cannot have lora\.method 'curved'"):
            inject_lora(attention, config)
    with pytest.raises(ValueError, match=r"lora\.method: does not go together with use_dora"):
        LoRAConfig(method=name, use_dora=True)


def test_adapters_of_several_methods_stand_on_one_model_by_name():
    model, outputs = base(), {}
    for name in TOYS:
        add_adapter(model, name, LoRAConfig(r=2, target_modules=TARGETS, method=name))
        set_adapter(model, name)
        outputs[name] = trained(model)(X)
    for name, wanted in outputs.items():
        set_adapter(model, name)
        assert torch.equal(model(X), wanted)


def test_the_methods_of_the_house_are_asked_for_by_name_too(tmp_path):
    for name, settings in {
        "dora": {"use_dora": True},
        "dynamic rank": {"dynamic_rank": True},
        "pissa": {"init_lora_weights": "pissa"},
        "lora": {},
    }.items():
        torch.manual_seed(1)
        by_name = adapted(name)
        torch.manual_seed(1)
        by_setting = inject_lora(base(), LoRAConfig(r=2, target_modules=TARGETS, **settings))
        assert by_name.state_dict().keys() == by_setting.state_dict().keys()
        assert load_adapter(by_setting, save_adapter(by_name, tmp_path / name)).complete
        assert "method" not in json.loads((tmp_path / name / "lorgnette.json").read_text())["layers"]["fc"]
    with pytest.raises(ValueError, match=r"lora\.method: 'outputscale' is not known \(did you mean 'output scale'\?\)"):
        adapted("outputscale")


def test_no_other_place_knows_a_method_by_its_name():
    names = ("use_dora", "dynamic_rank", "lora_magnitude", "lora_gate", "lora_A0")
    files = {str(file.relative_to(SOURCE)): file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py")}
    mentioned = [path for path, text in files.items() if any(name in text for name in names)]
    told = {path for path in mentioned if any(name in without_docstrings(files[path]) for name in names)}
    assert told == {"lora/config.py", *(f"lora/layers/{file}.py" for file in ("dora", "gate", "from_base"))}


def without_docstrings(code: str) -> str:
    """Nor comments."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = ""
    return ast.unparse(tree)


class Doubled(nn.Module):
    """A layer of no known type."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return 2 * F.linear(x, self.weight)


class LoRADoubled(LoRALayer, Doubled):
    base_class = Doubled

    def forward(self, x: Tensor) -> Tensor:
        return 2 * F.linear(x, self.effective_weight())


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"init_lora_weights": "olora"}, {"dynamic_rank": True}])
def test_a_new_layer_type_is_one_class_and_one_line_too(settings, monkeypatch, tmp_path):
    monkeypatch.setitem(LAYERS, Doubled, LoRADoubled)
    adapted_class.cache_clear()
    net, x = nn.Sequential(Doubled(4), nn.Linear(4, 4)), torch.randn(3, 4)
    model, config = copy.deepcopy(net), LoRAConfig(r=2, target_modules=["0"], **settings)
    if settings == {"dynamic_rank": True}:
        with pytest.raises(ValueError, match=r"'0' \(Doubled\) cannot have lora\.dynamic_rank"):
            inject_lora(model, config)
        return
    torch.testing.assert_close(inject_lora(model, config)(x), net(x))
    optimizer = torch.optim.Adam(get_lora_params(model), lr=0.05)
    for _ in range(5):
        model(x).square().mean().backward()
        optimizer.step()
    save_adapter(model, tmp_path)
    assert "PEFT has no adapter of Doubled" in (tmp_path / "adapter_config.json").read_text()
    again = copy.deepcopy(net)
    assert load_adapter(again, tmp_path).complete
    assert torch.equal(again(x), model(x))
    assert not torch.allclose(again(x), net(x))
    assert type(merge_lora_weights(again)[0]) is Doubled
    torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-4)
    adapted_class.cache_clear()


def test_the_forward_pass_of_a_linear_layer_is_read_in_three_files():
    layer, entered = LoRALinear(6, 5, r=2, lora_dropout=0.1).requires_grad_(False), set()
    layer.lora_A.requires_grad_()
    layer.lora_B.requires_grad_()

    def follow(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and SOURCE in path.parents:
            entered.add(str(path.relative_to(SOURCE / "lora")))

    sys.setprofile(follow)
    try:
        layer(torch.randn(3, 6))
        sys.setprofile(None)
        layer.eval()
        sys.setprofile(follow)
        layer(torch.randn(300, 6))
    finally:
        sys.setprofile(None)
    assert entered == {"layers/linear.py", "layers/base.py", "kernels/fused.py"}
