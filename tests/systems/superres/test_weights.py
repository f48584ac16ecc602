"""Weights from the files people have: published checkpoints, our own, and those that are neither."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lorgnette.systems.superres import from_upstream, weights
from lorgnette.systems.superres.decoders import LMLIIF, LMLTE, LMCiaoSR
from lorgnette.systems.superres.encoders import ENCODERS, deduced_encoder, make_encoder
from lorgnette.systems.superres.model import make_network
from lorgnette.systems.superres.names import METHODS
from lorgnette.systems.superres.recipe import Model
from lorgnette.systems.superres.weights import load_base

State = dict[str, Tensor]


def network(encoder: str = "edsr-tiny", seed: int = 4) -> LMLTE:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LMLTE(make_encoder(encoder))


@pytest.fixture
def state() -> State:
    return network().state_dict()


def published(sd: State, name: str = "lmlte") -> dict[str, Any]:
    """As upstream's training writes it: the optimiser is part of it."""
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(2)
    optimizer.step()
    args = {"encoder_spec": {"name": "edsr-baseline", "args": {"no_upsampling": True}}, "mod_input": True}
    return {
        "model": {"name": name, "args": args, "sd": sd},
        "optimizer": {"name": "adam", "args": {"lr": 1e-4}, "sd": optimizer.state_dict()},
        "epoch": 1000,
    }


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "published": published,
    "state dict": lambda sd: sd,
    "of several GPUs": lambda sd: {f"module.{name}": tensor for name, tensor in sd.items()},
    "published, of several GPUs": lambda sd: published({f"module.{name}": t for name, t in sd.items()}),
    "of a compiled model": lambda sd: {f"_orig_mod.{name}": tensor for name, tensor in sd.items()},
    "compiled in parts, averaged": lambda sd: (
        {"n_averaged": torch.tensor(3)}
        | {f"module.{name.replace('encoder.', 'encoder._orig_mod.module.')}": t for name, t in sd.items()}
    ),
    "half precision": lambda sd: {name: tensor.half() for name, tensor in sd.items()},
    "ordered, with parameters": lambda sd: {name: nn.Parameter(tensor) for name, tensor in sd.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("how", ["file", "object"])
def test_published_layouts(layout: str, how: str, state: State, tmp_path: Path):
    saved = LAYOUTS[layout](state)
    if how == "file":
        torch.save(saved, tmp_path / "epoch-best.pth")
        model = from_upstream(tmp_path / "epoch-best.pth")
    else:
        model = from_upstream(saved)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        wanted = state[name].half().float() if layout == "half precision" else state[name]
        assert torch.equal(tensor, wanted)


@pytest.mark.parametrize("half", [False, True])
def test_safetensors(half: bool, state: State, tmp_path: Path):
    if half:
        state = {name: tensor.half() for name, tensor in state.items()}
    save_file(state, tmp_path / "model.safetensors")
    for model in (
        from_upstream(str(tmp_path / "model.safetensors")),
        load_base(Model(encoder="edsr-tiny", base=str(tmp_path))),  # a folder, as `save` writes it
        load_base(Model(encoder="edsr-tiny", base=str(tmp_path / "model.safetensors"))),
    ):
        assert all(torch.equal(tensor, state[name].float()) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("encoder", ["edsr-tiny", "edsr-small", "edsr-baseline"])
def test_the_encoder_is_deduced(encoder: str):
    original = network(encoder)
    model = from_upstream(original.state_dict())
    x = torch.rand(1, 3, 5, 5)
    assert torch.equal(model.encoder(x), original.encoder(x))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("method", METHODS)
def test_method_and_encoder_are_deduced_of_any_network(method: str, encoder: str):
    """Without taking the memory of the large ones."""
    with torch.device("meta"):
        state = make_network(method, encoder).state_dict()
    assert weights._deduced_method(state, "") == method
    assert deduced_encoder(state, "") == encoder


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_read(method: str):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        original = make_network(method, "edsr-tiny")
    name = method.replace("-", "")
    for saved in (original.state_dict(), published(original.state_dict(), name)):
        for spelled in (None, name.upper()):
            model = from_upstream(saved, method=spelled)
            assert type(model) is type(original)
            x = torch.rand(1, 3, 5, 5)
            assert torch.equal(model.render(x, (9, 9)), original.eval().render(x, (9, 9)))
    with pytest.raises(ValueError, match=f"holds weights of {method}, not of"):
        from_upstream(original.state_dict(), method="lte" if method == "lm-lte" else "lm-lte")


def test_settings_are_those_of_the_checkpoint():
    original = LMLTE(make_encoder("edsr-tiny"), local_ensemble=False, mod_input=False, imnet_depth=3)
    checkpoint = published(original.state_dict())
    checkpoint["model"]["args"] |= {"local_ensemble": False, "cell_decode": True}
    model = from_upstream(checkpoint)
    assert isinstance(model, LMLTE)
    assert (model.local_ensemble, model.cell_decode, model.mod_input) == (False, True, False)
    ciao = LMCiaoSR(make_encoder("edsr-tiny"), non_local_attn=False)
    assert not from_upstream(ciao.state_dict()).non_local_attn  # pyright: ignore[reportAttributeAccessIssue]
    deep = LMLIIF(make_encoder("edsr-tiny"), imnet_depth=8)  # as published with SwinIR
    assert from_upstream(deep.state_dict()).imnet.hidden_depth == 8  # pyright: ignore[reportAttributeAccessIssue]


def refused(says: str, *args: Any, **settings: Any) -> None:
    with pytest.raises(ValueError, match=says) as refusal:
        from_upstream(*args, **settings)
    assert "\n" not in str(refusal.value)


def test_tensors_that_do_not_fit(state: State):
    refused("lacks 'coef.bias' and 1 more", {n: t for n, t in state.items() if n not in ("coef.bias", "freq.bias")})
    refused("'coef.bais' is not part of this network .did you mean 'coef.bias'", state | {"coef.bais": torch.ones(1)})
    refused(r"coef.bias has shape \(3,\), not \(128,\)", state | {"coef.bias": torch.ones(3)})
    refused("holds no network that is read here: lm-lte, ", {"weight": torch.ones(1)})
    headless = {n: t for n, t in state.items() if not n.startswith("encoder.body")}
    refused("has no encoder of EDSR, RDN or SwinIR; give the setting encoder", headless)
    refused("no known encoder is an EDSR of 2 bl.* 7 ch", state | {"encoder.head.0.weight": torch.ones(7, 3, 3, 3)})
    refused("its encoder is 'edsr-tiny', not 'edsr-small'; leave the encoder out", state, encoder="edsr-small")
    refused(r"model\.encoder: 'edsr-tny' is not known", state, encoder="edsr-tny")
    refused("method: 'lif' is not known .did you mean 'liif'", state, method="lif")
    refused("holds weights of lm-lte, not of liif; leave the method out, or say lm-lte", state, method="liif")


@pytest.mark.parametrize(
    "wrong",
    [{}, {"a": 1}, {"model": {"name": "lmlte"}}, {"model": {"sd": [1]}}, {1: torch.ones(1)}, {"model": 3}],
    ids=str,
)
def test_what_is_no_state_dict(wrong: dict[Any, Any], tmp_path: Path):
    refused("holds no state dict of tensors", wrong)
    torch.save(wrong, tmp_path / "a.pth")
    refused(r"a\.pth holds no state dict of tensors", tmp_path / "a.pth")


def test_other_networks_and_other_files(state: State, tmp_path: Path):
    refused("kind 'metasr'; lm-lte, .* are what is read here", published(state, "metasr"))
    torch.save([1, 2], tmp_path / "list.pth")
    refused("holds a list, not a mapping", tmp_path / "list.pth")
    torch.save(state, tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    save_file(state, tmp_path / "whole.safetensors")
    tensors = (tmp_path / "whole.safetensors").read_bytes()
    for name, content in {
        "cut.pth": data[: len(data) // 2],
        "text.pth": b"hello, I am no weights",
        "empty.pth": b"",
        "cut.safetensors": tensors[: len(tensors) // 2],
        "empty.safetensors": b"",
        "huge.safetensors": b"\xff" * 8 + tensors[8:],  # claims a header of 2^64 bytes
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(name, tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        from_upstream(tmp_path / "nowhere.pth")


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["model", "beside", "whole network", "plain pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_code_in_a_file_is_refused_unrun(place: str, suffix: str, state: State, tmp_path: Path):
    mark, file = tmp_path / "it ran", tmp_path / f"weights{suffix}"
    if place == "model":
        torch.save({"model": Bomb(mark)}, file)
    elif place == "beside":
        torch.save(published(state) | {"notes": Bomb(mark)}, file)
    elif place == "whole network":
        torch.save(network(), file)
    else:
        file.write_bytes(pickle.dumps({"model": Bomb(mark)}))
    refused("intact safetensors" if suffix == ".safetensors" else "refused unrun", file)
    assert not mark.exists()
    if place in ("model", "beside") and suffix == ".pth":  # it would have run
        torch.load(file, weights_only=False)
        assert mark.exists()


def test_bases_by_setting(state: State, tmp_path: Path):
    untrained = load_base(Model(encoder="edsr-tiny", base="none"))
    assert not untrained.imnet.layers[-1].weight.any()
    with pytest.raises(ValueError, match=r"model\.base: the shipped weights are for 'edsr-\w+', not 'edsr-tiny'"):
        load_base(Model(encoder="edsr-tiny"))
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        load_base(Model(encoder="edsr-tiny", base=str(tmp_path)))
    torch.save(published(state), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth"):
        load_base(Model(encoder="edsr-small", base=str(tmp_path / "a.pth")))
