"""What else PEFT and its users write: Conv1D, biases of B, PiSSA, pickles, keys of a PeftModel, any strength."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorgnette.lora import (
    LoRAConfig,
    adapted_layers,
    inject_lora,
    load_adapter,
    load_lora_state_dict,
    merge_lora_weights,
    resize,
    save_adapter,
    unload_lora,
    unmerge_lora_weights,
    verify,
)

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to", "ignore:Adapter 'default'. 2 LoRA tensor")
X = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A linear layer, one stored the other way round, one without a bias, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.c_attn = Conv1D(10, 8)
        self.bare = nn.Linear(10, 8, bias=False)
        self.conv = nn.Conv1d(1, 2, 3)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.bare(self.c_attn(self.first(x).tanh()).tanh()).tanh()
        return self.head(self.conv(x[..., None, :]).sum(-2))


def base() -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    nn.init.normal_(net.c_attn.bias)
    return net


def theirs(**settings) -> PeftModel:
    torch.manual_seed(3)
    model = get_peft_model(base(), LoraConfig(**({"r": 2, "target_modules": ["first", "c_attn"]} | settings)))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn(parameter.shape) * 0.3
    return model.eval()


def shaken(model: nn.Module) -> nn.Module:
    torch.manual_seed(5)
    for layer in adapted_layers(model).values():
        for name in ("lora_A", "lora_B"):
            nn.init.normal_(layer.get_parameter(name), std=0.3)
    return model


# ------------------------------------------------------------------------------------------------------------ Conv1D


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}, {"lora_dropout": 0.1}], ids=str)
def test_conv1d_of_transformers_goes_both_ways(settings, tmp_path):
    model = theirs(**settings)
    model.save_pretrained(tmp_path / "theirs")
    mine = base()
    assert load_adapter(mine, tmp_path / "theirs").complete
    torch.testing.assert_close(mine(X), model(X))
    mine = base()
    start = mine(X)
    inject_lora(mine, LoRAConfig(r=2, target_modules=["first", "c_attn"], **settings))
    torch.testing.assert_close(mine(X), start, rtol=0, atol=1e-6 if settings.get("use_dora") else 0)
    assert verify(mine, X).ok
    shaken(mine)
    save_adapter(mine, tmp_path / "mine")
    again = PeftModel.from_pretrained(base(), tmp_path / "mine").eval()
    torch.testing.assert_close(again(X), mine(X))
    torch.testing.assert_close(again.merge_and_unload()(X), mine(X))


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"dynamic_rank": True}], ids=str)
def test_conv1d_is_a_layer_like_others(settings):
    kind, model = Conv1D, inject_lora(base(), LoRAConfig(r=2, target_modules=["c_attn"], **settings))
    assert isinstance(model.c_attn, kind)
    wanted = shaken(model)(X)
    model.train()(X).square().sum().backward()
    assert model.c_attn.lora_A.grad.abs().sum() > 0
    assert model.c_attn.weight.grad is None
    model.eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(X), wanted)
    if not settings:
        resize(model, 5)
        torch.testing.assert_close(model(X), wanted)
    if "dynamic_rank" not in settings:
        merge_lora_weights(model, keep=True)
        torch.testing.assert_close(model(X), wanted)
        assert type(model.c_attn) is kind
        unmerge_lora_weights(model)
    stored = model.c_attn.forward
    unload_lora(model)
    assert torch.equal(model(X), base()(X))
    assert torch.equal(stored(torch.ones(1, 8)), model.c_attn(torch.ones(1, 8)))


def test_all_linear_means_it_too_and_pissa_is_refused_by_name():
    assert set(adapted_layers(inject_lora(base(), target_modules="all-linear"))) == {"first", "c_attn", "bare", "head"}
    with pytest.raises(ValueError, match=r"'c_attn' \(Conv1D\) cannot have lora.init_lora_weights 'pissa'"):
        inject_lora(base(), LoRAConfig(target_modules=["c_attn"], init_lora_weights="pissa"))


# --------------------------------------------------------------------------------------------------------- lora_bias


@pytest.mark.parametrize("bias", ["none", "lora_only"])
def test_a_bias_of_b_becomes_part_of_the_layers_own(bias, tmp_path):
    model = theirs(lora_bias=True, bias=bias, lora_alpha=5)
    model.save_pretrained(tmp_path / "theirs")
    mine = base()
    assert load_adapter(mine, tmp_path / "theirs").complete
    torch.testing.assert_close(mine(X), model(X))
    save_adapter(mine, tmp_path / "mine")
    again = base()
    load_adapter(again, tmp_path / "mine")
    torch.testing.assert_close(again(X), model(X))
    torch.testing.assert_close(merge_lora_weights(again)(X), model(X))
    with pytest.raises(ValueError, match=r"lora_B\.bias' goes into the bias of a layer without adapters"):
        load_adapter(mine, tmp_path / "theirs")
    without = base()
    without.first.register_parameter("bias", None)
    with pytest.raises(ValueError, match=r"'first' has no bias|1 unexpected .'first\.bias'"):
        load_adapter(without, tmp_path / "theirs")


# ------------------------------------------------------------------------------------------------------ PiSSA, OLoRA


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("alpha", [2, 7])
def test_factors_that_started_from_the_base_are_read(start, alpha, tmp_path):
    model = theirs(init_lora_weights=start, lora_alpha=alpha, target_modules=["first", "bare"])
    model.save_pretrained(tmp_path / "theirs")
    mine = base()
    assert load_adapter(mine, tmp_path / "theirs").complete
    torch.testing.assert_close(mine(X), model(X))
    assert torch.equal(mine.first.weight, base().first.weight)
    save_adapter(mine, tmp_path / "mine")  # a plain LoRA for PEFT
    again = PeftModel.from_pretrained(base(), tmp_path / "mine").eval()
    torch.testing.assert_close(again(X), model(X))
    torch.testing.assert_close(merge_lora_weights(mine)(X), model(X))


def test_mica_is_a_plain_adapter_whose_b_was_not_trained(tmp_path):
    model = theirs(init_lora_weights="mica", target_modules=["first", "bare"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    model.save_pretrained(tmp_path)
    mine = base()
    assert load_adapter(mine, tmp_path).complete
    torch.testing.assert_close(mine(X), model(X))
    assert not torch.allclose(mine(X), base()(X))


def test_starts_drawn_by_chance_are_refused(tmp_path):
    theirs(init_lora_weights="pissa_niter_4", target_modules=["first"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="init_lora_weights = 'pissa_niter_4' changed base weights"):
        load_adapter(base(), tmp_path)


# ----------------------------------------------------------------------------------------------------- pickles, keys


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it was run')",))


def test_a_pickle_is_read_and_nothing_of_it_is_run(tmp_path):
    model = theirs(modules_to_save=["head"])
    model.save_pretrained(tmp_path)
    state = {f"base_model.model.{name}": t for name, t in inject_and_load(tmp_path).items()}
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(state, tmp_path / "adapter_model.bin")
    mine = base()
    assert load_adapter(mine, tmp_path).complete
    torch.testing.assert_close(mine(X), model(X))
    torch.save(state | {"first.more": Trap()}, tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match="refused unrun"):
        load_adapter(base(), tmp_path)
    torch.save(state | {"note": "text"}, tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match="'note' is a str, not a tensor"):
        load_adapter(base(), tmp_path)
    (tmp_path / "adapter_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"no adapter_model.safetensors"):
        load_adapter(base(), tmp_path)


def inject_and_load(folder) -> dict[str, torch.Tensor]:
    from lorgnette.lora import get_lora_state_dict

    model = base()
    load_adapter(model, folder)
    return {name: tensor.clone() for name, tensor in get_lora_state_dict(model).items()}


@pytest.mark.parametrize("name", ["default", "night"])
def test_keys_of_a_peft_model_have_the_adapters_name_in_them(name, tmp_path):
    torch.manual_seed(3)
    settings = LoraConfig(r=2, target_modules=["first", "c_attn"], modules_to_save=["head"], use_dora=True)
    model = get_peft_model(base(), settings, adapter_name=name)
    for key, parameter in model.named_parameters():
        if "lora_" in key or "modules_to_save" in key:
            parameter.data += torch.randn(parameter.shape) * 0.3
    state = {key: t for key, t in model.state_dict().items() if "lora_" in key or "modules_to_save" in key}
    assert any(f".{name}." in key for key in state)
    config = LoRAConfig(r=2, target_modules=["first", "c_attn"], modules_to_save=["head"], use_dora=True)
    mine = inject_lora(base(), config)
    assert load_lora_state_dict(mine, state).complete
    torch.testing.assert_close(mine(X), model.eval()(X))


# ---------------------------------------------------------------------------------------------------------- strengths


@pytest.mark.parametrize("alpha", [-4, 0, 0.5])
def test_strengths_of_every_sign(alpha, tmp_path):
    model = theirs(lora_alpha=alpha)
    model.save_pretrained(tmp_path / "theirs")
    mine = base()
    assert load_adapter(mine, tmp_path / "theirs").complete
    torch.testing.assert_close(mine(X), model(X))
    assert torch.equal(mine(X), base()(X)) == (alpha == 0)
    save_adapter(mine, tmp_path / "mine")
    again = base()
    load_adapter(again, tmp_path / "mine")
    assert torch.equal(again(X), mine(X))
    torch.testing.assert_close(PeftModel.from_pretrained(base(), tmp_path / "mine").eval()(X), mine(X))
    torch.testing.assert_close(merge_lora_weights(again)(X), model(X))


def test_a_strength_of_zero_is_spoken_of_where_something_is_to_be_learnt():
    with pytest.warns(UserWarning, match=r"lora.lora_alpha: 0 switches the adapter of 'first' off: nothing is learnt"):
        inject_lora(base(), target_modules=["first"], alpha=0)
    for alpha in (0, -1):
        with pytest.raises(ValueError, match=r"does not go with lora.init_lora_weights 'pissa'"):
            LoRAConfig(lora_alpha=alpha, init_lora_weights="pissa")
    with pytest.raises(ValueError, match=r"lora.lora_alpha: nan is not a number"):
        LoRAConfig(lora_alpha=float("nan"))


# ------------------------------------------------------------------------------------------------------- after unload


def test_what_asks_for_gradients_after_an_unload_is_chosen():
    def asking(**how) -> set[str]:
        model = base()
        model.first.requires_grad_(False)
        inject_lora(model, LoRAConfig(target_modules=["first"], modules_to_save=["head"]))
        inject_lora(model, target_modules=["bare"])  # the first injection counts
        model.head.bias.requires_grad_(True)
        unload_lora(model, **how)
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    every = {name for name, _ in base().named_parameters()}
    assert asking() == asking(trainable="as it is") == {"head.bias"}
    assert asking(trainable="as before") == every - {"first.weight", "first.bias"}
    assert asking(trainable="all") == every
    assert asking(trainable="none") == set()
    model = inject_lora(base(), target_modules=["first"])
    with pytest.raises(ValueError, match="trainable: 'some' is not known; 'as it is', 'as before', 'all', 'none' are"):
        unload_lora(model, trainable="some")
    assert adapted_layers(model)
