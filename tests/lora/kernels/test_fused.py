"""The fused pass against ordinary operations: values, gradients, dropout, memory, and where it must not be used."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lorgnette.lora import LoRAConfig, inject_lora
from lorgnette.lora.kernels import fused

LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (3, 2, 5)),
    "linear, many rows": (lambda: nn.Linear(5, 4, bias=False), (60, 5)),
    "conv": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 2, 4, 5)),
    "conv, many pixels": (lambda: nn.Conv2d(2, 3, 3, padding=2, dilation=2), (2, 2, 6, 6)),
    "conv, reflected": (lambda: nn.Conv2d(2, 3, (3, 1), padding=(1, 0), padding_mode="reflect"), (1, 2, 4, 5)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 2, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 2, 2), (1, 2, 3, 3, 3)),
}
layers = pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
kinds = pytest.mark.parametrize(
    ("make", "shape"), [LAYERS["linear"], LAYERS["linear, many rows"], LAYERS["conv"]], ids=["beside", "merged", "conv"]
)


def adapt(layer: nn.Module, r: int = 2, dropout: float = 0.0) -> nn.Module:
    """The layer in a model, with random factors."""
    model = inject_lora(nn.Sequential(layer), LoRAConfig(r=r, lora_alpha=3, lora_dropout=dropout, target_modules=["0"]))
    model[0].lora_B.data.normal_(std=0.5)
    return model


@pytest.fixture
def ordinary(monkeypatch):
    """Switches the fused pass off and on."""
    fusable = fused.fusable

    def switch(off: bool) -> None:
        monkeypatch.setattr(fused, "fusable", (lambda *_: False) if off else fusable)

    return switch


@pytest.fixture
def calls(monkeypatch):
    """Counts the fused passes."""
    count = []
    adapted = fused.adapted
    monkeypatch.setattr(fused, "adapted", lambda *args: (count.append(1), adapted(*args))[1])
    return count


def gradients(model: nn.Module, x: Tensor, seed: int = 0, weights: Tensor | None = None):
    """Output, and gradients of the input and all trained parameters."""
    torch.manual_seed(seed)
    x = x.detach().clone().requires_grad_()
    trained = [p for p in model.parameters() if p.requires_grad]
    output = model(x)
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape) if weights is None else weights
    return output.detach(), *torch.autograd.grad((output.float() * weights).sum(), (x, *trained))


def all_close(actual, expected, **tolerance):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 1e-4, "atol": 1e-5}))


@layers
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("r", [1, 4])
def test_first_and_second_derivatives_in_float64(make, shape, dropout, r, calls):
    torch.manual_seed(0)
    model = adapt(make().double(), r, dropout).train()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    factors = (model[0].lora_A, model[0].lora_B)

    def output(x, a, b):
        torch.manual_seed(1)  # the same dropout each time
        return torch.func.functional_call(model, {"0.lora_A": a, "0.lora_B": b}, (x,))

    assert torch.autograd.gradcheck(output, (x, *factors), fast_mode=True)
    assert torch.autograd.gradgradcheck(output, (x, *factors), fast_mode=True)
    assert calls


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.booleans(), st.data()
)
def test_a_linear_layer_equals_ordinary_operations(rows, width_in, width_out, r, bias, contiguous, data):
    torch.manual_seed(data.draw(st.integers(0, 99)))
    model = adapt(nn.Linear(width_in, width_out, bias), r)
    x = torch.randn(2, rows, width_in) if contiguous else torch.randn(2, width_in, rows).mT
    found = gradients(model, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "fusable", lambda *_: False)
        all_close(found, gradients(model, x))
    assert torch.equal(model(x), found[0]), "without gradients the same bits"


@pytest.mark.parametrize("r", [1, 3, 20])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_equals_ordinary_operations(r, layout, ordinary):
    torch.manual_seed(0)
    for padding_mode in ("zeros", "circular"):
        layer = nn.Conv2d(3, 5, 3, stride=(1, 2), padding=2, dilation=2, padding_mode=padding_mode)
        model = adapt(layer, r).to(memory_format=layout)
        for size in (5, 20):
            x = torch.randn(2, 3, size, size).to(memory_format=layout)
            ordinary(False)
            found = gradients(model, x)
            ordinary(True)
            all_close(found, gradients(model, x))


@layers
def test_with_b_zero_nothing_changes_while_training(make, shape, calls):
    torch.manual_seed(0)
    for dropout in (0.0, 0.5):
        layer = make().requires_grad_(False)
        x = torch.randn(shape, requires_grad=True)
        before = layer(x)
        model = adapt(layer, dropout=dropout).train()
        model[0].lora_B.data.zero_()
        assert torch.equal(model(x), before)
    assert len(calls) == 2


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@kinds
def test_autocast_computes_as_ordinary_operations_do(make, shape, dropout, ordinary):
    torch.manual_seed(0)
    model = adapt(make(), dropout=dropout)
    if dropout:
        model.train()
        ordinary(False)
    x = torch.randn(shape)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gradients(model, x)  # the backward pass within autocast
        torch.manual_seed(0)
        output = model(x)
    assert inside[0].dtype == output.dtype == torch.bfloat16
    assert all(gradient.dtype == torch.float32 for gradient in inside[1:])
    assert torch.equal(output, inside[0])
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    outside = torch.autograd.grad((output.float() * weights).sum(), (model[0].lora_A, model[0].lora_B))
    all_close(outside, inside[2:], rtol=0, atol=0)
    if not dropout:
        ordinary(True)
        with torch.autocast("cpu", torch.bfloat16):
            all_close(inside, gradients(model, x), rtol=0.05, atol=0.1)


def test_autocast_keeps_no_copy_of_the_weight():
    model = adapt(nn.Linear(64, 64))
    kept = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t),
    ):
        model(torch.randn(3, 64, requires_grad=True))
    own = {p.data_ptr() for p in model.parameters()}
    assert max(t.numel() for t in kept if t.data_ptr() not in own) == 3 * 64


def test_dropout_is_unbiased_and_draws_once_from_the_random_state():
    torch.manual_seed(0)
    model = adapt(nn.Linear(6, 4), dropout=0.25).train()
    x = torch.randn(5, 6)
    torch.manual_seed(3)
    first = model(x)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    torch.randint(2**63 - 1, ())
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(model(x), first)
    torch.manual_seed(3)
    assert torch.equal(model(x), first)
    with torch.no_grad():
        mean = torch.stack([model(x) for _ in range(4000)]).mean(0)
        torch.testing.assert_close(mean, model.eval()(x), rtol=0.05, atol=0.1)
    state = torch.get_rng_state()
    model(x)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn in evaluation"


@pytest.mark.parametrize("dropout", [1e-9, 0.1, 0.5, 1 - 1e-9])
def test_the_mask_keeps_the_right_share(dropout):
    mask, gain = fused._dropout_mask(torch.empty(1001, 999), dropout, seed=5)
    assert mask is not None
    share = mask.float().mean().item()
    assert share == pytest.approx(1 - dropout, abs=2e-3)
    assert 1 / gain == pytest.approx(1 - dropout, abs=2**-16)
    assert torch.equal(mask, fused._dropout_mask(torch.empty(1001, 999), dropout, seed=5)[0])
    columns = mask.float().mean(0)
    assert columns.max() - columns.min() < 0.15, "no column is favoured"


@kinds
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_repeats_the_dropout(make, shape, reentrant):
    torch.manual_seed(0)
    model = adapt(make(), dropout=0.5).train()
    x = torch.randn(shape)

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x):
            return checkpoint(self.model, x, use_reentrant=reentrant)

    torch.manual_seed(4)
    wanted = model(x.requires_grad_())
    wanted.square().sum().backward()
    expected = [wanted, *(p.grad.clone() for p in (model[0].lora_A, model[0].lora_B, x) if p.grad is not None)]
    for tensor in (*model.parameters(), x):
        tensor.grad = None
    torch.manual_seed(4)
    actual = Checkpointed()(x)
    actual.square().sum().backward()
    all_close([actual, model[0].lora_A.grad, model[0].lora_B.grad, x.grad], expected, rtol=0, atol=0)


@kinds
def test_only_what_is_asked_for_gets_a_gradient(make, shape):
    torch.manual_seed(0)
    model = adapt(make())
    everything = gradients(model, torch.ones(shape))
    layer = model[0]
    weights = torch.linspace(-1, 1, everything[0].numel()).view(everything[0].shape)
    for chosen in ([0], [1], [2], [1, 2], [0, 2]):
        tensors = [torch.ones(shape), layer.lora_A, layer.lora_B]
        for i, tensor in enumerate(tensors):
            tensor.requires_grad_(i in chosen)
        wanted = [tensors[i] for i in chosen]
        found = torch.autograd.grad((model(tensors[0]) * weights).sum(), wanted)
        all_close(found, [everything[i + 1] for i in chosen])


@kinds
def test_a_trained_base_gets_its_gradient(make, shape, calls):
    torch.manual_seed(0)
    model = adapt(make())
    x = torch.randn(shape)
    frozen = gradients(model, x)
    assert len(calls) == 1
    model[0].weight.requires_grad_()
    output, dx, dW, dA, dB = gradients(model, x)
    assert len(calls) == 1, "the ordinary way"
    all_close((output, dx, dA, dB), frozen)
    plain = make()
    plain.weight.data = model[0].weight.data.clone()
    if plain.bias is not None:
        plain.bias.data = model[0].bias.data.clone()
        plain.bias.requires_grad_(False)
    all_close([dW], [gradients(plain, x)[2]])


@kinds
def test_the_output_may_be_changed_in_place(make, shape):
    torch.manual_seed(0)
    model = adapt(make())
    x = torch.randn(shape)
    for dropout in (0.0, 0.5):
        model.train()[0].lora_dropout = dropout
        expected = gradients(nn.Sequential(model, nn.ReLU()), x)
        all_close(gradients(nn.Sequential(model, nn.ReLU(inplace=True)), x), expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # PyTorch's own decompositions
@kinds
def test_function_transforms_and_forward_mode(make, shape, ordinary):
    torch.manual_seed(0)
    model = adapt(make()).double()
    x = torch.randn(shape, dtype=torch.float64)
    factors = {"0.lora_B": model[0].lora_B.detach()}

    def loss(factors, x):
        return torch.func.functional_call(model, factors, (x,)).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(factors, x[:, None])["0.lora_B"]
    together = torch.func.grad(loss)(factors, x)["0.lora_B"]
    torch.testing.assert_close(per_sample.sum(0), together)
    several = torch.stack([model[0].lora_B.detach() * k for k in (0, 1, 2)])
    outputs = torch.func.vmap(lambda b: torch.func.functional_call(model, {"0.lora_B": b}, (x,)))(several)
    torch.testing.assert_close(outputs[1], model(x))
    direction = torch.randn_like(x)
    tangent = torch.func.jvp(model, (x,), (direction,))[1]
    torch.testing.assert_close(tangent, model(x + direction) - model(x))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(model(dual)).tangent, tangent)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@kinds
def test_compiling_breaks_no_graph_and_gives_the_gradients(make, shape, dropout):
    torch.manual_seed(0)
    model = adapt(make(), dropout=dropout).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(shape)
    actual = gradients(compiled, x)
    if not dropout:  # a compiler draws its random numbers in its own way
        all_close(actual, gradients(model, x))
    assert all(tensor.isfinite().all() for tensor in actual)


@kinds
def test_tracing_export_and_copies(make, shape):
    torch.manual_seed(0)
    model = adapt(make()).eval()
    x = torch.randn(shape)
    wanted = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is going out of use
        torch.testing.assert_close(torch.jit.trace(model, x)(x), wanted)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), wanted)
    assert torch.equal(copy.deepcopy(model)(x), wanted)
    assert model.to("meta")(x.to("meta")).shape == wanted.shape


@kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_an_input_of_another_dtype_is_refused_as_by_the_base(make, shape, dtype):
    layer, x = make(), torch.ones(shape).to(dtype)
    with pytest.raises(RuntimeError):
        layer(x)
    with pytest.raises(RuntimeError):
        adapt(layer)(x)


def test_hooks_see_the_call_and_its_gradients():
    model = adapt(nn.Linear(4, 4))
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append("forward"))
    model[0].register_full_backward_hook(lambda *_: seen.append("backward"))
    model(torch.randn(2, 4, requires_grad=True)).sum().backward()
    assert seen == ["forward", "backward"]


@pytest.mark.parametrize("r", [2, 16])
@pytest.mark.parametrize("rows", [1, 500])
def test_gradients_equal_those_of_peft(rows, r):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies, at import
        peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Unflatten(1, (10, 1, 1)), nn.Conv2d(10, 7, 1))
    theirs = peft.get_peft_model(
        copy.deepcopy(base), peft.LoraConfig(r=r, lora_alpha=5, target_modules=["0", "3"], init_lora_weights=False)
    )
    ours = inject_lora(base, LoRAConfig(r=r, lora_alpha=5, target_modules=["0", "3"]))
    for i in (0, 3):
        ours[i].lora_A.data = theirs.base_model.model[i].lora_A["default"].weight.data.clone()
        ours[i].lora_B.data = theirs.base_model.model[i].lora_B["default"].weight.data.clone()
    x = torch.randn(rows, 6)
    all_close(gradients(ours, x), gradients(theirs, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [3, 400], ids=["beside", "merged"])
@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 5), lambda: nn.Conv1d(6, 5, 1)], ids=["linear", "convolution"])
def test_a_trained_bias_gets_its_gradient(make, rows):
    layer = make()
    model = inject_lora(nn.Sequential(layer), LoRAConfig(r=2, target_modules=["0"], bias="lora_only"))
    x = torch.randn(rows, 6) if isinstance(layer, nn.Linear) else torch.randn(rows, 6, 1)
    model(x).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((5,), float(rows)))


def test_in_few_bits_a_small_update_survives_many_rows():
    """Formed as a weight in bfloat16 it would be rounded away: 1 + 0.001 is 1 there."""
    config = LoRAConfig(r=1, lora_alpha=1, target_modules=["0"], lora_dtype="bfloat16")
    model = inject_lora(nn.Sequential(nn.Linear(2, 2, bias=False).to(torch.bfloat16)), config)
    model[0].weight.data = torch.eye(2, dtype=torch.bfloat16)
    model[0].lora_A.data = torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16)
    model[0].lora_B.data = torch.tensor([[0.001], [0.001]], dtype=torch.bfloat16)
    x = torch.zeros(500, 2, dtype=torch.bfloat16)
    x[:, 0] = 1.0
    y = model(x)
    assert (y[:, 1] > 0.0009).all()
    model[0].weight.data[1, 0] = 1.0
    x[:, 0] = 1.0
    with torch.no_grad():
        model[0].lora_B.data[1, 0] = 0.003  # next to 1, bfloat16 has steps of 0.0078
        high = model(x.repeat(1, 1)).float()
    exact = 1.0 + 0.003
    assert (high[:, 1] - exact).abs().max() <= 2**-8
    grads = torch.autograd.grad(model(x).float().sum(), model[0].lora_B)[0]
    assert grads.dtype == torch.bfloat16


def test_with_a_frozen_a_there_is_no_second_derivative():
    config = LoRAConfig(r=2, target_modules=["0"], freeze_lora_A=True)
    model = inject_lora(nn.Sequential(nn.Linear(6, 5)), config)
    nn.init.normal_(model[0].lora_B)
    x = torch.randn(3, 6, requires_grad=True)
    with pytest.raises(RuntimeError, match="with a frozen lora_A there is no second derivative"):
        torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    torch.autograd.grad(model(x).square().sum(), x)
