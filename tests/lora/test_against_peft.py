"""What goes wrong, silently or loudly, in PEFT 0.21.2 with vision models, and goes right here."""

from __future__ import annotations

import copy
import warnings

import peft
import pytest
import torch
from torch import Tensor, nn

from lorgnette.lora import (
    LoRAConfig,
    get_lora_params,
    inject_lora,
    load_adapter,
    load_lora_state_dict,
    merge_lora_weights,
    save_adapter,
    unmerge_lora_weights,
    verify,
)


def adapted(layer: nn.Module, r: int = 2, **settings) -> nn.Sequential:
    torch.manual_seed(0)
    model = inject_lora(nn.Sequential(layer), LoRAConfig(r=r, target_modules=["0"], **settings))
    for parameter in get_lora_params(model):
        nn.init.normal_(parameter, std=0.3)
    return model


CONVOLUTIONS = {
    "groups, which PEFT cannot merge": (nn.Conv2d(4, 6, 3, groups=2), 2),
    "rank below and not divisible by the groups, which PEFT refuses": (nn.Conv2d(6, 6, 3, groups=6), 2),
    "rank 1 with groups": (nn.Conv2d(4, 4, 3, groups=4), 1),
    "reflected padding, which PEFT trains as zeros": (nn.Conv2d(4, 4, 3, padding=2, padding_mode="reflect"), 2),
    "circular padding": (nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular"), 2),
    "dilation, on which PEFT's forward fails": (nn.Conv2d(4, 4, 3, dilation=2), 2),
    "a transposed convolution, which PEFT does not know": (nn.ConvTranspose2d(4, 4, 3, stride=2), 2),
    "a rank above the size": (nn.Conv2d(4, 4, 1), 64),
}


@pytest.mark.parametrize(("layer", "r"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_every_convolution_trains_what_it_merges(layer, r):
    layer = copy.deepcopy(layer)
    model, x = adapted(layer, r), torch.randn(2, layer.in_channels, 9, 8)
    wanted = model(x)
    wanted.square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in get_lora_params(model))
    torch.testing.assert_close(merge_lora_weights(model)(x), wanted, rtol=1e-5, atol=1e-4)


class Attention(nn.Module):
    def __init__(self, **settings) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True, **settings)

    def forward(self, query: Tensor, other: Tensor) -> Tensor:
        return self.attn(query, other, other)[0]


def test_out_proj_of_an_attention_receives_gradients_and_has_an_effect():
    model = inject_lora(Attention(), target_modules=["out_proj"], rank=2)
    batch = (torch.randn(2, 3, 8), torch.randn(2, 5, 8))
    assert verify(model, batch).ok
    model(*batch).square().mean().backward()
    assert model.attn.out_proj.lora_B.grad.abs().sum() > 0


def test_the_update_of_out_proj_is_applied_once():
    model = inject_lora(Attention(), target_modules=["out_proj"], rank=2)
    layer, batch = model.attn.out_proj, (torch.randn(2, 3, 8), torch.randn(2, 5, 8))
    nn.init.normal_(layer.lora_B)
    by_hand = copy.deepcopy(model)
    merge_lora_weights(by_hand).attn.out_proj.weight.data = layer.weight + layer.scaling * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(model(*batch), by_hand(*batch))


def test_an_attention_over_keys_of_another_size_is_adapted():
    model = inject_lora(Attention(kdim=5, vdim=5), target_modules=["attn"], rank=2)
    batch = (torch.randn(2, 3, 8), torch.randn(2, 5, 5))
    report = verify(model, batch)
    assert report.ok
    assert len(report.checked) == 4


def test_one_of_two_names_that_matches_nothing_is_an_error(net):
    with pytest.raises(ValueError, match="'does_not_exist' matches no layer"):
        inject_lora(net, target_modules=["to_qkv", "does_not_exist"])
    with pytest.raises(ValueError, match=r"lora\.rank_pattern: 'nothing' matches no adapted layer"):
        inject_lora(net, LoRAConfig(target_modules=["to_qkv"], rank_pattern={"nothing": 4}))


def test_what_cannot_be_adapted_is_named(net):
    with pytest.raises(ValueError, match=r"'norm' matches 'blocks\.0\.norm', a LayerNorm; only nn\.Linear"):
        inject_lora(net, target_modules=["norm"])


def test_a_renamed_base_is_an_error_and_not_an_untrained_adapter(net, make_net, tmp_path):
    inject_lora(net, target_modules=["to_qkv"])
    renamed = make_net()
    for block in renamed.blocks:
        block.projection = block.to_qkv
        del block.to_qkv
    with pytest.raises(ValueError, match="is for another base than this SmallNet"):
        load_adapter(renamed, save_adapter(net, tmp_path))
    with pytest.raises(ValueError, match="4 unexpected"):
        load_adapter(renamed, tmp_path, check_base=False)
    inject_lora(renamed, target_modules=["projection"])
    with pytest.raises(ValueError, match=r"4 missing .*; 4 unexpected"):
        load_lora_state_dict(renamed, {n: p for n, p in net.state_dict().items() if "lora_" in n})


def test_merging_a_copy_leaves_the_base_alone(net, images, shake):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    inject_lora(net, target_modules="all-linear")
    shake(net)
    wanted = net(images)
    plain = merge_lora_weights(net, inplace=False)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    torch.testing.assert_close(plain(images), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_and_unmerging_changes_no_bit(dtype):
    model = adapted(nn.Linear(64, 64)).to(dtype)
    before = model[0].weight.detach().clone()
    for _ in range(10):
        merge_lora_weights(model, keep=True)
        unmerge_lora_weights(model)
    assert torch.equal(model[0].weight, before)


def test_an_unmerged_model_can_be_traced_and_exported():
    model, x = adapted(nn.Conv2d(4, 4, 3, padding=1)).eval(), torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated, and still in use
def test_adapted_is_traced_and_merged_is_scripted():
    model = adapted(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=2)).eval()
    x, other = torch.randn(1, 4, 5, 5), torch.randn(2, 4, 7, 6)
    torch.testing.assert_close(torch.jit.trace(model, (x,))(other), model(other))
    scripted = torch.jit.script(merge_lora_weights(model, inplace=False))
    torch.testing.assert_close(scripted(other), model(other), rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------- the other column of the page: PEFT 0.21 itself


def of_peft(layer: nn.Module, r: int = 2, **settings) -> nn.Module:
    torch.manual_seed(0)
    config = peft.LoraConfig(**({"r": r, "target_modules": ["0"], "init_lora_weights": False} | settings))
    return peft.get_peft_model(nn.Sequential(copy.deepcopy(layer)), config).eval()


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups > 1")
def test_peft_wants_a_rank_that_the_groups_divide_and_cannot_merge_them():
    with pytest.raises(ValueError, match="divisible by groups"):
        of_peft(nn.Conv2d(6, 6, 3, groups=6))
    with pytest.raises(NotImplementedError):
        of_peft(nn.Conv2d(4, 6, 3, groups=2)).merge_and_unload()


def test_peft_pads_by_zeros_and_merges_something_else():
    model, x = of_peft(nn.Conv2d(4, 4, 3, padding=2, padding_mode="reflect")), torch.randn(1, 4, 6, 6)
    wanted = model(x)
    assert (model.merge_and_unload()(x) - wanted).abs().max() > 1e-3


def test_peft_fails_on_dilation_and_refuses_what_it_does_not_know():
    with pytest.raises(RuntimeError):
        of_peft(nn.Conv2d(4, 4, 3, dilation=2))(torch.randn(1, 4, 6, 6))
    with pytest.raises(ValueError, match="not supported"):
        of_peft(nn.ConvTranspose2d(4, 4, 3))
    with pytest.raises(ValueError, match="same embed"):
        of_peft(nn.MultiheadAttention(8, 2, kdim=5, vdim=5))


def test_no_gradient_reaches_out_proj_in_peft():
    config = peft.LoraConfig(r=2, target_modules=["out_proj"], init_lora_weights=False)
    model = peft.get_peft_model(Attention(), config)
    assert any("lora_" in name for name, _ in model.named_parameters())
    assert not model(torch.randn(2, 3, 8), torch.randn(2, 5, 8)).requires_grad


def test_peft_passes_over_a_name_that_matches_nothing(net):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peft.get_peft_model(net, peft.LoraConfig(target_modules=["to_qkv", "does_not_exist"]))


@pytest.mark.filterwarnings("ignore")
def test_peft_loads_onto_a_renamed_base_without_an_error(net, make_net, tmp_path):
    peft.get_peft_model(net, peft.LoraConfig(target_modules=["to_qkv", "head"])).save_pretrained(tmp_path)
    renamed = make_net()
    for block in renamed.blocks:
        block.projection = block.to_qkv
        del block.to_qkv
    peft.PeftModel.from_pretrained(renamed, tmp_path)


def test_peft_changes_bits_of_bfloat16_and_the_base_itself():
    layer = nn.Linear(64, 64).to(torch.bfloat16)
    model = of_peft(layer)
    before = model.base_model.model[0].base_layer.weight.detach().clone()
    model.merge_adapter()
    model.unmerge_adapter()
    assert not torch.equal(model.base_model.model[0].base_layer.weight, before)
    base = nn.Sequential(copy.deepcopy(layer))
    weight = base[0].weight
    config = peft.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    before = weight.detach().clone()
    merged = peft.get_peft_model(base, config).merge_and_unload()
    assert merged[0].weight is weight
    assert not torch.equal(weight, before)


def test_peft_has_no_dropout_on_raw_parameters():
    config = peft.LoraConfig(target_modules=[], target_parameters=["in_proj"], lora_dropout=0.1)
    module = nn.Module()
    module.inner = nn.Module()
    module.inner.in_proj = nn.Parameter(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="lora_dropout"):
        peft.get_peft_model(module, config)
