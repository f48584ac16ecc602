"""A sixth room is one folder and one line of the table: nothing else of the house knows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.systems import sixth
from tests.systems.sixth.recipe import Data, Recipe

from lorgnette.checkpoint import load, load_recipe, save
from lorgnette.cli import main
from lorgnette.federate.run import federate
from lorgnette.federate.settings import FederateConfig
from lorgnette.lora import is_adapted
from lorgnette.recipe import build
from lorgnette.systems import ROOMS, room, room_name
from lorgnette.systems.protocol import Room, undeclared, without_own
from lorgnette.train.loop import evaluate, fit

CONTRACT: Room[Recipe, Data] = sixth  # for the type checker
FOLDER = Path(__file__).parent / "sixth"


@pytest.fixture(autouse=True)
def one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ROOMS, "sixth", "tests.systems.sixth")


@pytest.fixture
def table(tmp_path: Path) -> str:
    x = np.random.default_rng(1).normal(size=(80, 4))
    np.save(tmp_path / "table.npy", np.concatenate([x, x.sum(1, keepdims=True) / 2], 1))
    return str(tmp_path / "table.npy")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_it_is_small():
    lines = [line for file in FOLDER.glob("*.py") for line in file.read_text().splitlines() if line.strip()]
    assert len(lines) <= 120


def test_trained_kept_and_loaded_from_python(tmp_path: Path):
    recipe, batches, test = room("sixth").tiny()
    assert room_name(recipe) == "sixth"
    task = build(recipe)
    before = evaluate(task, test)
    end = fit(task, batches, recipe.train, test=test)
    assert end.best["error"] < before["error"] / 2
    folder = save(task, recipe, tmp_path / "kept")
    again = load(folder)
    assert is_adapted(again)
    assert evaluate(again, test) == end.best
    assert load_recipe(folder) == recipe


def test_from_the_command_line(table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    words = ["--data.root", table, "--train.steps", "40", "--train.lr", "0.02", "--out", str(run)]
    assert main(["train", "sixth", *words, "--json", str(tmp_path / "train.json")]) == 0
    trained = json.loads((tmp_path / "train.json").read_text())
    assert trained["improved"]
    assert (run / "report.html").exists()
    assert main(["info", str(run / "adapter")]) == 0
    assert "sixth" in capsys.readouterr().out
    assert main(["eval", str(run / "adapter"), "--data", table, "--json", str(tmp_path / "eval.json")]) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["rows"]["adapted"]["error"] > 0
    assert main(["merge", str(run / "adapter"), str(tmp_path / "merged")]) == 0
    assert main(["train", "sixth", "--help"]) == 0
    assert "--data.holdout" in capsys.readouterr().out


def test_federated(table: str, tmp_path: Path):
    recipe, batches, test = room("sixth").tiny()
    recipe = replace(recipe, train=replace(recipe.train, steps=None))
    config = FederateConfig(clients=2, rounds=2, local_steps=5)
    outcome, server = federate(recipe, config, tmp_path / "here", (batches, test))
    assert outcome.reason == "done"
    assert evaluate(load(server.folder.adapter), test) == pytest.approx(server.evaluate(outcome.best), rel=1e-6)
    words = ["--data.root", table, "--clients", "2", "--rounds", "1", "--local-steps", "3"]
    assert main(["federate", "sixth", *words, "--out", str(tmp_path / "there")]) == 0
    assert (tmp_path / "there" / "adapter" / "recipe.yaml").exists()


def test_what_is_wrong_is_named(table: str, capsys: pytest.CaptureFixture[str]):
    assert "data.holdout: 2.0 is outside" in refused(capsys, "train", "sixth", "--data.holdout", "2")
    assert "did you mean" in refused(capsys, "train", "sixth", "--data.holdut", "0")
    assert "data.root: not set" in refused(capsys, "train", "sixth")
    assert "means nothing in the room sixth" in refused(
        capsys, "eval", "--room", "sixth", "--data", table, "--scales", "2"
    )
    assert "--room: invalid choice" in refused(capsys, "enhance", table, "out.png", "--room", "sixth")
    assert "knows no option files" in refused(capsys, "train", "sixth", "--opt", table)


def test_a_path_that_is_not_declared_is_not_sent(monkeypatch: pytest.MonkeyPatch):
    assert without_own(Data(root="here", test="there", holdout=0.5)) == Data(holdout=0.5)
    monkeypatch.setattr(Data, "OWN", ("root",))  # as if it had been forgotten
    assert undeclared(Data) == ["test"]
    with pytest.raises(ValueError, match="would be sent"):
        without_own(Data(root="here", test="there"))
