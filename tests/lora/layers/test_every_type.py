"""Adapted layers against their base: equality at B = 0, merging, gradients, memory."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.lora.cases import adapters, cases
from torch import nn

from lorgnette.lora import (
    LoRAConfig,
    LoRAConv1d,
    LoRAConv2d,
    LoRAConvTranspose3d,
    LoRAEmbedding,
    LoRALayer,
    LoRALinear,
    inject_lora,
    merge_lora_weights,
    unload_lora,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
quick = settings(max_examples=100, deadline=None)


def adapt(layer: nn.Module, config: LoRAConfig) -> nn.Module:
    return inject_lora(nn.Sequential(layer), config, target_modules=["0"])


def shake_b(model: nn.Module) -> None:
    model[0].lora_B.data = torch.randn_like(model[0].lora_B) * 0.2


@quick
@given(cases, adapters, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_with_b_zero_the_output_is_the_base_bit_for_bit(case, config, dtype):
    # Frozen first: for input that is not contiguous PyTorch chooses its kernel by requires_grad,
    # so that freezing alone may change the last bit.
    layer, x = case[0].to(dtype).requires_grad_(False), case[1]
    x = x.to(dtype) if x.is_floating_point() else x
    before = layer(x)
    model = adapt(layer, config)
    assert model[0] is layer
    assert torch.equal(model(x), before)
    with torch.autocast("cpu", torch.bfloat16):
        adapted = model(x)
    unload_lora(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adapted, model(x))


@quick
@given(cases, adapters)
def test_merged_equals_adapted(case, config):
    layer, x = case
    kind, before = type(layer), layer(x)
    model = adapt(layer, config)
    shake_b(model)
    wanted = model(x)
    assert wanted.numel() == 0 or not torch.equal(wanted, before)
    weight = layer.weight.detach().clone()
    plain = layer.merge_weights()
    assert type(plain) is type(layer).base_class
    assert torch.equal(layer.weight, weight)
    for merged in (plain(x), merge_lora_weights(model, inplace=False)(x), merge_lora_weights(model)(x)):
        torch.testing.assert_close(merged, wanted, rtol=1e-5, atol=1e-5 * max(1.0, _peak(wanted)))
    assert type(layer) is kind
    assert not hasattr(layer, "lora_A")


def _peak(x: torch.Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


@quick
@given(cases, adapters)
def test_unloading_restores_the_layer_bit_for_bit(case, config):
    layer, x = case
    kind, keys, before = type(layer), set(vars(layer)), layer.requires_grad_(False)(x)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    model = adapt(layer, config)
    shake_b(model)
    model(x).sum().backward()
    unload_lora(model)
    assert type(layer) is kind
    assert set(vars(layer)) == keys
    assert list(layer.state_dict()) == list(state)
    assert all(torch.equal(layer.state_dict()[name], tensor) for name, tensor in state.items())
    assert torch.equal(layer(x), before)


@quick
@given(cases, adapters)
def test_the_effective_weight_is_what_the_layer_applies(case, config):
    layer, x = case
    model = adapt(layer, config)
    shake_b(model)
    weight = layer.effective_weight()
    plain = nn.Sequential(unload_lora(copy.deepcopy(model))[0])
    other = torch.func.functional_call(plain, {"0.weight": weight}, (x,))
    torch.testing.assert_close(model(x), other, rtol=1e-4, atol=1e-5 * max(1.0, _peak(other)))
    layer.lora_enabled = False
    assert layer.effective_weight() is layer.weight


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 3), (2, 3, 4)),
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect", dilation=1), (1, 2, 5, 5)),
        (nn.Conv2d(4, 4, 3, stride=2, groups=2, dilation=2, padding=2), (1, 4, 6, 6)),
        (nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (2, 2, 5)),
        (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3)),
        (nn.ConvTranspose1d(2, 3, 3, stride=2, output_padding=1), (2, 2, 4)),
        (nn.ConvTranspose2d(4, 4, 3, stride=2, groups=2, padding=1), (1, 4, 3, 3)),
        (nn.ConvTranspose3d(2, 2, 2), (1, 2, 2, 2, 2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_gradients_in_float64(layer, shape):
    torch.manual_seed(0)
    model = adapt(copy.deepcopy(layer).double(), LoRAConfig(r=2, lora_alpha=3))
    assert model[0].lora_A.dtype == torch.float64
    shake_b(model)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    factors = (model[0].lora_A, model[0].lora_B)

    def output(x, a, b):
        return torch.func.functional_call(model, {"0.lora_A": a, "0.lora_B": b}, (x,))

    assert torch.autograd.gradcheck(output, (x, *factors))
    assert torch.autograd.gradcheck(lambda a, b: layer_weight(model[0], a, b), factors), (
        "effective_weight is differentiable too"
    )


def layer_weight(layer, a, b):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self):
            return self.layer.effective_weight()

    return torch.func.functional_call(Reader(), {"layer.lora_A": a, "layer.lora_B": b}, ())


def test_gradients_of_an_embedding_in_float64():
    torch.manual_seed(0)
    model = adapt(nn.Embedding(5, 3, padding_idx=1).double(), LoRAConfig(r=2, lora_alpha=3))
    shake_b(model)
    tokens = torch.tensor([[0, 1, 4], [4, 4, 2]])
    factors = (model[0].lora_A, model[0].lora_B)
    free = tokens[tokens != 1]  # the row of padding_idx has an effect but, by definition, no gradient

    def output(a, b):
        return torch.func.functional_call(model, {"0.lora_A": a, "0.lora_B": b}, (free,))

    assert torch.autograd.gradcheck(output, factors)
    model(tokens).sum().backward()
    assert not model[0].lora_B.grad[1].any()
    assert not model[0].lora_B.grad[3].any()
    assert model[0].lora_B.grad[4].all()
    model[0].lora_dropout = 0.5
    assert not torch.equal(model.train()(tokens), model(tokens))


def test_a_transposed_convolution_takes_the_size_it_is_asked_for():
    torch.manual_seed(0)
    model = adapt(nn.ConvTranspose2d(2, 3, 3, stride=2), LoRAConfig(r=2))
    shake_b(model)
    x = torch.randn(1, 2, 4, 4)
    merged = merge_lora_weights(model, inplace=False)
    for size in ([9, 9], [10, 9]):
        torch.testing.assert_close(model[0](x, size), merged[0](x, size))


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_bfloat16_base_keeps_float32_factors_and_no_float32_copy_of_its_input(kind):
    layer = nn.Linear(64, 32) if kind == "linear" else nn.Conv2d(64, 32, 3, padding=1)
    x = torch.randn(512, 64) if kind == "linear" else torch.randn(2, 64, 16, 16)
    model = adapt(layer.bfloat16(), LoRAConfig(r=4))
    shake_b(model)
    assert layer.lora_A.dtype == layer.lora_B.dtype == torch.float32
    x = x.bfloat16().requires_grad_()
    saved: list[torch.Tensor] = []

    def keep(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(x)
    assert output.dtype == torch.bfloat16
    large = [tensor for tensor in saved if tensor.numel() >= x.numel()]
    assert large
    assert all(tensor.data_ptr() == x.data_ptr() for tensor in large), "x itself is all that is kept"
    output.float().sum().backward()
    assert layer.lora_A.grad.dtype == torch.float32
    assert layer.lora_A.grad.abs().sum() > 0


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(4, 6, 3), nn.Conv2d(4, 4, 3, groups=4)])
def test_autocast_computes_in_bfloat16_and_close_to_float32(layer):
    torch.manual_seed(0)
    model = adapt(copy.deepcopy(layer), LoRAConfig(r=2))
    shake_b(model)
    x = torch.randn(3, 6) if isinstance(layer, nn.Linear) else torch.randn(3, 4, 6, 6)
    wanted = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
        assert model[0].delta_weight().dtype == torch.float32
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), wanted, rtol=0.05, atol=0.05)
    output.float().sum().backward()
    assert model[0].lora_B.grad.dtype == torch.float32


def test_merging_a_bfloat16_base_rounds_once():
    torch.manual_seed(0)
    model = adapt(nn.Linear(16, 16).bfloat16(), LoRAConfig(r=4))
    shake_b(model)
    exact = model[0].weight.float() + model[0].delta_weight()
    assert torch.equal(merge_lora_weights(model)[0].weight, exact.bfloat16())


@pytest.mark.parametrize("layer", [nn.Linear(50, 40), nn.Conv2d(50, 40, 1)])
def test_dropout_acts_on_the_low_rank_path_while_training_only(layer):
    torch.manual_seed(0)
    model = adapt(copy.deepcopy(layer), LoRAConfig(r=4, lora_dropout=0.5))
    x = torch.ones(2, 50) if isinstance(layer, nn.Linear) else torch.ones(2, 50, 3, 3)
    base = copy.deepcopy(layer)(x)
    assert torch.equal(model.train()(x), base), "the base path sees no dropout"
    shake_b(model)
    assert not torch.equal(model(x), model(x))
    assert not torch.equal(model[0].effective_weight(), model[0].effective_weight())
    samples = torch.stack([model(x) for _ in range(300)]).mean(0)
    torch.testing.assert_close(samples, model.eval()(x), rtol=0.1, atol=0.2)
    assert torch.equal(model(x), model(x))
    assert torch.equal(model[0].merged_weight(), model[0].effective_weight())


def test_layers_can_be_built_directly():
    linear = LoRALinear(6, 5, bias=False, r=3, lora_alpha=9, dtype=torch.float64)
    assert (linear.r, linear.scaling, linear.bias, linear.lora_A.dtype) == (3, 3.0, None, torch.float64)
    assert LoRALinear(6, 5, r=4, lora_alpha=8, use_rslora=True).scaling == 4.0
    conv = LoRAConv2d(4, 6, 3, r=2, groups=2, padding=1)
    assert conv.lora_A.shape == (2, 2, 3, 3)
    assert conv.lora_B.shape == (6, 2, 1, 1)
    assert conv(torch.randn(1, 4, 5, 5)).shape == (1, 6, 5, 5)
    assert "r=2, lora_alpha=8" in repr(conv)
    assert "groups=2" in repr(conv)
    assert type(merge_lora_weights(nn.Sequential(conv))[0]) is nn.Conv2d
    with pytest.raises(ValueError, match=r"lora\.r: 0 is not"):
        LoRALinear(6, 5, r=0)
    up = LoRAConvTranspose3d(4, 6, 2, r=2, stride=2)
    assert (up.lora_A.shape, up.lora_B.shape) == ((2, 6, 2, 2, 2), (4, 2, 1, 1, 1))
    table = LoRAEmbedding(7, 5, r=2, padding_idx=0)
    assert (table.lora_A.shape, table.lora_B.shape) == ((2, 5), (7, 2))
    assert LoRAConv1d(2, 3, 3, r=1)(torch.randn(2, 9)).shape == (3, 7)


class NamedLinear(nn.Linear):
    """A sub-class that adds something and keeps the forward."""

    def title(self) -> str:
        return f"{self.in_features} to {self.out_features}"


def test_a_sub_class_keeps_its_own_nature():
    model = adapt(NamedLinear(3, 2), LoRAConfig(r=2))
    layer = model[0]
    assert isinstance(layer, NamedLinear)
    assert isinstance(layer, LoRALinear)
    assert layer.title() == "3 to 2"
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.copy(layer)):
        assert type(twin) is type(layer)
        assert torch.equal(twin.lora_A, layer.lora_A)
    assert type(unload_lora(model)[0]) is NamedLinear


def test_copies_and_pickles_are_independent_and_equal():
    torch.manual_seed(0)
    model = adapt(nn.Conv2d(3, 4, 3), LoRAConfig(r=2))
    shake_b(model)
    x = torch.randn(1, 3, 5, 5)
    wanted = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ):
        assert isinstance(twin[0], LoRALayer)
        assert torch.equal(twin(x), wanted)
        twin[0].lora_B.data.zero_()
    assert torch.equal(model(x), wanted)


def test_hooks_and_references_survive():
    layer = nn.Linear(3, 3)
    calls: list[str] = []
    layer.register_forward_hook(lambda *_: calls.append("forward"))
    layer.register_forward_pre_hook(lambda *_: calls.append("before"))
    model = adapt(layer, LoRAConfig(r=2))
    model(torch.randn(1, 3))
    merge_lora_weights(model)(torch.randn(1, 3))
    assert calls == ["before", "forward"] * 2
    assert model[0] is layer


def test_an_adapted_model_can_be_exported():
    torch.manual_seed(0)
    model = adapt(nn.Linear(3, 3), LoRAConfig(r=2)).eval()
    shake_b(model)
    x = torch.randn(2, 3)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [(LoRALinear, (6, 10)), (LoRAConv2d, (3, 4, 3)), (LoRAConvTranspose3d, (3, 4, 1)), (LoRAEmbedding, (5, 4))],
)
def test_a_layer_made_directly_trains_its_adapter_alone(kind, sizes):
    layer = kind(*sizes, r=3)
    assert {name for name, parameter in layer.named_parameters() if parameter.requires_grad} == {"lora_A", "lora_B"}
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    before = layer.weight.detach().clone()
    nn.init.normal_(layer.lora_B)
    x = torch.tensor([1, 2]) if kind is LoRAEmbedding else torch.randn(2, *sizes[:1], *(4,) * (layer.weight.dim() - 2))
    layer(x).square().sum().backward()
    optimizer.step()
    assert torch.equal(layer.weight, before)
