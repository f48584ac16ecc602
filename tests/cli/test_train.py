"""`lorgnette train`: the run folder, resuming, what is said."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
from tests.cli.pictures import TINY

from lorgnette.cli import main
from lorgnette.train import budget, listeners
from lorgnette.train.events import Stepped


def train(*words: object, photos: Path) -> int:
    return main(["train", "superres", "--data.root", str(photos), *TINY, *map(str, words)])


def weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """Ctrl-C while that step is done."""
    usual = listeners.run_listeners

    def interrupting(event: object) -> None:
        if isinstance(event, Stepped) and event.step == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(listeners, "run_listeners", lambda folder: [interrupting, *usual(folder)])


def test_a_run_leaves_everything_behind(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    assert train("--train.steps", 4, "--lora.r", 2, "--out", run, "--json", tmp_path / "a.json", photos=photos) == 0
    for name in ("recipe.yaml", "metrics.jsonl", "report.html", "adapter/recipe.yaml", "checkpoints/last.pt"):
        assert (run / name).is_file()
    said = capsys.readouterr().out
    assert str(run / "adapter") in said
    assert all(word in said for word in ("before", "after", "psnr", "ssim"))
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["step"] == figures["steps"] == 4
    assert figures["before"].keys() == figures["after"].keys() == {"psnr", "ssim", "psnr_x2"}
    assert 0 < figures["trained_parameters"] < figures["all_parameters"]


def test_the_report_says_what_a_reader_asks(photos: Path, tmp_path: Path):
    run = tmp_path / "run"
    assert train("--train.steps", 3, "--lora.r", 2, "--out", run, photos=photos) == 0
    page = (run / "report.html").read_text()
    rows = re.findall(r'<th scope="row">(.*?)</th>', page)
    assert rows[:2] == ["bicubic", "before training"]
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[1])
    assert first["compared"]["bicubic"].keys() == first["metrics"].keys()
    assert first["compared"]["bicubic"]["psnr"] != first["metrics"]["psnr"]
    for said in (
        "Scored on 1 held-out pictures, which nothing was learnt from.",
        "PSNR: peak signal-to-noise ratio in dB",
        f"lorgnette enhance IN OUT --adapter {run / 'adapter'}",
        '<div class="panels"><span>bicubic</span><span>network</span><span>truth</span></div>',
        "grad_norm",
    ):
        assert said in page


def test_info_says_what_an_adapter_learnt(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from lorgnette import load, save
    from lorgnette.checkpoint import load_recipe

    run = tmp_path / "run"
    assert train("--train.steps", 3, "--lora.r", 2, "--out", run, photos=photos) == 0
    notes = json.loads((run / "adapter" / "training.json").read_text())
    assert (notes["samples"], notes["held_out"], notes["steps"]) == (3, 1, 3)
    assert notes["before"].keys() == notes["after"].keys() == {"psnr", "ssim", "psnr_x2"}
    capsys.readouterr()
    assert main(["info", str(run), "--json", str(tmp_path / "facts.json")]) == 0
    said, facts = capsys.readouterr().out, json.loads((tmp_path / "facts.json").read_text())
    assert "learnt from   3 samples" in said
    assert facts["scored on"] == "1 held-out pictures"
    assert f"root {photos}" in facts["data"]
    assert re.fullmatch(r"\d+\.\d+ before, \d+\.\d+ after \([+-]\d+\.\d+\)", facts["gained"]["psnr_x2"])
    assert re.match(r"3 steps, .*; best at step \d", facts["learnt for"])
    assert main(["merge", str(run), str(tmp_path / "merged")]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "merged")]) == 0
    assert "3 steps, " in capsys.readouterr().out
    (run / "adapter" / "training.json").write_text('{"before": 3}')
    assert main(["info", str(run)]) == 2
    save(load(run / "adapter"), load_recipe(run / "adapter"), run / "adapter")  # nobody knows how that was trained
    assert not (run / "adapter" / "training.json").exists()
    assert main(["info", str(run)]) == 0


def test_nothing_but_the_folder_needs_to_be_said(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Steps and patience are chosen, the run names itself, and the recipe keeps what was chosen."""
    from lorgnette.checkpoint import load_recipe
    from lorgnette.systems import superres

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(superres, "default_steps", lambda n_images, recipe: n_images, raising=False)
    assert train(photos=photos) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("superres-20")
    recipe = load_recipe(run)
    assert recipe.train.steps == 3  # four images, one of them held out
    assert recipe.train.patience > 0


def test_the_room_chooses_a_number_of_steps():
    from lorgnette.systems import superres

    few, many = (superres.default_steps(n, superres.Recipe()) for n in (5, 500))
    assert 0 < few <= many


