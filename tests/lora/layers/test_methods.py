"""DoRA, PiSSA, OLoRA, EVA, LoRA+ and LoRA-FA on every layer type, and beside PEFT."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.lora.cases import cases
from torch import nn

from lorgnette.lora import (
    LoRAConfig,
    disabled,
    effective_parameter,
    fingerprint,
    get_lora_params,
    initialise_eva,
    inject_lora,
    load_adapter,
    merge_lora_weights,
    merged,
    save_adapter,
    unmerge_lora_weights,
    verify,
)
from lorgnette.lora.layers import dora as dora_module
from lorgnette.lora.layers.parameter import sites
from lorgnette.train.config import TrainConfig
from lorgnette.train.optim import make_optimizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies, at import
    peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
METHODS = {
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa by iteration": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "lora-fa": {"freeze_lora_A": True},
}
LAYERS = {
    "linear": (nn.Linear(5, 4), torch.randn(3, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1), torch.randn(2, 4, 5)),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="reflect"), torch.randn(2, 4, 5, 4)),
    "grouped": (nn.Conv2d(4, 6, 2, groups=2), torch.randn(2, 4, 3, 3)),
    "conv3d": (nn.Conv3d(2, 3, 2), torch.randn(1, 2, 3, 3, 2)),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), torch.randn(2, 4, 2, 3)),
    "transposed plain": (nn.ConvTranspose1d(3, 2, 2), torch.randn(2, 3, 4)),
    "embedding": (nn.Embedding(7, 4), torch.tensor([[0, 3, 6]])),
}
each_layer = pytest.mark.parametrize(("layer", "x"), LAYERS.values(), ids=LAYERS)
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def adapted(layer, r=2, **method):
    config = LoRAConfig(r=r, lora_alpha=3, target_modules=["0"], **method)
    return inject_lora(nn.Sequential(copy.deepcopy(layer).requires_grad_(False)), config)


def shake(model):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in get_lora_params(model):
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@each_layer
@each_method
def test_the_start_is_the_base(layer, x, method):
    model = adapted(layer, **method)
    wanted = layer(x)
    if "init_lora_weights" in method:
        torch.testing.assert_close(model(x), wanted, rtol=1e-6, atol=1e-6)
        assert model[0].lora_B.any()
    else:
        assert torch.equal(model(x), wanted)
    assert torch.equal(model[0].weight, layer.weight)
    shake(model)
    with disabled(model):
        assert torch.equal(model(x), wanted)
    assert not fingerprint(model).difference(fingerprint(nn.Sequential(layer)))


@each_layer
@pytest.mark.parametrize("lora_dtype", [None, "bfloat16"])
def test_dora_starts_at_the_base_in_bfloat16_too(layer, x, lora_dtype):
    x = x.bfloat16() if x.is_floating_point() else x
    base = copy.deepcopy(layer).bfloat16().requires_grad_(False)
    model = adapted(base, use_dora=True, lora_dtype=lora_dtype, lora_dropout=0.2)
    assert torch.equal(model.eval()(x), base(x))
    assert torch.equal(model.train()(x), base(x))


def test_an_output_without_weights_has_no_direction():
    base = nn.Linear(3, 2)
    base.weight.data[0] = 0
    model, x = adapted(base, use_dora=True), torch.randn(4, 3)
    assert torch.equal(model(x), base(x))
    model(x).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in get_lora_params(model))


def test_dora_learns_as_in_peft(tmp_path):
    base, x = nn.Linear(5, 4), torch.randn(3, 5)
    model = shake(adapted(base, use_dora=True)).train()
    folder = save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(nn.Sequential(base), str(folder), is_trainable=True).train()
    model(x).square().sum().backward()
    theirs(x).square().sum().backward()
    found = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    ours = {name: p.grad for name, p in model[0].lora_tensors.items()}
    assert len(found) == len(ours) == 3
    for name, grad in ours.items():
        other = next(g for key, g in found.items() if name in key)
        torch.testing.assert_close(grad, other, rtol=1e-5, atol=1e-6)


@each_layer
@each_method
def test_gradients_are_those_of_the_output(layer, x, method, monkeypatch):
    model = shake(adapted(copy.deepcopy(layer).double(), **method))
    x = x.double().requires_grad_(True) if x.is_floating_point() else x
    if "use_dora" in method:  # its norm counts as a constant
        norm = dora_module.lengths(model[0], model[0].weight + 0.1)
        monkeypatch.setattr(dora_module, "lengths", lambda layer, weight: norm)
    parameters = [p for p in get_lora_params(model) if p.requires_grad]
    inputs = ((x,) if x.is_floating_point() else ()) + tuple(parameters)
    assert torch.autograd.gradcheck(lambda *_: model(x), inputs)


@each_layer
@each_method
def test_saved_and_loaded_strictly_and_trained_on(layer, x, method, tmp_path):
    model = shake(adapted(layer, **method))
    save_adapter(model, tmp_path)
    again = nn.Sequential(copy.deepcopy(layer))
    assert load_adapter(again, tmp_path).complete
    assert torch.equal(again(x), model(x))
    same = adapted(layer, **method)
    assert load_adapter(same, tmp_path).complete
    for ours, theirs in zip(get_lora_params(again), get_lora_params(model), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad == theirs.requires_grad


@settings(max_examples=60, deadline=None)
@given(cases, st.sampled_from(list(METHODS.values())))
def test_merged_and_unmerged(case, method):
    layer, x = case
    model = shake(adapted(layer, r=1, **method)).eval()
    wanted, weight = model(x), model[0].weight.detach().clone()
    merge_lora_weights(model, keep=True)
    torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-4)
    unmerge_lora_weights(model)
    assert torch.equal(model[0].weight, weight)
    assert torch.equal(model(x), wanted)


BOTH = {name: LAYERS[name] for name in ("linear", "conv1d", "conv3d", "embedding")}
BOTH["conv2d"] = (nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.randn(2, 4, 5, 4))


@pytest.mark.parametrize(("layer", "x"), BOTH.values(), ids=BOTH)
@pytest.mark.parametrize("use_rslora", [False, True])
@each_method
def test_peft_gives_the_same_output(layer, x, method, use_rslora, tmp_path):
    model = shake(adapted(layer, use_rslora=use_rslora, **method))
    folder = save_adapter(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = peft.PeftModel.from_pretrained(nn.Sequential(copy.deepcopy(layer)), str(folder)).eval()
    torch.testing.assert_close(theirs(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("layer", "x"), BOTH.values(), ids=BOTH)
def test_dora_that_peft_wrote(layer, x, tmp_path):
    config = peft.LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=["0"])
    theirs = peft.get_peft_model(nn.Sequential(copy.deepcopy(layer)), config)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.eval().save_pretrained(str(tmp_path))
    model = nn.Sequential(copy.deepcopy(layer))
    assert load_adapter(model, tmp_path).complete
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-6)


@each_method
def test_twenty_steps_reduce_the_loss(method):
    torch.manual_seed(0)
    model = adapted(nn.Linear(8, 6), lora_dropout=0.1, **method).train()
    x, y = torch.randn(32, 8), torch.randn(32, 6)
    optimizer = make_optimizer(model, TrainConfig(lr=0.02, lora_plus_ratio=4.0))
    losses = []
    for _ in range(20):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]


def test_lora_plus_moves_b_faster():
    model = adapted(nn.Linear(4, 4))
    groups = make_optimizer(model, TrainConfig(lr=0.1, lora_plus_ratio=16)).param_groups
    assert [(group["params"][0] is model[0].lora_B, group["peak_lr"]) for group in groups] == [
        (False, 0.1),
        (True, 1.6),
    ]
    with pytest.raises(ValueError, match=r"train\.lora_plus_ratio: 0 is not a positive number"):
        TrainConfig(lora_plus_ratio=0)


@pytest.mark.parametrize("layer", [nn.Linear(64, 64), nn.Conv2d(64, 64, 1)], ids=["linear", "conv"])
def test_a_frozen_a_keeps_no_input(layer):
    x = torch.randn(8, 64, *([4, 4] if isinstance(layer, nn.Conv2d) else [])).requires_grad_(True)
    model, seen = adapted(layer, freeze_lora_A=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.data_ptr()) or t, lambda t: t):
        y = model(x)
    assert x.data_ptr() not in seen
    y.sum().backward()
    assert model[0].lora_A.grad is None
    assert model[0].lora_B.grad.any()


@pytest.mark.parametrize("layer", [nn.Linear(8, 6), nn.Conv2d(2, 6, 2)], ids=["linear", "conv"])
def test_eva_finds_the_directions_of_the_inputs(layer):
    torch.manual_seed(0)
    model = adapted(layer)
    shape = (20, 8) if isinstance(layer, nn.Linear) else (20, 2, 2, 2)
    inputs = (torch.randn(20, 2) @ torch.randn(2, 8)).view(shape)
    wanted = model(inputs)
    shares = initialise_eva(model, inputs.chunk(4))
    assert shares["0"] == pytest.approx(1, abs=1e-4)
    assert torch.equal(model(inputs), wanted)
    A, rows = model[0].lora_A.flatten(1), inputs.flatten(1)
    torch.testing.assert_close(rows @ A.mT @ A, rows, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="rank 2, and its inputs gave 0 directions"):
        initialise_eva(model, [])
    shake(model)
    with pytest.raises(ValueError, match="is no fresh adapter"):
        initialise_eva(model, [inputs])


def test_eva_gives_ranks_where_the_inputs_vary():
    torch.manual_seed(0)
    first, second = nn.Linear(8, 8), nn.Linear(8, 6)
    with torch.no_grad():  # the second sees one direction alone
        first.weight.copy_(torch.outer(torch.randn(8), torch.randn(8)))
        first.bias.zero_()
    config = LoRAConfig(r=3, lora_alpha=6, target_modules="all-linear")
    model = inject_lora(nn.Sequential(first, nn.Identity(), second), config)
    inputs = torch.randn(40, 8)
    wanted = model(inputs)
    shares = initialise_eva(model, inputs.chunk(4), rho=2)
    assert [model[0].r, model[2].r] == [5, 1]
    assert model[0].scaling == model[2].scaling == 2
    assert shares["2"] == pytest.approx(1, abs=1e-4)
    assert torch.equal(model(inputs), wanted)
    torch.testing.assert_close(model[0].lora_A @ model[0].lora_A.mT, torch.eye(5), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"rho 0\.5 is below 1"):
        initialise_eva(model, [inputs], rho=0.5)


def test_wrong_settings_say_so_in_a_line():
    with pytest.raises(ValueError, match="has rank 4 at most"):
        inject_lora(nn.Sequential(nn.Linear(4, 9)), LoRAConfig(target_modules=["0"], init_lora_weights="pissa"))
    config = LoRAConfig(r=4, target_modules=["0"], init_lora_weights="olora", slices={"0": ["q"]})
    with pytest.raises(ValueError, match="has rank 3 at most"):
        inject_lora(nn.Sequential(nn.Linear(4, 9)), config)
    with pytest.raises(ValueError, match="'loftq' is not known"):
        LoRAConfig(init_lora_weights="loftq")
    with pytest.raises(ValueError, match=r"lora\.use_dora: does not go together"):
        LoRAConfig(use_dora=True, init_lora_weights="olora")


@each_method
def test_copies_ties_and_base_checkpoints(method):
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    base = nn.Sequential(first, second)
    checkpoint = {key: value.clone() for key, value in base.state_dict().items()}
    model = shake(inject_lora(base, LoRAConfig(r=2, target_modules="all-linear", **method)))
    x = torch.randn(3, 4)
    wanted = model(x)
    assert all(model[0].lora_tensors[name] is tensor for name, tensor in model[1].lora_tensors.items())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), wanted)
    report = model.load_state_dict(checkpoint, strict=False)
    assert not report.unexpected_keys
    assert all("lora_" in key for key in report.missing_keys)
    assert torch.equal(model(x), wanted)


class Parts(nn.Module):
    """(B, N, 6) -> (B, N, 6): slices of a fused projection, an attention, a stack, a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.attn = nn.MultiheadAttention(6, 2, batch_first=True)
        self.mixer = Mixer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + (q @ k.mT).softmax(-1) @ v
        return self.mixer(x + self.attn(x, x, x, need_weights=False)[0])


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Parameter(torch.randn(2, 5, 6) * 0.4)
        self.mix = nn.Parameter(torch.randn(6, 5) * 0.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = torch.einsum("kri,bni->bnr", effective_parameter(self, "stack"), x)
        return low @ effective_parameter(self, "mix").mT


def parts(dtype=torch.float32, dropout=0.0, **method):
    torch.manual_seed(0)
    config = LoRAConfig(
        r=2,
        lora_alpha=3,
        lora_dropout=dropout,
        target_modules=["qkv", "attn"],
        target_parameters=["stack", "mix"],
        slices={"qkv": ["q", "v"], "attn": ["in_proj", "out_proj"]},
        **method,
    )
    return Parts().to(dtype).eval(), config


X = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(4))


