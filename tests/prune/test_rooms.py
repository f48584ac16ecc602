"""Rooms whose networks can be pruned keep, load, adapt and export what is left; `lorgnette prune` does it all."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.pictures import TINY, picture
from tests.prune.shaken import shaken
from torch import Tensor

from lorgnette.checkpoint import load, load_recipe, save
from lorgnette.cli import main
from lorgnette.prune import costs, prune_model, prune_task
from lorgnette.recipe import build
from lorgnette.systems import ROOMS, room
from lorgnette.systems.superres import from_upstream
from lorgnette.systems.superres.model import make_network

pytest.importorskip("torch_pruning", reason="pip install 'lorgnette[prune]'")

PRUNED = [name for name in ROOMS if room(name).ABOUT.prunes]


@pytest.mark.parametrize("name", PRUNED)
def test_pruned_kept_and_loaded(name: str, tmp_path: Path):
    recipe: Any
    recipe, batches, test = room(name).tiny()
    recipe = replace(recipe, lora=None)
    task = shaken(build(recipe))
    whole = copy.deepcopy(task)
    cut = prune_task(task, batches[:2])
    assert sum(before - after for before, after in cut.widths.values()) > 0
    found = costs({"whole": whole, "pruned": task}, batches[0], test[0])
    assert found["pruned"].flops < found["whole"].flops
    assert found["pruned"].bytes < found["whole"].bytes
    assert min(each.seconds for each in found.values()) > 0
    pruned = replace(recipe, model=replace(recipe.model, pruned=True))
    folder = save(task, pruned, tmp_path / "kept")
    again = load(folder)
    assert torch.equal(again.predict(test[0]), task.predict(test[0]))
    state = again.model.state_dict()
    assert sum(x.numel() * x.element_size() for x in state.values()) == found["pruned"].bytes
    adapted = build(replace(pruned, model=replace(pruned.model, base=str(folder)), lora=room(name).tiny()[0].lora))
    assert torch.equal(adapted.predict(test[0]), task.predict(test[0]))
    with pytest.raises(ValueError, match=r"has shape|no known encoder") as refusal:
        build(replace(recipe, model=replace(recipe.model, base=str(folder))))
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match=r"^model\.pruned: 'none' is not pruned"):
        build(pruned)


@pytest.mark.parametrize("method", ["lm-liif", pytest.param("lm-ciaosr", marks=pytest.mark.slow), "lte", "liif"])
def test_every_method_loses_channels_and_is_read_again(method: str):
    torch.manual_seed(0)
    network = make_network(method, "edsr-tiny").eval()
    before = sum(parameter.numel() for parameter in network.parameters())
    assert prune_model(network) is network
    assert sum(parameter.numel() for parameter in network.parameters()) < 0.8 * before
    again = from_upstream(network.state_dict(), method, "edsr-tiny", pruned=True)
    assert torch.equal(again(*again.example_inputs()), network(*network.example_inputs()))
    assert again.encoder.body[0].body[0].out_channels == 12


def test_layers_that_do_not_fit_each_other_are_refused():
    network = make_network("lm-lte", "edsr-tiny")
    state: dict[str, Tensor] = dict(network.state_dict())
    state["encoder.body.0.body.0.weight"] = state["encoder.body.0.body.0.weight"][:12]
    state["encoder.body.0.body.0.bias"] = state["encoder.body.0.body.0.bias"][:12]
    with pytest.raises(ValueError, match=r"^the state dict: its layers do not fit each other \(") as refusal:
        from_upstream(state, "lm-lte", "edsr-tiny", pruned=True)
    assert "\n" not in str(refusal.value)
    wide = dict(network.state_dict()) | {"imnet.layers.0.weight": torch.zeros(17, 16)}
    with pytest.raises(ValueError, match=r"imnet\.layers\.0\.weight has shape \(17, 16\), not \(16, 16\)"):
        from_upstream(wide, "lm-lte", "edsr-tiny", pruned=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        picture(64, number).save(folder / f"{number}.png")
    return folder


def prune(*words: object) -> int:
    tiny = [word for word in TINY if word not in ("--lora.modules_to_save", "imnet")]
    return main(["prune", *map(str, words), *tiny])


def test_the_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, figures = tmp_path / "run", tmp_path / "figures.json"
    words = ["superres", "--data.root", photos, "--out", run, "--json", figures, "--train.steps", 3]
    assert prune(*words, "--ratio", 0.5) == 0
    printed = capsys.readouterr().out
    assert re.match(r"Looking at \d+ batches for the channels.*\n168 of 336 channels taken out of 4 groups", printed)
    assert "as wide as before: encoder.sub_mean" in printed
    assert f"kept     {run}/adapter" in printed
    found = json.loads(figures.read_text())
    assert found["cut"]["widths"]["encoder.head.0"] == [16, 8]
    assert list(found["scores"]) == ["whole", "pruned", "recovered"]
    assert found["costs"]["pruned"]["bytes"] < 0.7 * found["costs"]["whole"]["bytes"]
    assert load_recipe(run / "adapter").model.pruned
    assert load(run).model.encoder.out_dim == 8
    assert (run / "metrics.jsonl").is_file()
    small, large = photos / "0.png", tmp_path / "large.png"
    assert main(["enhance", "--adapter", str(run), str(small), str(large)]) == 0
    assert large.is_file()
    capsys.readouterr()
    assert prune(*words) == 2
    assert "is not empty: give a new folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("how", ["lora", "none"])
def test_what_learns_again(how: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    words = ["superres", "--data.root", photos, "--data.holdout", 0, "--out", run, "--train.steps", 2]
    assert prune(*words, "--recover", how) == 0
    assert "Nothing was held out: no proof of what was lost." in capsys.readouterr().out
    assert (run / "metrics.jsonl").is_file() == (how == "lora")
    assert not any("lora" in name for name in load(run).model.state_dict())
    again = [*words[:5], "--out", tmp_path / "more", "--train.steps", 1, "--adapter", run, "--ratio", 0.5]
    assert main(["prune", *map(str, again), "--train.device", "cpu", "--train.batch_size", "2"]) == 0
    assert load(tmp_path / "more").model.encoder.out_dim == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["clip"], "networks of the room clip cannot be pruned; those of superres, restore can"),
        (["superres", "--ratio", "1"], "--ratio: '1' does not work; a number from 0.01 to 0.95 does"),
        (["superres", "--lora", "null", "--recover", "lora"], "--recover: 'lora' needs the settings lora"),
        (["superres", "--adapter", "nothing"], "no such folder: nothing"),
        (["superres"], "data.root: not set"),
    ],
)
def test_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["prune", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
