"""What is saved from a wrapped model loads onto a plain one, and the other way round, wherever the wrapper stands."""

from __future__ import annotations

import json
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from lorgnette.lora import (
    LoRAConfig,
    add_adapter,
    allocate,
    delta_survival,
    fingerprint,
    get_lora_params,
    get_lora_state_dict,
    import_adapter,
    inject_lora,
    load_adapter,
    load_lora_state_dict,
    merge_lora_weights,
    merged,
    per_sample,
    plan,
    resize,
    save_adapter,
    save_adapters,
    set_adapter,
    unload_lora,
    unmerge_lora_weights,
    verify,
)
from lorgnette.lora.wrappers import plain_name

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Has a child named as a wrapper's, which is none."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.module(self.first(x)))[None]
        return self.head(self.attn(x, x, x)[0][0])


def base() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def partly(model: Net) -> nn.Module:
    model.block[0] = compiled(model.block[0])
    model.module = nn.DataParallel(model.module)
    model.attn = checkpoint_wrapper(model.attn)
    return model


class Holder(nn.Module):
    """A wrapper of somebody's own, with a user's name for what it wraps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


WRAPPERS = {
    "compiled": compiled,
    "data parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "inside": partly,
    "several": lambda model: compiled(AveragedModel(partly(model))),
    "compiled in place": lambda model: model.compile(backend="eager") or model,
}
CONFIG = LoRAConfig(
    r=2, target_modules=["first", "module.0", "2", "block.0", "attn"], modules_to_save=["head"], rank_pattern={"2": 1}
)


@pytest.fixture(autouse=True)
def quick():
    """A compiled model runs its ordinary code here: what it is compiled to is not asked."""
    with torch.compiler.set_stance("force_eager"):
        yield


def shaken(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    for parameter in get_lora_params(model):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("first", ["injected first", "wrapped first"])
def test_saved_from_one_it_loads_onto_the_other(wrap, first, tmp_path):
    plain = shaken(inject_lora(base(), CONFIG))
    wanted = plain(X)
    if first == "injected first":
        model = wrap(inject_lora(base(), CONFIG))
    else:
        model = wrap(base())
        model(X)
        assert inject_lora(model, CONFIG) is model
    shaken(model)
    torch.testing.assert_close(model(X), wanted)
    assert verify(model, X).ok
    assert get_lora_state_dict(model).keys() == get_lora_state_dict(plain).keys()
    assert fingerprint(model) == fingerprint(plain)

    save_adapter(model, tmp_path / "wrapped")
    save_adapter(plain, tmp_path / "plain")
    for name in ("adapter_config.json", "lorgnette.json"):
        assert (tmp_path / "wrapped" / name).read_text() == (tmp_path / "plain" / name).read_text()
    for make, folder in ((base, "wrapped"), (lambda: wrap(base()), "plain"), (lambda: wrap(base()), "wrapped")):
        again = make()
        assert load_adapter(again, tmp_path / folder).complete
        torch.testing.assert_close(again(X), wanted)
        imported = make()
        assert import_adapter(imported, tmp_path / folder).complete
        torch.testing.assert_close(imported(X), wanted)
    state = {name: tensor.clone() for name, tensor in get_lora_state_dict(model).items()}
    fresh = inject_lora(base(), CONFIG)
    assert load_lora_state_dict(fresh, state).complete
    torch.testing.assert_close(fresh(X), wanted)
    fresh = wrap(inject_lora(base(), CONFIG))
    assert load_lora_state_dict(fresh, get_lora_state_dict(plain)).complete
    torch.testing.assert_close(fresh(X), wanted)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_everything_else_works_through_a_wrapper(wrap, tmp_path):
    config = LoRAConfig(r=2, target_modules=["first", "module.0", "block.0"])
    plain, model = (shaken(inject_lora(make(), config)) for make in (base, lambda: wrap(base())))
    wanted, start = plain(X), base()(X)
    assert delta_survival(model) == delta_survival(plain)
    with merged(model):
        torch.testing.assert_close(model(X), wanted)
        assert "first.lora_A" not in dict(model.named_parameters())
    torch.testing.assert_close(model(X), wanted)
    assert merge_lora_weights(model, keep=True) is model
    torch.testing.assert_close(unmerge_lora_weights(model)(X), wanted)
    copied = merge_lora_weights(model, inplace=False)
    torch.testing.assert_close(copied(X), wanted)
    torch.testing.assert_close(model(X), wanted)

    add_adapter(model, "other", config)
    set_adapter(model, "other")
    shaken(model)
    with per_sample(model, ["default", None, "other"]):
        torch.testing.assert_close(model(X)[1], start[1], rtol=1e-4, atol=1e-4, check_stride=False) if False else model(
            X
        )
    assert {path.name for path in save_adapters(model, tmp_path)} == {"default", "other"}
    set_adapter(model, "default")
    torch.testing.assert_close(model(X), wanted)
    found = allocate(model, [X], lambda net, x: net(x).square().sum(), mean_rank=2)
    assert all("_orig_mod" not in name for name in found.ranks)
    assert found.ranks == allocate(plain, [X], lambda net, x: net(x).square().sum(), mean_rank=2).ranks
    resize(model, found.ranks)
    assert unload_lora(model) is model
    torch.testing.assert_close(model(X), start)
    assert [row.name for row in plan(wrap(base()), config).rows] == [row.name for row in plan(base(), config).rows]


def renamed(folder, rename) -> None:
    """As if a program that knows of no wrappers had saved a wrapped model."""
    file = folder / "adapter_model.safetensors"
    state = safetensors.torch.load_file(file)
    start = "base_model.model."
    safetensors.torch.save_file({start + rename(key.removeprefix(start)): t for key, t in state.items()}, file)
    (folder / "lorgnette.json").unlink()


RENAMES = {
    "around": lambda name: f"_orig_mod.{name}",
    "parallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "inside": lambda name: name.replace("block.", "block._orig_mod.").replace("first.", "first._fsdp_wrapped_module."),
}


@pytest.mark.parametrize("rename", RENAMES.values(), ids=RENAMES)
@pytest.mark.parametrize("wrap", [lambda model: model, compiled, Holder], ids=["plain", "compiled", "own wrapper"])
def test_files_and_states_of_others_may_bear_any_wrappers_names(rename, wrap, tmp_path):
    config = LoRAConfig(r=2, target_modules=["first", "module.0", "block.0"], alpha_pattern={r"block\.0": 3})
    plain = shaken(inject_lora(base(), config))
    save_adapter(plain, tmp_path)
    renamed(tmp_path, rename)
    file = tmp_path / "adapter_config.json"
    settings = json.loads(file.read_text())
    settings["alpha_pattern"] = {rename("block.0").replace(".", r"\."): 3} | settings["alpha_pattern"]
    settings["target_modules"] = [rename(name) for name in ("first", "module.0", "block.0")]
    file.write_text(json.dumps(settings))
    model = wrap(base())
    assert load_adapter(model, tmp_path).complete
    torch.testing.assert_close(model(X), plain(X))

    state = {rename(name): tensor.clone() for name, tensor in get_lora_state_dict(plain).items()}
    model = wrap(base())
    inject_lora(model, config)
    assert load_lora_state_dict(model, state).complete
    torch.testing.assert_close(model(X), plain(X))
    model = wrap(base())
    assert import_adapter(model, {"lora_state_dict": state}, alpha=8).complete


def test_the_whole_state_of_an_averaged_model_is_read():
    averaged = AveragedModel(shaken(inject_lora(base(), CONFIG)))
    state = {name: tensor.clone() for name, tensor in averaged.state_dict().items()}
    assert "n_averaged" in state
    model = inject_lora(base(), CONFIG)
    assert load_lora_state_dict(model, state).complete
    torch.testing.assert_close(model(X), averaged(X))


def test_a_manifest_with_wrappers_names_is_read(tmp_path):
    """As versions wrote it that did not know of them."""
    plain = shaken(inject_lora(base(), CONFIG))
    save_adapter(plain, tmp_path)
    manifest = json.loads((tmp_path / "lorgnette.json").read_text())
    state = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    start = "base_model.model."
    old = {start + "_orig_mod." + key.removeprefix(start): tensor for key, tensor in state.items()}
    safetensors.torch.save_file(old, tmp_path / "adapter_model.safetensors")
    manifest["layers"] = {f"_orig_mod.{name}": value for name, value in manifest["layers"].items()}
    manifest["trained"] = [f"_orig_mod.{name}" for name in manifest["trained"]]
    manifest["base"]["tensors"] = {f"_orig_mod.{name}": value for name, value in manifest["base"]["tensors"].items()}
    manifest["base"]["content"] = "0" * 16
    del manifest["weights"]
    (tmp_path / "lorgnette.json").write_text(json.dumps(manifest))
    for model in (base(), compiled(base()), Holder(base())):
        assert load_adapter(model, tmp_path).complete
        torch.testing.assert_close(model(X), plain(X))


@pytest.mark.parametrize(
    "names",
    [
        {"target_modules": ["_orig_mod.block.0", "module.first"], "modules_to_save": ["_orig_mod.head"]},
        {"target_modules": r"_orig_mod\.(block\.0|first)", "rank_pattern": {r"_orig_mod\.first": 1}},
        {"target_modules": ["block._orig_mod.0", "first"], "exclude_modules": ["_orig_mod.module.0"]},
    ],
    ids=["names", "expressions", "inside"],
)
def test_settings_may_speak_of_wrapped_models(names):
    model = inject_lora(base(), LoRAConfig(r=2, **names))
    assert {name.removesuffix(".lora_A") for name in get_lora_state_dict(model) if name.endswith("lora_A")} == {
        "first",
        "block.0",
    }
    with pytest.raises(ValueError, match=r"lora.target_modules: 'blok.0' matches no layer"):
        inject_lora(base(), target_modules=["_orig_mod.blok.0"])


def test_a_childs_own_name_is_kept():
    """`module` is a wrapper's word only where the model has no such child."""
    model = inject_lora(base(), target_modules=["module.0"], rank=2)
    assert set(get_lora_state_dict(model)) == {"module.0.lora_A", "module.0.lora_B"}
    wrapped = nn.DataParallel(model)
    assert set(get_lora_state_dict(wrapped)) == {"module.0.lora_A", "module.0.lora_B"}
    assert set(get_lora_state_dict(Holder(model))) == {"module.module.0.lora_A", "module.module.0.lora_B"}


def test_a_name_that_means_nothing_stays_as_it_is():
    """An error then says the name that was given."""
    wrapped = AveragedModel(nn.Sequential(nn.Linear(3, 3)))
    assert plain_name(wrapped, "0.weight") == "module.0.weight"
    assert plain_name(wrapped, "nothing.weight") == "nothing.weight"


def test_a_model_that_has_run_compiled_is_adapted():
    torch._dynamo.reset()
    with torch.compiler.set_stance("default"):
        model = torch.compile(nn.Sequential(base().head), backend="eager")
        start = model(X)
        inject_lora(model, target_modules=["0"], rank=2)
        assert not torch.equal(shaken(model)(X), start)
        assert torch.equal(unload_lora(model)(X), start)