@each_method
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_parts_of_layers_and_raw_parameters(method, dropout, tmp_path):
    model, config = parts(dropout=dropout, **method)
    base = copy.deepcopy(model)
    with torch.no_grad():
        wanted = base(X)
        inject_lora(model, config)
        if "init_lora_weights" in method:
            torch.testing.assert_close(model(X), wanted, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(model(X), wanted)
    shake(model.eval())
    assert not fingerprint(model).difference(fingerprint(base))
    with torch.no_grad():
        adapted_output = model(X)
        assert not torch.allclose(adapted_output, wanted, rtol=1e-2)
        with disabled(model):
            assert torch.equal(model(X), wanted)
        again = copy.deepcopy(base)
        assert load_adapter(again, save_adapter(model, tmp_path)).complete
        assert torch.equal(again(X), adapted_output)
        same = inject_lora(copy.deepcopy(base), config)
        assert load_adapter(same, tmp_path).complete
        assert torch.equal(same(X), adapted_output)
        with merged(model):
            torch.testing.assert_close(model(X), adapted_output, rtol=1e-4, atol=1e-5)
        assert torch.equal(model(X), adapted_output)
    assert verify(model, X).ok


@each_method
def test_gradients_of_parts(method, monkeypatch):
    model, config = parts(torch.float64, **method)
    shake(inject_lora(model, config))
    if "use_dora" in method:  # its norm counts as a constant
        known = {id(site.adapter): site.adapter.lora_magnitude.detach() * 1.1 for site in sites(model).values()}
        monkeypatch.setattr(dora_module, "lengths", lambda layer, weight: known[id(layer)])
    parameters = [p for p in get_lora_params(model) if p.requires_grad]
    inputs = (X.double().requires_grad_(True), *parameters)
    assert torch.autograd.gradcheck(lambda x, *_: model(x), inputs)


def test_a_slice_is_a_layer_of_its_rows():
    for method in METHODS.values():
        whole = nn.Linear(6, 4)
        fused = nn.Linear(6, 12)
        fused.weight.data[4:8], fused.bias.data[4:8] = whole.weight.data, whole.bias.data
        one = shake(adapted(whole, **method))
        config = LoRAConfig(r=2, lora_alpha=3, target_modules=["0"], slices={"0": ["k"]}, **method)
        part = inject_lora(nn.Sequential(fused), config)
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(one[0].lora_tensors.values()), part[0].lora_k.lora_tensors.values()
        )
        torch.testing.assert_close(part(X)[..., 4:8], one(X), rtol=1e-4, atol=1e-5)
