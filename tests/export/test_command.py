"""`lorgnette export` and `lorgnette info` of what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.systems.sixth.recipe import Recipe

from lorgnette.checkpoint import save
from lorgnette.cli import main
from lorgnette.cli.export import CALIBRATED, _scoring
from lorgnette.cli.info import _settings
from lorgnette.recipe import build
from lorgnette.systems import ROOMS, room, superres
from lorgnette.train.loop import fit


@pytest.fixture(autouse=True)
def one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROOMS, "sixth", "tests.systems.sixth")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    recipe, batches, _ = room("sixth").tiny()
    assert isinstance(recipe, Recipe)
    task = build(recipe)
    fit(task, batches, recipe.train)
    return save(task, recipe, tmp_path / "kept")


def test_written_scored_and_told(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    x = np.random.default_rng(1).normal(size=(80, 4))
    np.save(tmp_path / "table.npy", np.concatenate([x, x.sum(1, keepdims=True) / 2], 1))
    out, figures = tmp_path / "lines.onnx", tmp_path / "figures.json"
    words = ["export", str(kept), str(out)]
    assert main([*words, "--test", str(tmp_path / "table.npy"), "--json", str(figures)]) == 0
    printed = capsys.readouterr().out
    assert f"wrote     {out}" in printed
    found = json.loads(figures.read_text())
    assert found["bytes"] == out.stat().st_size
    assert found["difference"] == max(found["differences"].values()) <= 1e-6
    assert found["scores"]["network"]["error"] == pytest.approx(found["scores"]["exported"]["error"], rel=1e-4)
    assert found["scores"]["network"]["error"] < 0.5
    assert main(["info", str(out), "--json", str(figures)]) == 0
    told = json.loads(figures.read_text())
    assert told["room"] == "sixth"
    assert told["inputs"] == {"points": "axis 0 n"}
    assert "weights       " + told["weights"] in capsys.readouterr().out
    assert main(words) == 2
    assert "is there already: --overwrite replaces it" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert "not measured: --test FOLDER measures them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing", "a.onnx"], "no such folder: nothing"),
        (["KEPT", "a.onnx", "--room", "clip"], "is of another room than clip; leave --room out"),
        (["KEPT", "a.txt"], "its suffix says no format"),
        (["KEPT", "a.pt2", "--format", "onnx"], "a onnx file ends in .onnx"),
    ],
)
def test_refused(
    words: list[str], said: str, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["export", *[str(kept) if word == "KEPT" else word for word in words]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]


@pytest.mark.parametrize(("own", "side"), [(256, 96), (0, 96), (64, 64)])
def test_calibration_looks_at_the_middle_of_photographs(own: int, side: int, monkeypatch: pytest.MonkeyPatch):
    """Whole ones would take hours, and `test_crop` 0 means whole; scores are of what the recipe says."""
    asked: list[int] = []
    recipe = superres.Recipe(data=superres.Data(test_crop=own))
    monkeypatch.setattr(superres, "evaluation", lambda tasks, folder, crop, progress: asked.append(crop))
    _scoring("photos", recipe, CALIBRATED)({})
    _scoring("photos", recipe)({})
    assert asked == [side, own]


def test_an_empty_setting_is_told():
    assert _settings({"upsampler": "", "upscale": 0}) == "upsampler none, upscale 0"
