"""Statistics of a frozen base stay where they are, in anybody's training loop, whatever moves them."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

from lorgnette.lora import (
    LoRAConfig,
    disabled,
    get_lora_params,
    get_lora_state_dict,
    inject_lora,
    load_adapter,
    merge_lora_weights,
    merged,
    save_adapter,
    unload_lora,
    unmerge_lora_weights,
)

X = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(1)) * 3 + 2


class OwnNorm(nn.BatchNorm1d):
    """With a forward of its own, as many libraries have."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(super().forward(x))


class Renorm(nn.Module):
    """Moves a buffer in training, and is no norm that PyTorch knows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean((0, 2))[:, None], 0.1)
        return x - self.mean


def with_statistics(kind: str) -> nn.Module:
    torch.manual_seed(0)
    match kind:
        case "batch norm":
            return nn.BatchNorm1d(4)
        case "without parameters":
            return nn.BatchNorm1d(4, affine=False)
        case "cumulative":
            return nn.BatchNorm1d(4, momentum=None)
        case "synchronised":
            return nn.SyncBatchNorm(4)
        case "instance norm":
            return nn.InstanceNorm1d(4, track_running_stats=True)
        case "sub-class":
            return OwnNorm(4)
        case "parametrised norm":
            return parametrizations.weight_norm(nn.BatchNorm1d(4), dim=None)
        case "spectral norm":
            return parametrizations.spectral_norm(nn.Conv1d(4, 4, 1))
        case "spectral norm by a hook":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return spectral_norm(nn.Conv1d(4, 4, 1))
    raise AssertionError(kind)


KINDS = [
    "batch norm", "without parameters", "cumulative", "synchronised", "instance norm", "sub-class", "parametrised norm",
    "spectral norm", "spectral norm by a hook",
]  # fmt: skip


def base(kind: str) -> nn.Sequential:
    middle = with_statistics(kind)
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), middle, nn.ReLU(), nn.Conv1d(4, 2, 1)).eval()


def train(model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        model.train()
        model.train()  # as often as one likes
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    model.eval()


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_is_the_same_after_training_and_the_adapter_loads_onto_it(kind, tmp_path):
    model = base(kind)
    before, buffers = model(X), bits(model)
    inject_lora(model, target_modules=["0", "3"], rank=2)
    model.train()
    assert torch.equal(model(X), before)  # it applies what it holds
    train(model)
    measured = model(X)
    assert same(bits(model), buffers)
    with disabled(model):
        assert torch.equal(model(X), before)
    save_adapter(model, tmp_path)
    again = base(kind)
    load_adapter(again, tmp_path)
    assert torch.equal(again(X), measured)
    train(again, 1)  # a loaded one rests too
    assert same(bits(again), buffers)
    assert all(name.rpartition(".")[2] in ("lora_A", "lora_B") for name in get_lora_state_dict(again))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["unload", "merge", "merge and unmerge", "copy"])
def test_without_adapters_they_move_as_ever(kind, end):
    model, plain = base(kind), base(kind)
    inject_lora(model, target_modules=["0", "3"], rank=2)
    if end == "unload":
        unload_lora(model)
    elif end == "copy":
        model = merge_lora_weights(model, inplace=False)
    else:
        merge_lora_weights(model, keep=True)
    assert [type(module).__name__ for module in model.modules()] == [type(m).__name__ for m in plain.modules()]
    for net in (model, plain):
        with torch.no_grad():
            net.train()(X)
    assert same(bits(model), bits(plain))
    assert not same(bits(model), bits(base(kind)))
    if end == "merge and unmerge":
        unmerge_lora_weights(model)
        now = bits(model)
        train(model, 1)
        assert same(bits(model), now)


@pytest.mark.parametrize("kind", ["batch norm", "spectral norm", "spectral norm by a hook", "without parameters"])
def test_what_is_trained_itself_is_awake(kind):
    model = inject_lora(base(kind), LoRAConfig(r=2, target_modules=["0"], modules_to_save=["1"]))
    before = bits(model)
    train(model, 1)
    assert not same(bits(model), before)


@pytest.mark.parametrize("kind", ["batch norm", "spectral norm", "spectral norm by a hook"])
def test_what_is_unfrozen_by_hand_wakes_at_once(kind):
    model = inject_lora(base(kind), target_modules=["0"], rank=2).train()
    before = bits(model)
    model(X)
    assert same(bits(model), before)
    model[1].requires_grad_(True)
    model(X)
    assert not same(bits(model), before)
    model[1].requires_grad_(False)
    before = bits(model)
    model(X)
    assert same(bits(model), before)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_norm_made_lazily_rests_once_it_is_made():
    model = nn.Sequential(nn.Conv1d(4, 4, 1), nn.LazyBatchNorm1d(), nn.Conv1d(4, 2, 1))
    inject_lora(model, target_modules=["0", "2"], rank=2).train()
    model(X)
    assert isinstance(model[1], nn.BatchNorm1d)
    assert model[1].running_mean.tolist() == [0] * 4
    assert type(unload_lora(model)[1]) is nn.BatchNorm1d


def test_copies_and_pickles_rest_too():
    model = inject_lora(base("batch norm"), target_modules=["0"], rank=2)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = bits(twin)
        train(twin, 1)
        assert same(bits(twin), before)
        assert isinstance(twin[1], nn.BatchNorm1d)
    spectral = copy.deepcopy(inject_lora(base("spectral norm"), target_modules=["0"], rank=2))
    spectral[1].requires_grad_(True)  # the copy's own weight, not that of the original
    before = bits(spectral)
    train(spectral, 1)
    assert not same(bits(spectral), before)


def test_within_merged_the_model_is_plain_and_afterwards_it_rests():
    model = inject_lora(base("batch norm"), target_modules=["0"], rank=2)
    with merged(model):
        assert type(model[1]) is nn.BatchNorm1d
    before = bits(model)
    train(model, 1)
    assert same(bits(model), before)


def test_compiled_exported_and_traced():
    model = inject_lora(base("batch norm"), target_modules=["0", "3"], rank=2).train()
    wanted, before = model(X), bits(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), wanted)
    assert same(bits(model), before)
    model[1].requires_grad_(True)
    compiled(X)
    assert not same(bits(model), before)
    model[1].requires_grad_(False)
    model.eval()
    torch.testing.assert_close(torch.export.export(model, (X,)).module()(X), model(X))


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated, and still in use
def test_traced():
    model = inject_lora(base("batch norm"), target_modules=["0", "3"], rank=2)
    torch.testing.assert_close(torch.jit.trace(model, (X,))(X + 1), model(X + 1))


def test_who_makes_statistics_anew_leaves_those_at_rest():
    model = inject_lora(base("batch norm"), target_modules=["0"], rank=2)
    wanted, before = model(X), bits(model)
    torch.optim.swa_utils.update_bn([X, X + 1], model)
    assert same(bits(model), before)
    assert torch.equal(model.eval()(X), wanted)
    model[1].requires_grad_(True)
    torch.optim.swa_utils.update_bn([X, X + 1], model)
    assert not same(bits(model), before)


def test_what_else_moves_travels_with_the_adapter(tmp_path):
    """A buffer that no norm of PyTorch's moves cannot be held, so that it is said and kept."""

    def make() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv1d(4, 4, 1), Renorm(), nn.Conv1d(4, 2, 1)).eval()

    model = inject_lora(make(), target_modules=["0", "2"], rank=2)
    assert "1.mean" not in get_lora_state_dict(model)
    train(model)
    wanted = model(X)
    assert "1.mean" in get_lora_state_dict(model)
    with pytest.warns(UserWarning, match="'1.mean' of the frozen base and 0 more moved in training"):
        save_adapter(model, tmp_path)
    again = make()
    load_adapter(again, tmp_path)
    assert torch.equal(again(X), wanted)
    untouched = inject_lora(make(), target_modules=["0", "2"], rank=2)
    untouched[1].mean.copy_(untouched[1].mean.clone())  # written, and the same as before
    assert "1.mean" not in get_lora_state_dict(untouched)
    assert "1.mean" not in get_lora_state_dict(untouched.to(torch.float64))
    assert len(get_lora_params(untouched)) == 4
