"""Forwards that others stored on a layer, weights that others compute or replace: before an injection or after it."""

from __future__ import annotations

import copy
import functools
import warnings

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from torch import nn
from torch.nn.utils import fusion, parametrizations, prune

from lorgnette.lora import (
    LoRAConfig,
    add_adapter,
    get_lora_params,
    inject_lora,
    load_adapter,
    merge_lora_weights,
    save_adapter,
    set_adapter,
    unload_lora,
    unmerge_lora_weights,
    verify,
)


class Net(nn.Module):
    """Every kind of layer that can be adapted, and modules that read the weights of others."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose1d(8, 8, 1)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(24, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.conv(self.embed(x).mT)).mT
        return self.head(self.qkv(self.encoder(x)))


CONFIG = LoRAConfig(
    r=2,
    target_modules=["embed", "conv", "up", "self_attn", "linear1", "linear2", "qkv", "head"],
    slices={"qkv": ["q", "v"]},
)
X = torch.arange(10).reshape(2, 5) % 9


def base() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def shaken(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for parameter in get_lora_params(model):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


def hook(model: nn.Module) -> None:
    for module in model.modules():
        if module is not model:
            add_hook_to_module(module, AlignDevicesHook(execution_device="cpu"), append=True)


def unhook(model: nn.Module) -> None:
    remove_hook_from_module(model, recurse=True)


def bind(model: nn.Module) -> None:
    """What hooks leave behind when they are removed: the forward of the class, stored."""
    for module in model.modules():
        module.forward = module.forward


CHANGES = {"hooks": (hook,), "hooks, removed": (hook, unhook), "stored": (bind,), "twice": (hook, hook)}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hooked_model_is_adapted_merged_and_unloaded_as_any_other(changes, when, tmp_path):
    plain = shaken(inject_lora(base(), CONFIG))
    model = base()
    if when == "before":
        for change in changes:
            change(model)
    started = model(X)
    inject_lora(model, CONFIG)
    if when == "after":
        for change in changes:
            change(model)
    torch.testing.assert_close(model(X), started)
    shaken(model)
    assert verify(model, X).ok
    wanted = plain(X)
    with torch.no_grad():  # the fused evaluation of the encoder layer too
        torch.testing.assert_close(model(X), wanted)
    model(X).square().sum().backward()
    assert all(p.grad is not None for p in get_lora_params(model))

    save_adapter(model, tmp_path)
    again = base()
    for change in changes:
        change(again)
    load_adapter(again, tmp_path)
    torch.testing.assert_close(again(X), wanted)
    torch.testing.assert_close(copy.deepcopy(again)(X), wanted)
    torch.testing.assert_close(merge_lora_weights(again, inplace=False)(X), wanted)

    merge_lora_weights(model, keep=True)
    torch.testing.assert_close(model(X), wanted)
    unmerge_lora_weights(model)
    torch.testing.assert_close(model(X), again(X))
    unload_lora(model)
    torch.testing.assert_close(model(X), started)
    unhook(model)
    torch.testing.assert_close(model(X), started)
    inject_lora(model, CONFIG)
    assert verify(model, X).ok


def test_hooks_added_or_removed_between_changes_of_the_adapter():
    model = inject_lora(base(), CONFIG)
    hook(model)
    add_adapter(model, "other", LoRAConfig(r=2, target_modules=["head", "conv"]))
    wanted = shaken(model)(X)
    set_adapter(model, "other")
    other = shaken(model)(X)
    unhook(model)
    torch.testing.assert_close(model(X), other)
    set_adapter(model, "default")
    torch.testing.assert_close(model(X), wanted)
    set_adapter(model, None)
    torch.testing.assert_close(model(X), base()(X))


def doubled(module: nn.Module) -> None:
    """A wrapper of one's own: a closure over the bound method."""
    inner = module.forward

    @functools.wraps(inner)
    def forward(*args, **kwargs):
        return 2 * inner(*args, **kwargs)

    module.forward = forward


@pytest.mark.parametrize("name", ["embed", "conv", "up", "qkv", "head"])
def test_a_wrapper_of_ones_own_before_the_injection_is_refused_and_after_it_right(name):
    model = base()
    doubled(model.get_submodule(name))
    with pytest.raises(ValueError, match="has a forward of its own, which would bypass the adapter"):
        inject_lora(model, target_modules=[name])

    model = shaken(inject_lora(base(), CONFIG))
    by_hand = shaken(inject_lora(base(), CONFIG))
    doubled(model.get_submodule(name))
    by_hand.get_submodule(name).register_forward_hook(lambda _, inputs, output: 2 * output)
    with torch.enable_grad():  # the fused evaluation runs no hooks
        wanted = by_hand(X)
        torch.testing.assert_close(model(X), wanted)
        merge_lora_weights(model, keep=True)
        torch.testing.assert_close(model(X), wanted, rtol=1e-4, atol=1e-5)
        unmerge_lora_weights(model)
        torch.testing.assert_close(model(X), wanted)
        torch.testing.assert_close(unload_lora(model)(X), unload_lora(by_hand)(X))


