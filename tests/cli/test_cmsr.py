"""`lorgnette cmsr` makes tables; `lorgnette enhance --cmsr` renders by them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lorgnette.cli import main


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def lens(adapter: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with tables beside it, at x4."""
    folder = tmp_path_factory.mktemp("tables") / "lens"
    shutil.copytree(adapter, folder)
    figures = folder.parent / "figures.json"
    words = ("--scales", 4, "--pictures", 2, "--device", "cpu", "--json", figures)
    assert run("cmsr", photos, "--adapter", folder, *words) == 0
    found = json.loads(figures.read_text())
    assert found["pictures"] == 2
    assert all(table["scale"] == 4 and table["loss"] <= 0.2 and 0 < table["queries"] < 1.3 for table in found["tables"])
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(PIL.Image.open(path)).astype(int)


def test_the_tables_beside_the_weights_are_used(lens: Path, photos: Path, tmp_path: Path, capsys):
    words = ("enhance", photos / "a.png", "--adapter", lens, "--scale", 3.7, "--device", "cpu")
    assert run(*words[:2], tmp_path / "exact.png", *words[2:]) == 0
    assert "cmsr" not in capsys.readouterr().out
    assert run(*words[:2], tmp_path / "less.png", *words[2:], "--cmsr", "--max-loss", 1000) == 0
    said = capsys.readouterr().out
    assert "cmsr: " in said
    assert " of the points rendered" in said
    assert "exactly" not in said
    assert 0 < np.abs(pixels(tmp_path / "exact.png") - pixels(tmp_path / "less.png")).max() < 60
    words = (*words[:2], tmp_path / "other.png", *words[2:4], "--scale", 1.9, "--device", "cpu")
    assert run(*words, "--cmsr", lens / "cmsr.yaml") == 0
    assert "exactly where no table for x1.9" in capsys.readouterr().out


def test_a_folder_is_summed_up(lens: Path, photos: Path, tmp_path: Path, capsys):
    words = (
        "enhance",
        photos,
        tmp_path / "out",
        "--adapter",
        lens,
        "--scale",
        4,
        "--device",
        "cpu",
        "--max-loss",
        1000,
    )
    assert run(*words, "--cmsr") == 0
    assert capsys.readouterr().out.count("cmsr: ") == 1
    assert run(*words, "--cmsr") == 0  # nothing is left to do
    assert "cmsr: 0% of the points rendered" in capsys.readouterr().out


def test_tables_of_other_weights_are_said(lens: Path, photos: Path, tmp_path: Path, lenses: dict[str, Path], capsys):
    words = ("--adapter", lenses["superres"], "--scale", 4, "--device", "cpu", "--cmsr", lens)
    assert run("enhance", photos / "a.png", tmp_path / "out.png", *words) == 0
    assert "100% of the points rendered; exactly where the tables are for other weights" in capsys.readouterr().out


def test_what_is_refused(lens: Path, adapter: Path, photos: Path, tmp_path: Path, lenses: dict[str, Path], refused):
    out = tmp_path / "out.png"
    assert "there already: --overwrite" in refused("cmsr", photos, "--adapter", lens)
    assert "--out: say where the tables of the weights that ship go" in refused("cmsr", photos)
    assert "the room restore has no 'cmsr'; superres has" in refused("cmsr", photos, "--adapter", lenses["restore"])
    assert "scales: 2 does not work" in refused("cmsr", photos, "--adapter", adapter, "--scales", 2)
    assert not (adapter / "cmsr.yaml").exists()
    assert "--max-loss: is for --cmsr" in refused("enhance", photos / "a.png", out, "--max-loss", 0.1)
    assert "max-loss: -1 does not" in refused(
        "enhance", photos / "a.png", out, "--adapter", lens, "--cmsr", "--max-loss", -1
    )
    assert "no such file" in refused("enhance", photos / "a.png", out, "--adapter", adapter, "--cmsr")
    words = ("enhance", photos / "a.png", out, "--adapter", lenses["restore"], "--cmsr", lens)
    assert "the room restore has no 'cmsr'; superres has" in refused(*words)
    assert not out.exists()
