"""Saying what is on a picture, from Python and from the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import weakref
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lorgnette import build, fit, load, save
from lorgnette.cli import main
from lorgnette.images.file import Image, read_image
from lorgnette.systems import clip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature as `save` keeps it."""
    recipe, batches, test = clip.tiny()
    task = build(recipe)
    fit(task, batches, recipe.train, test=test)
    return save(task, recipe, tmp_path_factory.mktemp("lens"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of classes: 12 pictures that the miniature has not seen."""
    folder = tmp_path_factory.mktemp("pictures")
    _, _, (test,) = clip.tiny()
    for number, (image, label) in enumerate(zip(test["image"][:12], test["label"], strict=False)):
        home = folder / ("zero", "one", "two")[int(label)]
        home.mkdir(exist_ok=True)
        pixels = (image.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
        PIL.Image.fromarray(pixels).save(home / f"{number}.png")
    return folder


def test_answers_are_the_likeliest_first(trained: Path, pictures: Path):
    task = load(trained)
    images = [read_image(file) for file in sorted(pictures.rglob("*.png"))]
    answers = clip.classify(task, [*images, Image(np.random.default_rng(0).random((50, 31, 3)))], top=5)
    assert len(answers) == 13
    for labels in answers:
        shares = [label.probability for label in labels]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert {label.name for label in labels} == {"zero", "one", "two"}
    with pytest.raises(ValueError, match="top: 0"):
        clip.classify(task, images, top=0)


def test_the_command_agrees_with_python_and_eval(trained: Path, pictures: Path, tmp_path: Path, capsys):
    file = tmp_path / "found.json"
    words = ["classify", str(pictures), "--adapter", str(trained), "--top", "2", "--device", "cpu"]
    assert main([*words, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())["pictures"]
    assert len(found) == 12
    assert all(len(labels) == 2 for labels in found.values())
    right = sum(labels[0]["name"] == Path(name).parent.name for name, labels in found.items())
    assert found[str(pictures / "one" / "1.png")][0]["name"] in printed
    scores = tmp_path / "scores.json"
    words = ["eval", str(trained), "--data", str(pictures), "--device", "cpu", "--json", str(scores)]
    assert main(words) == 0
    row = json.loads(scores.read_text())["rows"]["adapted"]
    assert row["accuracy"] == pytest.approx(right / 12)
    assert {"accuracy zero", "accuracy one", "accuracy two", "nll", "ece", "balanced_accuracy"} <= row.keys()


def test_one_broken_picture_costs_the_others_nothing(trained: Path, pictures: Path, tmp_path: Path, capsys):
    """Cut off, empty, no picture at all, far too large: named, and the exit status says that something was left."""
    folder = tmp_path / "in"
    shutil.copytree(pictures / "one", folder)
    good = sorted(map(str, folder.iterdir()))
    content = Path(good[0]).read_bytes()
    header = b"IHDR" + (10**5).to_bytes(4, "big") * 2 + content[24:29]
    broken = {"a_cut.png": content[:90], "b_empty.png": b"", "y_text.jpg": b"hello" * 9,
              "z_huge.png": content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]}  # fmt: skip
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    file = tmp_path / "found.json"
    words = ["classify", str(folder), "--adapter", str(trained), "--device", "cpu", "--json", str(file)]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert all(name in err for name in broken)
    assert "100000 x 100000" in err
    assert err.splitlines()[-1] == f"lorgnette: error: 4 of {4 + len(good)} images could not be read (listed above)"
    found = json.loads(file.read_text())
    assert sorted(found["pictures"]) == good
    assert sorted(found["left_out"]) == [str(folder / name) for name in broken]
    alone = json.loads(_classified(trained, pictures / "one", tmp_path).read_text())["pictures"]
    assert list(found["pictures"].values()) == list(alone.values())  # each answer stands at its own picture
    assert all(name in out for name in good)
    for name in good:
        Path(name).unlink()
    capsys.readouterr()
    assert main(words) == 2
    assert capsys.readouterr().out == ""


def _classified(trained: Path, folder: Path, tmp_path: Path) -> Path:
    file = tmp_path / "alone.json"
    assert main(["classify", str(folder), "--adapter", str(trained), "--device", "cpu", "--json", str(file)]) == 0
    return file


def test_pictures_are_held_one_at_a_time(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    held: list[weakref.ref[Image]] = []
    most = 0

    def reading(file: Path) -> Image:
        nonlocal most
        most = max(most, sum(one() is not None for one in held))
        held.append(weakref.ref(image := Image(np.zeros((40, 50, 3), np.float32))))
        return image

    monkeypatch.setattr("lorgnette.images.file.read_image", reading)
    for number in range(70):
        (tmp_path / f"{number}.png").touch()
    assert main(["classify", str(tmp_path), "--adapter", str(trained), "--device", "cpu"]) == 0
    assert len(held) == 70
    assert most <= 1


def test_what_makes_no_sense_is_refused_in_one_line(trained: Path, pictures: Path, capsys):
    for words, said in [
        (["classify", pictures], "--classes"),
        (["classify", pictures, "--adapter", trained, "--classes", "a", "b"], "its own classes"),
        (["classify", pictures / "none.png", "--adapter", trained], "none.png"),
        (["eval", trained, "--data", pictures, "--scales", "2"], "--scales: means nothing in the room clip"),
        (["eval", trained, "--data", pictures, "--lr", "x"], "--lr: means nothing in the room clip"),
        (["enhance", pictures, "out", "--adapter", trained], "does not enhance images"),
    ]:
        assert main([str(word) for word in words]) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1
        assert said in error[0]


def test_a_folder_is_learnt_from_and_its_classes_are_kept(pictures: Path, tmp_path: Path, capsys):
    words = ["train", "clip", "--data.root", str(pictures), "--data.image_size", "16", "--train.device", "cpu"]
    words += ["--model.base", "none", "--model.architecture", "tiny", "--train.steps", "2", "--train.batch_size", "4"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert "3 held-out tests" in capsys.readouterr().out
    assert load(tmp_path / "run" / "adapter").classes == ("one", "two", "zero")
    assert list((tmp_path / "run" / "samples").glob("*confusion.png"))
    assert main(["merge", str(tmp_path / "run" / "adapter"), str(tmp_path / "merged")]) == 0
    assert (tmp_path / "merged" / "config.json").is_file()
    assert load(tmp_path / "merged").classes == ("one", "two", "zero")


def test_without_transformers_one_line_says_what_to_install():
    code = "import sys; sys.modules['transformers'] = None; from lorgnette.cli import main; "
    code += "sys.exit(main(['classify', 'x.png', '--classes', 'one', 'two']))"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert done.stderr == ("lorgnette: error: the room clip needs transformers: pip install 'lorgnette[clip]'\n")