def test_it_says_so_when_it_did_not_help(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert train("--train.steps", 3, "--train.lr", 5, "--out", tmp_path / "run", photos=photos) == 0
    assert "Adaptation did not help" in capsys.readouterr().out


def test_interrupted_and_resumed_equals_unbroken(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    whole, broken = tmp_path / "whole", tmp_path / "broken run"
    settings = ["--train.steps", 5, "--train.lr", 0.01, "--data.holdout", 0]
    assert train(*settings, "--out", whole, photos=photos) == 0
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        assert train(*settings, "--out", broken, photos=photos) == 130
    assert f"lorgnette train superres --resume '{broken}'" in capsys.readouterr().out
    assert weights(broken) != weights(whole)
    assert main(["train", "superres", "--resume", str(broken), "--train.device", "cpu"]) == 0
    assert weights(broken) == weights(whole)


def test_a_second_interruption_stops_at_once_and_says_how_to_go_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    interrupt_at(2, monkeypatch, times=2)
    assert train("--train.steps", 5, "--out", tmp_path / "run", photos=photos) == 130
    assert f"lorgnette train superres --resume {tmp_path / 'run'}" in capsys.readouterr().out


def test_resuming_takes_no_other_settings(photos: Path, tmp_path: Path, refused):
    run = tmp_path / "run"
    assert train("--train.steps", 1, "--out", run, photos=photos) == 0
    for words in (["--train.lr", "0.1"], ["--out", "elsewhere"], ["--config", "a.yaml"], ["--lora", "null"]):
        assert f"{words[0]} cannot change" in refused("train", "superres", "--resume", run, *words)
    assert "--resume" in refused("train", "superres", "--data.root", photos, *TINY, "--train.steps", 1, "--out", run)
    assert "no such folder" in refused("train", "superres", "--resume", tmp_path / "none")
    assert "recipe.yaml" in refused("train", "superres", "--resume", photos)


def test_a_file_of_settings_and_what_overrides_it(photos: Path, tmp_path: Path):
    from lorgnette.checkpoint import load_recipe

    config = tmp_path / "my.yaml"
    config.write_text(f"room: superres\nlora: {{r: 7}}\ntrain: {{steps: 9, lr: 1e-4}}\ndata: {{root: '{photos}'}}\n")
    run = tmp_path / "run"
    assert main(["train", "superres", "--config", str(config), *TINY, "--train.steps", "2", "--out", str(run)]) == 0
    recipe = load_recipe(run)
    assert (recipe.lora.r, recipe.train.steps, recipe.train.lr) == (7, 2, 1e-4)
    again = tmp_path / "again"
    assert main(["train", "superres", "--config", str(run / "recipe.yaml"), "--out", str(again)]) == 0
    assert load_recipe(again) == recipe


def test_without_an_adapter_the_whole_network_is_trained(photos: Path, tmp_path: Path):
    from lorgnette import count_parameters, load

    run, figures = tmp_path / "run", tmp_path / "a.json"
    assert train("--lora", "null", "--train.steps", 2, "--out", run, "--json", figures, photos=photos) == 0
    counted = count_parameters(load(run / "adapter").model)
    said = json.loads(figures.read_text())
    assert counted.lora == 0
    assert said["trained_parameters"] == said["all_parameters"] - 24 == counted.total - 24  # two fixed mean shifts


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lora:\n  rnak: 3\n", "unknown setting lora.rnak (did you mean 'lora.r'?)"),
        ("room: clip\n", "settings of another room than superres"),
        ("lora: [", "is not valid YAML"),
        ("train: {lr: fast}", "train.lr: 'fast' does not work; a number does"),
    ],
)
def test_a_wrong_file_of_settings(text: str, says: str, tmp_path: Path, refused):
    config = tmp_path / "my.yaml"
    config.write_text(text)
    line = refused("train", "superres", "--config", config)
    assert says in line
    assert str(config) in line


def test_wrong_data_and_models_leave_no_run_behind(photos: Path, tmp_path: Path, monkeypatch, refused):
    from lorgnette.systems import superres

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(superres, "default_steps", lambda n_images, recipe: 1, raising=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    start = ["train", "superres", *TINY]
    assert "data.root" in refused(*start)
    assert "no images in" in refused(*start, "--data.root", empty)
    assert "no such folder" in refused(*start, "--data.root", "nowhere")
    assert "to_kqv" in refused(*start, "--data.root", photos, "--lora.target_modules", "to_kqv")
    assert "no such weight file" in refused(*start, "--data.root", photos, "--model.base", "nowhere.pth")
    assert "train.lr" in refused(*start, "--data.root", photos, "--train.lr", "-1")
    assert list(tmp_path.iterdir()) == [empty]


def test_an_output_folder_that_cannot_be_made(photos: Path, tmp_path: Path, refused):
    (tmp_path / "file").write_text("")
    line = refused(
        "train", "superres", "--data.root", photos, *TINY, "--train.steps", 1, "--out", tmp_path / "file/run"
    )
    assert "cannot make the folder" in line


def test_a_base_with_code_in_it_is_refused_unrun(photos: Path, tmp_path: Path, refused):
    import os

    import torch

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    torch.save({"model": Bomb()}, tmp_path / "base.pth")
    line = refused(
        "train",
        "superres",
        "--data.root",
        photos,
        *TINY,
        "--model.base",
        tmp_path / "base.pth",
        "--train.steps",
        1,
    )
    assert "refused unrun" in line
    assert not (tmp_path / "boom").exists()


def test_a_time_is_kept(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, began = tmp_path / "run", time.perf_counter()
    assert train("--minutes", 0.2, "--lora.r", 2, "--out", run, "--json", tmp_path / "a.json", photos=photos) == 0
    took = time.perf_counter() - began
    said = re.search(r"0.2 minutes: (\d+) steps of", capsys.readouterr().out)
    figures = json.loads((tmp_path / "a.json").read_text())
    assert said
    assert figures["step"] == figures["steps"] == int(said[1]) > 4
    assert took < 60, "12 s, what was measured before them, and a slow machine"
    assert (run / "report.html").is_file()


def test_a_time_that_is_too_short_names_one_that_works(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(budget, "_score_seconds", lambda task, test: 1000.0)
    assert train("--minutes", 1, "--lora.r", 2, "--out", tmp_path / "run", photos=photos) == 2
    assert re.search(r"--minutes: 1 is too little.*3\d works", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()
