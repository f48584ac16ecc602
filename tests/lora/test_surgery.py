"""Injection, freezing, merging and unloading of whole models; `verify`."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lorgnette.lora import (
    LoRAConfig,
    adapted_layers,
    count_parameters,
    disabled,
    fingerprint,
    freeze_base_params,
    get_lora_params,
    inject_lora,
    is_adapted,
    merge_lora_weights,
    unload_lora,
    verify,
)

ALL = ["stem", "to_qkv", "to_out.0", "head"]


def test_the_settings_import_no_torch():
    code = (
        "import sys, lorgnette.lora\n"
        "assert 'torch' not in sys.modules\n"
        "lorgnette.lora.LoRAConfig()\n"
        "assert 'torch' not in sys.modules\n"
        "lorgnette.lora.adapter_info\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(lorgnette.lora.__all__) == set(dir(lorgnette.lora))\n"
        "assert all(getattr(lorgnette.lora, name) for name in lorgnette.lora.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        __import__("lorgnette.lora").lora.nothing  # noqa: B018


def test_injection_freezes_the_base_keeps_the_output_and_its_keys(net, images):
    wanted, keys, base = net(images), set(net.state_dict()), fingerprint(net)
    state = copy.deepcopy(net.state_dict())
    assert inject_lora(net, target_modules=ALL, rank=4, alpha=8, dropout=0.1) is net
    assert is_adapted(net)
    assert torch.equal(net(images), wanted)
    assert fingerprint(net) == base
    trainable = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    adapter = {f"{name}.{factor}" for name in adapted_layers(net) for factor in ("lora_A", "lora_B")}
    assert trainable == adapter
    assert set(net.state_dict()) == keys | adapter
    answer = net.load_state_dict(state, strict=False)
    assert set(answer.missing_keys) == adapter
    assert not answer.unexpected_keys


def test_counting_counts_each_scalar_once(net):
    base = sum(parameter.numel() for parameter in net.parameters())
    inject_lora(net, target_modules=["head"], rank=3)
    lora = 3 * (8 + 4)
    assert count_parameters(net) == (base + lora, lora, lora)
    net.stem.requires_grad_(True)
    assert count_parameters(net).trainable == lora + 3 * 8 * 9 + 8
    freeze_base_params(net)
    assert count_parameters(net).trainable == lora
    assert sum(parameter.numel() for parameter in get_lora_params(net)) == lora


def test_training_changes_the_adapter_and_not_the_base(net, images):
    base = fingerprint(net)
    inject_lora(net, target_modules=ALL)
    optimizer = torch.optim.Adam(get_lora_params(net), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = net(images).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert fingerprint(net) == base


@pytest.mark.parametrize("inplace", [True, False])
def test_merging_gives_plain_layers_and_the_same_output(net, images, shake, inplace):
    inject_lora(net, target_modules=ALL, rank=4)
    shake(net)
    wanted = net(images)
    before = copy.deepcopy(net.state_dict())
    merged = merge_lora_weights(net, inplace=inplace)
    torch.testing.assert_close(merged(images), wanted, rtol=1e-5, atol=1e-5)
    assert not is_adapted(merged)
    assert "lora" not in "".join(merged.state_dict())
    assert (merged is net) == inplace
    if not inplace:
        assert torch.equal(net(images), wanted)
        assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
        shared = {
            name
            for name, tensor in merged.state_dict().items()
            if tensor.data_ptr() == net.state_dict()[name].data_ptr()
        }
        assert set(merged.state_dict()) - shared == {f"{name}.weight" for name in adapted_layers(net)}


def test_merging_nothing_is_no_change(net):
    state = copy.deepcopy(net.state_dict())
    assert merge_lora_weights(net) is net
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in state.items())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.same_weight = nn.Linear(4, 4)
        self.same_weight.weight = self.first.weight
        self.same_memory = nn.Linear(4, 4)
        self.same_memory.weight.data = self.first.weight.data

    def forward(self, x):
        return self.same_memory(self.same_weight(self.again(self.first(x))))


def test_a_shared_weight_has_one_adapter_and_is_merged_once(shake):
    net = inject_lora(Tied(), target_modules="all-linear", rank=2)
    assert list(adapted_layers(net)) == ["first", "same_weight", "same_memory"]
    assert len(get_lora_params(net)) == 2
    assert count_parameters(net).lora == 2 * 8
    shake(net)
    x = torch.randn(3, 4)
    wanted, weight = net(x), net.first.weight
    copied = merge_lora_weights(net, inplace=False)
    torch.testing.assert_close(copied(x), wanted)
    assert copied.first is copied.again
    assert copied.first.weight is copied.same_weight.weight
    torch.testing.assert_close(merge_lora_weights(net)(x), wanted)
    assert net.first.weight is weight is net.same_weight.weight
    assert net.same_memory.weight.data_ptr() == weight.data_ptr()


def test_a_weight_shared_with_a_layer_without_adapter_is_parted_by_merging(shake):
    for inplace in (True, False):
        net = inject_lora(Tied(), target_modules=["again"], rank=2)
        assert list(adapted_layers(net)) == ["first"]
        shake(net)
        x = torch.randn(3, 4)
        wanted, base = net(x), net.same_weight.weight.clone()
        merged = merge_lora_weights(net, inplace=inplace)
        torch.testing.assert_close(merged(x), wanted)
        assert torch.equal(merged.same_weight.weight, base)
        assert not merged.first.weight.requires_grad


def test_a_shared_weight_cannot_have_two_settings():
    with pytest.raises(ValueError, match="'first' and 'same_weight' share one weight but not their settings"):
        inject_lora(Tied(), LoRAConfig(target_modules="all-linear", rank_pattern={"first": 2}))


def test_disabled_gives_the_base_and_comes_back_after_an_error(net, images, shake):
    base = net(images)
    inject_lora(net, target_modules=ALL)
    shake(net)
    adapted = net(images)
    with disabled(net):
        assert torch.equal(net(images), base)
        with disabled(net):
            pass
        assert torch.equal(net(images), base), "an inner context leaves the outer one in force"
        assert torch.equal(net.head.effective_weight(), net.head.weight)
    with pytest.raises(RuntimeError, match="stop"), disabled(net):
        raise RuntimeError("stop")
    assert torch.equal(net(images), adapted)


def test_unloading_gives_the_base_back(net, images, shake):
    base, structure = net(images), repr(net)
    inject_lora(net, target_modules=ALL)
    shake(net)
    assert unload_lora(net) is net
    assert torch.equal(net(images), base)
    assert repr(net) == structure


def test_what_inject_lora_is_given_must_be_clear(net):
    with pytest.raises(ValueError, match="config is a list; layers are named by target_modules="):
        inject_lora(net, ["head"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="r, lora_alpha given twice"):
        inject_lora(net, LoRAConfig(), rank=4, alpha=4)


def test_injection_works_on_the_meta_device():
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 1), nn.Flatten(2), nn.Linear(9, 3))
        inject_lora(net, target_modules=["0", "1", "3"])
        assert net(torch.randn(2, 4, 5, 5)).shape == (2, 2, 3)
    assert all(parameter.is_meta for parameter in get_lora_params(net))
    assert len(get_lora_params(net)) == 6


def test_torch_compile_sees_one_graph(net, images, shake):
    inject_lora(net, target_modules=ALL)
    shake(net)
    report = torch._dynamo.explain(net)(images)
    assert report.graph_break_count == 0


def test_verify_finds_all_alive_and_leaves_everything_as_it_was(net, images, shake):
    inject_lora(net, target_modules=ALL, dropout=0.2)
    shake(net)
    net.blocks.train()
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    rng = torch.get_rng_state()
    report = verify(net, (images,))
    assert report.ok
    assert len(report.checked) == 6
    assert str(report) == "all 6 adapters reach the output"
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    assert modes == [module.training for module in net.modules()]
    assert torch.equal(rng, torch.get_rng_state())


class RawReader(nn.Module):
    """Reads one weight raw always, and one in evaluation only, as fused kernels do."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Linear(3, 3)
        self.raw = nn.Linear(3, 3)
        self.fused = nn.Linear(3, 3)
        self.unused = nn.Linear(3, 3)
        self.bn = nn.BatchNorm1d(3)

    def forward(self, x):
        x = self.bn(F.linear(self.fine(x), self.raw.weight))
        x = self.fused(x) if self.training else F.linear(x, self.fused.weight, self.fused.bias)
        return {"out": [x], "nothing": None}


def test_verify_names_the_adapters_that_are_passed_by():
    net = inject_lora(RawReader(), target_modules="all-linear").eval()
    report = verify(net, torch.randn(4, 3))
    assert not report.ok
    assert report.dead_in_train == ("raw", "unused")
    assert report.dead_in_eval == ("raw", "fused", "unused")
    assert "in evaluation 'raw', 'fused', 'unused'" in str(report)
    assert net.bn.num_batches_tracked == 0
    assert not net.training


def test_verify_restores_when_the_model_raises_and_says_what_it_cannot_check(net, images):
    inject_lora(net, target_modules=ALL)
    net.train()
    before = copy.deepcopy(net.state_dict())
    calls = []

    def forward(model, batch):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("broken")
        return model(batch)

    with pytest.raises(RuntimeError, match="broken"):
        verify(net, images, forward)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    assert net.training
    with pytest.raises(ValueError, match="output of SmallNet holds no tensor"):
        verify(net, images, lambda model, batch: None)
    with pytest.raises(ValueError, match="Linear has no adapter; inject_lora comes first"):
        verify(nn.Linear(2, 2), images)