def test_a_wrapper_around_an_encoder_layer_is_refused_too():
    """Its fused evaluation reads the weights of its children, which no adapter reaches from there."""
    model = base()
    doubled(model.encoder)
    for name in ("linear1", "self_attn"):
        with pytest.raises(ValueError, match=r"is read raw by its nn\.TransformerEncoderLayer, on which a forward"):
            inject_lora(model, target_modules=[name])


def test_a_method_kept_elsewhere_outlives_the_adapter():
    model = inject_lora(base(), CONFIG)
    kept = model.head.forward
    x = torch.randn(2, 24)
    unload_lora(model)
    assert torch.equal(kept(x), model.head(x))


def old_style(put):
    def apply(layer: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            put(layer)

    return apply


COMPUTED = {
    "weight norm": parametrizations.weight_norm,
    "weight norm by a hook": old_style(nn.utils.weight_norm),
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by a hook": old_style(nn.utils.spectral_norm),
    "orthogonal": parametrizations.orthogonal,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


def two(injected: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    if injected:
        shaken(inject_lora(model, target_modules=["0", "1"], rank=2))
    return model


@pytest.mark.parametrize("kind", COMPUTED)
def test_a_weight_that_is_computed_is_refused_before_and_kept_after_the_injection(kind, tmp_path):
    put = COMPUTED[kind]
    model, x = two(injected=False), torch.randn(3, 4)
    put(model[1])
    with pytest.raises(ValueError, match="computes its weight"):
        inject_lora(model, target_modules=["0", "1"])
    wanted = model(x)
    inject_lora(model, target_modules=["0"], rank=2)
    torch.testing.assert_close(shaken(merge_lora_weights(model))(x), wanted)

    model, plain = two(), two(injected=False)
    put(model[1])
    put(plain[1])
    wanted = model(x)
    for inplace in (True, False):
        with pytest.raises(ValueError, match=r"the weight of an adapted .*Linear is computed .* remove that first"):
            merge_lora_weights(model, inplace)
    with pytest.raises(ValueError, match="is computed"):
        merge_lora_weights(model, safe=True)
    assert torch.equal(model(x), wanted)
    save_adapter(model, tmp_path)
    with pytest.raises(ValueError, match="for another base"):
        load_adapter(two(injected=False), tmp_path)
    unload_lora(model)
    if kind not in ("spectral norm", "spectral norm by a hook"):  # each has drawn vectors of its own
        torch.testing.assert_close(model(x), plain(x), msg="unloaded, it computes its weight as ever")
    assert type(model[1]).__name__ == type(plain[1]).__name__


def test_what_removes_the_computation_leaves_an_adapted_layer():
    model, x = two(), torch.randn(3, 4)
    parametrizations.weight_norm(model[0])
    prune.l1_unstructured(model[1], "weight", 0.5)
    wanted = model(x)
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    prune.remove(model[1], "weight")
    torch.testing.assert_close(model(x), wanted)
    torch.testing.assert_close(merge_lora_weights(model)(x), wanted)


def test_a_parametrised_bias_is_no_obstacle():
    class Shifted(nn.Module):
        def forward(self, bias):
            return bias + 1

    model, x = two(injected=False), torch.randn(3, 4)
    nn.utils.parametrize.register_parametrization(model[0], "bias", Shifted())
    kind, started = type(model[0]), model(x)
    wanted = shaken(inject_lora(model, target_modules=["0"], rank=2))(x)
    torch.testing.assert_close(merge_lora_weights(model, keep=True)(x), wanted)
    unload_lora(unmerge_lora_weights(model))
    assert torch.equal(model(x), started)
    assert type(model[0]) is kind


@pytest.mark.parametrize("norm", [True, False], ids=["frozen norm", "foreign norm"])
def test_tools_that_write_the_weight_of_a_copy_are_refused(norm):
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6))
    made[1].running_var.uniform_(1, 2)
    model = shaken(inject_lora(made.eval(), target_modules=["0", "3"], rank=2))
    x = torch.randn(2, 3, 4, 4)
    bn, bn1 = (model[1], model[4]) if norm else (copy.deepcopy(unload_lora(copy.deepcopy(model)))[i] for i in (1, 4))
    with pytest.raises(ValueError, match=r"weight of an adapted Conv2d cannot be replaced: .* merge_lora_weights"):
        fusion.fuse_conv_bn_eval(model[0], bn)
    with pytest.raises(ValueError, match="weight of an adapted Linear cannot be replaced"):
        fusion.fuse_linear_bn_eval(model[3], bn1)
    wanted = model(x)
    merge_lora_weights(model)
    fused = nn.Sequential(fusion.fuse_conv_bn_eval(model[0], model[1]), nn.Flatten())
    fused.append(fusion.fuse_linear_bn_eval(model[3], model[4]))
    torch.testing.assert_close(fused(x), wanted, rtol=1e-4, atol=1e-5)


def test_slices_and_attentions_are_guarded_too_and_loading_may_replace():
    model = inject_lora(base(), CONFIG)
    for layer, name in ((model.qkv, "weight"), (model.encoder.self_attn, "in_proj_weight"), (model.embed, "weight")):
        with pytest.raises(ValueError, match=f"the {name} of an adapted"):
            setattr(layer, name, nn.Parameter(torch.zeros_like(getattr(layer, name))))
        setattr(layer, name, getattr(layer, name))  # itself, as code that ties weights does
    state = {name: tensor.clone() for name, tensor in base().state_dict().items()}
    model.load_state_dict(state, strict=False, assign=True)
    assert model.head.weight.data_ptr() == state["head.weight"].data_ptr()
    model.head.bias = nn.Parameter(torch.zeros(2))  # has no adapter


def test_dynamic_quantisation_leaves_adapted_layers_right():
    model, x = two(), torch.randn(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert torch.equal(quantised(x), model(x))


def small() -> Net:
    """Without the encoder: an attention reads raw what accelerate fetches for its child alone."""
    net = base()
    net.encoder = nn.Identity()
    return net


def test_an_offloaded_base_trains_its_adapter_and_keeps_it(tmp_path):
    wanted = shaken(inject_lora(small(), target_modules=["conv", "qkv", "head"], rank=2))
    model = cpu_offload(small(), execution_device="cpu")
    assert model.head.weight.is_meta
    inject_lora(model, target_modules=["conv", "qkv", "head"], rank=2)
    torch.testing.assert_close(model(X), small()(X))
    shaken(model)
    torch.testing.assert_close(model(X), wanted(X))
    model(X).square().sum().backward()
    wanted(X).square().sum().backward()
    for mine, theirs in zip(get_lora_params(model), get_lora_params(wanted), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert model.head.weight.is_meta
    assert not model.head.lora_A.is_meta
    save_adapter(model, tmp_path)
    again = small()
    load_adapter(again, tmp_path)  # the fingerprint is that of the weights, wherever they lie
    torch.testing.assert_close(again(X), wanted(X))
    far = cpu_offload(small(), execution_device="cpu")
    load_adapter(far, tmp_path)
    torch.testing.assert_close(far(X), wanted(X))
    with pytest.raises(ValueError, match="is offloaded: remove the hooks first"):
        merge_lora_weights(model)
    remove_hook_from_module(model, recurse=True)
    torch.testing.assert_close(merge_lora_weights(model)(X), wanted(X))
    with pytest.raises(ValueError, match="offloaded"):
        inject_lora(cpu_offload(small(), execution_device="cpu"), LoRAConfig(target_modules=["head"], use_dora=True))
    torch.testing.assert_close(unload_lora(far)(X), small()(X))


def test_a_model_that_is_offloaded_with_its_adapter_goes_on_training_it(tmp_path):
    torch.manual_seed(4)
    model = inject_lora(small(), target_modules=["conv", "qkv", "head"], rank=2)
    cpu_offload(model, execution_device="cpu")
    assert model.head.weight.is_meta
    optimizer = torch.optim.SGD(get_lora_params(model), lr=0.1)
    before = model(X)
    model(X).square().sum().backward()
    optimizer.step()
    trained = model(X)
    assert not torch.equal(trained, before)
    save_adapter(model, tmp_path)
    again = small()
    load_adapter(again, tmp_path)
    torch.testing.assert_close(again(X), trained)
    remove_hook_from_module(model, recurse=True)
    torch.testing.assert_close(model(X), trained)
    torch.testing.assert_close(merge_lora_weights(model)(X), trained)
