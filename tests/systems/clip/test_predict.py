"""Saying what is on a picture, from Python and from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
