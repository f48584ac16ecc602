"""`lorgnette mesh`: files, folders, what is there already, wrong words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nibabel", reason="needs the extra 'mesh'")

from tests.systems.mesh.shapes import ball
from tests.systems.mesh.test_volumes import save

from lorgnette.cli import main


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """Two balls that touch, of labels 1 and 2, with voxels of 2 x 2 x 3 mm."""
    values = ball(6, (8, 8, 8), 20).astype(np.uint8)
    values[ball(5, (13, 9, 8), 20) & (values == 0)] = 2
    return save(tmp_path / "seg.nii.gz", values)


def mesh(*words: object) -> int:
    return main(["mesh", *map(str, words)])


def test_a_folder_has_a_file_for_each_organ(mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = tmp_path / "names.txt"
    names.write_text("1 left lobe\n2 right/lobe\n")
    assert mesh(mask, "-o", tmp_path / "out", "--names", names, "--json", tmp_path / "facts.json") == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.stl")) == ["left lobe.stl", "right_lobe.stl"]
    facts = json.loads((tmp_path / "facts.json").read_text())["organs"]
    for one in facts:
        assert one["closed"]
        assert one["crossings"] == 0
        assert one["volume ml"] == pytest.approx(one["mask ml"], rel=1e-4)
        assert 0 < one["from mask mm"] < one["from mask mm at most"] < 3
    said = capsys.readouterr().out
    assert "left lobe" in said
    assert "2 organs in" in said


def test_every_organ_has_its_file_whatever_it_is_called(tmp_path: Path):
    values, names = np.zeros((40, 8, 8), np.uint8), tmp_path / "names.json"
    words = ["a/b", "a_b", "", "...", "x" * 300, "../x\nelement vertex 9", "\u80dd" * 100]
    for number in range(1, len(words) + 1):
        values[5 * number : 5 * number + 3, 2:5, 2:6] = number
    names.write_text(json.dumps(dict(enumerate(words, start=1))))
    seg = save(tmp_path / "seg.nii.gz", values)
    assert mesh(seg, "-o", tmp_path / "out", "--names", names, "--format", "ply", "--report", tmp_path / "pages") == 0
    trimesh = pytest.importorskip("trimesh")
    files = sorted((tmp_path / "out").glob("*.ply"))
    assert [trimesh.load(file).is_watertight for file in files] == [True] * len(words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["names.json", "out", "pages", "seg.nii.gz"]


@pytest.mark.parametrize("suffix", ["stl", "ply", "obj", "glb", "vtp"])
def test_a_file_has_all_organs(suffix: str, mask: Path, tmp_path: Path):
    assert mesh(mask, "-o", tmp_path / f"all.{suffix}") == 0
    assert (tmp_path / f"all.{suffix}").stat().st_size > 10000


def test_a_scene_has_shared_walls_unless_asked_otherwise(mask: Path, tmp_path: Path):
    facts = {}
    for name, words in {"scene": (), "own": ("--walls", "own")}.items():
        assert mesh(mask, "-o", tmp_path / f"{name}.ply", "--json", tmp_path / "f.json", *words) == 0
        facts[name] = json.loads((tmp_path / "f.json").read_text())["organs"]
    assert mesh(mask, "-o", tmp_path / "folder", "--json", tmp_path / "f.json") == 0
    folder = json.loads((tmp_path / "f.json").read_text())["organs"]
    assert [one["angle deg"] for one in folder] == [one["angle deg"] for one in facts["own"]]
    assert [one["angle deg"] for one in facts["scene"]] != [one["angle deg"] for one in facts["own"]]


def test_what_is_there_stays(mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert mesh(mask, "-o", out) == 0
    first = (out / "label_1.stl").read_bytes()
    assert mesh(mask, "-o", out) == 0
    assert "0 organs in" in (said := capsys.readouterr().out)
    assert "2 there already" in said
    (out / "label_1.stl").write_bytes(b"mine")
    (out / "label_2.stl").unlink()
    assert mesh(mask, "-o", out) == 2
    assert "label_1.stl was changed since it was made: --overwrite replaces it" in capsys.readouterr().err
    assert (out / "label_1.stl").read_bytes() == b"mine"
    assert (out / "label_2.stl").exists()
    assert mesh(mask, "-o", out, "--largest") == 2
    assert "label_2.stl was made with another largest" in capsys.readouterr().err
    assert mesh(mask, "-o", out, "--overwrite") == 0
    assert (out / "label_1.stl").read_bytes() == first


def test_pages_of_the_organs(mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert mesh(mask, "-o", out) == 0
    report, view = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "view.html"))
    assert report.count("<figure>") == 3  # each, and all together
    assert "label_1" in report
    assert "http" not in view.replace("http-equiv", "")
    assert "connect" not in view
    (out / "label_1.stl").unlink()
    (out / "report.html").write_text("mine")
    assert mesh(mask, "-o", out) == 2
    assert "report.html was changed since it was made" in capsys.readouterr().err
    assert (out / "report.html").read_text() == "mine"
    assert mesh(mask, "-o", tmp_path / "a.ply", "--report", tmp_path / "pages") == 0
    assert (tmp_path / "pages" / "view.html").exists()
    assert mesh(mask, "-o", tmp_path / "b.ply", "--report", tmp_path / "pages") == 2
    assert not (tmp_path / "b.ply").exists()


def test_a_file_that_is_there_stays(mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.ply").write_bytes(b"mine")
    assert mesh(mask, "-o", tmp_path / "a.ply") == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert mesh(mask, "-o", tmp_path / "a.ply", "--overwrite") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seg.nii.gz", "-o", "a.step"], ".step is no format of meshes"),
        (["seg.nii.gz", "-o", "a.stl", "--format", "ply"], "--format is for a folder OUT"),
        (["seg.nii.gz", "-o", "out", "--only", "3"], "there is no '3'"),
        (["nothing.nii.gz", "-o", "a.stl"], "no such file or folder"),
        (["seg.nii.gz"], "-o/--out"),
        (["seg.nii.gz", "-o", "seg.nii.gz"], ".gz is no format of meshes"),
    ],
)
def test_wrong_words(
    words: list[str], message: str, mask: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(mask.parent)
    assert mesh(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture
def slices(tmp_path: Path) -> tuple[Path, Path, float]:
    """(a file with two slices of a bright ball, the scan, the ball's volume in ml)."""
    whole = ball(16, (20, 20, 24), 20, (2, 2, 3))
    some = np.zeros(whole.shape, np.uint8)
    some[..., [6, 10]] = whole[..., [6, 10]]
    scan = save(tmp_path / "ct.nii.gz", np.where(whole, 150, -50).astype(np.int16))
    return save(tmp_path / "slices.nii.gz", some), scan, whole.sum() * 12 / 1000


@pytest.mark.parametrize("by", ["network", "interpolate", "extrude"])
def test_slices_become_a_whole_organ(
    by: str, slices: tuple[Path, Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    some, scan, volume = slices
    words = [some, "--complete", scan, *(["--by", by] if by != "network" else [])]
    assert mesh(*words, "-o", tmp_path / "out", "--json", tmp_path / "facts.json") == 0
    assert f"guessed from 2 of 20 axial slices, by {by}" in capsys.readouterr().err
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["organs"][0]["closed"]
    assert facts["organs"][0]["volume ml"] == pytest.approx(volume, rel=0.3)
    assert any("guessed from" in note for note in facts["notes"])
    other = "extrude" if by != "extrude" else "interpolate"
    assert mesh(some, "--complete", scan, "--by", other, "-o", tmp_path / "out") == 2
    assert "made with another by" in capsys.readouterr().err


def test_wrong_words_about_slices(slices: tuple[Path, Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    some, _, _ = slices
    assert mesh(some, "-o", tmp_path / "a.stl", "--by", "extrude") == 2
    assert "--by: says how --complete guesses, which is not given" in capsys.readouterr().err
    other = save(tmp_path / "other.nii.gz", np.zeros((20, 20, 19), np.int16))
    assert mesh(some, "-o", tmp_path / "a.stl", "--complete", other) == 2
    assert "--complete: the scan has (20, 20, 19) voxels on another grid than the slices'" in capsys.readouterr().err
