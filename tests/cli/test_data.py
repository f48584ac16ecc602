"""The data of a command: what is left out, what is refused, and a folder that changes while a run is interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from tests.cli.pictures import TINY, picture
from tests.cli.test_train import interrupt_at

from lorgnette import checkpoint, load
from lorgnette.cli import main
from lorgnette.common.parts import Parts
from lorgnette.systems.superres.task import SuperResolution
from lorgnette.train import listeners
from lorgnette.train.events import Stepped

ROOMS: dict[str, Sequence[str]] = {
    "superres": TINY,
    "restore": "--model.base none --model.embed_dim 30 --model.depths 1 --data.patch 16 --data.test_sigmas 25 "
    "--data.test_crop 32 --train.batch_size 2 --train.device cpu".split(),
    "clip": "--model.base none --model.architecture tiny --data.image_size 16 --train.batch_size 4 "
    "--train.device cpu --data.classes cat dog".split(),
}


def fill(root: Path, room: str, names: str, first: int = 0) -> Path:
    """Pictures of these names; of a classifier in two folders in turn."""
    for number, name in enumerate(names, start=first):
        folder = root / ("cat", "dog")[number % 2] if room == "clip" else root
        folder.mkdir(parents=True, exist_ok=True)
        picture(64, number).save(folder / f"{name}.png")
    return root


def train(room: str, *words: object) -> int:
    return main(["train", room, *ROOMS[room], *map(str, words)])


def broken(root: Path, name: str) -> Path:
    (file,) = root.rglob(f"{name}.png")
    file.write_bytes(file.read_bytes()[:70])
    return file


@pytest.mark.parametrize("room", ROOMS)
def test_a_broken_picture_is_named_left_out_and_counted_or_refused(room: str, tmp_path: Path, capsys):
    root = fill(tmp_path / "data", room, "abcdefgh")
    file = broken(root, "c")
    words = ("--data.root", root, "--train.steps", 2, "--out", tmp_path / "run", "--json", tmp_path / "a.json")
    assert train(room, *words, "--strict") == 2
    refusal = capsys.readouterr().err
    assert "--strict" in refusal
    assert str(file) in refusal
    assert not (tmp_path / "run").exists()
    assert train(room, *words) == 0
    out, err = capsys.readouterr()
    assert err.startswith(f"lorgnette: warning: 1 of 8 images left out: {file}")
    assert "1 left out" in out
    assert list(json.loads((tmp_path / "a.json").read_text())["left_out"]) == [str(file)]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "1 left out" in report
    assert "c.png" in report
    load(tmp_path / "run" / "adapter")
    scored = ["eval", str(tmp_path / "run" / "adapter"), "--data", str(root), "--device", "cpu"]
    assert main([*scored, "--json", str(tmp_path / "b.json")]) == 2
    out, err = capsys.readouterr()
    assert "adapted" in out
    assert str(file) in err
    assert "1 images could not be scored" in err.splitlines()[-1]
    figures = json.loads((tmp_path / "b.json").read_text())
    assert figures["left_out"] == [str(file)]
    whole = tmp_path / "whole"
    shutil.copytree(root, whole)
    next(whole.rglob("c.png")).unlink()
    assert main([*scored[:3], str(whole), *scored[4:], "--json", str(tmp_path / "c.json")]) == 0
    assert json.loads((tmp_path / "c.json").read_text())["rows"] == figures["rows"]
    capsys.readouterr()
    assert main([*scored, "--strict"]) == 2
    out, err = capsys.readouterr()
    assert "--strict" in err
    assert out == ""


def test_a_pair_of_wrong_sizes_leaves_no_folder_and_ends_nothing(tmp_path: Path, capsys):
    for name, side in (("lr", 32), ("hr", 64)):
        (tmp_path / name).mkdir()
        for number in range(4):
            picture(64, number).resize((side, side)).save(tmp_path / name / f"{number}.png")
    picture(64, 2).resize((16, 16)).save(tmp_path / "hr" / "2.png")
    for room, low, high, more in (("superres", "lr", "hr", []), ("restore", "lq", "gt", ["--data.scale", "2"])):
        if room == "restore":
            more = [
                *more,
                "--data.degradation",
                "sr",
                "--model.upscale",
                "2",
                "--model.upsampler",
                "pixelshuffledirect",
            ]
        words = [f"--data.{low}", tmp_path / "lr", f"--data.{high}", tmp_path / "hr", "--train.steps", 2, *more]
        assert train(room, *words, "--out", tmp_path / room, "--strict") == 2
        assert "2.png" in capsys.readouterr().err
        assert not (tmp_path / room).exists()
        assert train(room, *words, "--out", tmp_path / room) == 0
        assert "2.png" in capsys.readouterr().err
    for file in (tmp_path / "hr").iterdir():
        PIL.Image.new("RGB", (8, 8)).save(file)
    assert train("superres", "--data.lr", tmp_path / "lr", "--data.hr", tmp_path / "hr", "--out", tmp_path / "no") == 2
    assert "no image is left to work with: 4 of 4" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("room", ROOMS)
def test_a_resumed_run_never_learns_from_what_it_held_out(room: str, tmp_path: Path, monkeypatch, capsys):
    """Also where pictures came, went and were renamed meanwhile; without a change the end is the same to the bit."""
    root = fill(tmp_path / "data", room, "bdfhjlnp")
    unbroken, run = tmp_path / "unbroken", tmp_path / "run"
    words = ("--data.root", root, "--train.steps", 4, "--train.eval_every", 2)
    assert train(room, *words, "--out", unbroken) == 0
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        assert train(room, *words, "--out", run) == 130
    began = Parts.read(run / "data.json")
    assert began is not None
    fill(root, room, "aceg", first=20)  # between the others: a split by place would be another one
    secret = Path(next(iter(began.held_out)))
    secret.rename(secret.with_name("zz.png"))
    seen: list[Any] = []
    usual = checkpoint.load_data
    monkeypatch.setattr(checkpoint, "load_data", lambda *args: seen.append(usual(*args)) or seen[-1])
    capsys.readouterr()
    assert main(["train", room, "--resume", str(run)]) == 0
    parts = seen[0][0].parts
    assert list(parts.training) == list(began.training)
    assert set(parts.held_out) == {str(secret.with_name("zz.png")), *list(began.held_out)[1:]}
    said = capsys.readouterr().err
    assert "4 of 12 images left out" in said
    adapters = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (run, unbroken)]
    assert adapters[0] == adapters[1]
    next(root.rglob("zz.png")).unlink()
    for name in list(began.training)[:1]:
        Path(name).unlink()
    main(["train", room, "--resume", str(run)])
    assert "2 images that the run began with are gone" in capsys.readouterr().err
    assert Parts.read(run / "data.json") == began


def test_after_ctrl_c_before_anything_was_learnt_nothing_is_praised(photos: Path, tmp_path: Path, monkeypatch, capsys):
    words = ("--data.root", photos, "--train.steps", 9, "--train.eval_every", 5)
    interrupt_at(2, monkeypatch)
    assert train("superres", *words, "--out", tmp_path / "run") == 130
    out = capsys.readouterr().out
    assert "what was kept changes nothing yet" in out
    assert "lorgnette enhance" not in out
    assert "--resume" in out.splitlines()[-1]


@pytest.mark.parametrize("holdout", [0.25, 0.0])
def test_a_training_that_fails_keeps_the_best_so_far(holdout: float, photos: Path, tmp_path: Path, monkeypatch, capsys):
    """A picture that is taken away in its midst, say."""
    usual = listeners.run_listeners

    def failing(at: int) -> None:
        def listen(event: object) -> None:
            if isinstance(event, Stepped) and event.step == at:
                raise OSError("the disk went away")

        monkeypatch.setattr(listeners, "run_listeners", lambda folder: [*usual(folder), listen])

    monkeypatch.setattr(SuperResolution, "objective", lambda self, metrics: -metrics["psnr"])  # it gets "better"
    monkeypatch.setattr(SuperResolution, "min_delta", 0.0)
    words = ("--data.root", photos, "--train.steps", 9, "--train.eval_every", 2, "--data.holdout", holdout)
    failing(5)
    assert train("superres", *words, "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "the disk went away; the adapter of step" in said
    assert str(tmp_path / "run" / "adapter") in said
    load(tmp_path / "run" / "adapter")
    failing(1)
    if holdout:
        assert train("superres", *words, "--out", tmp_path / "early") == 2
        assert "adapter" not in capsys.readouterr().err
        assert not (tmp_path / "early" / "adapter").exists()


# ------------------------------------------------------------------------------------------- one folder a site


@pytest.mark.parametrize("room", ROOMS)
def test_each_of_several_folders_is_a_client(room: str, tmp_path: Path, monkeypatch, capsys):
    sites = [
        fill(tmp_path / name, room, names) for name, names in (("north", "abcd"), ("south", "abcdef"), ("west", "ab"))
    ]
    words = ["--data.root", *sites, "--data.test", sites[0], "--rounds", 1, "--local-steps", 1]
    run = tmp_path / "run"

    def federate(*more: object) -> int:
        return main(["federate", room, *ROOMS[room], *map(str, more)])

    assert federate(*words, "--out", run) == 0
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert {name: client["samples"] for name, client in lines[-1]["clients"].items()} == {
        "north": 4,
        "south": 6,
        "west": 2,
    }
    split = json.loads((run / "split.json").read_text())["clients"]
    names = list(json.loads((run / "data.json").read_text())["training"])
    for site in sites:
        assert {Path(names[index]).is_relative_to(site) for index in split[site.name]} == {True}
    load(run / "adapter")
    capsys.readouterr()
    assert federate(*words, "--clients", 2, "--out", tmp_path / "two") == 2
    assert "clients: 2 does not go with 3 folders" in capsys.readouterr().err
    assert federate(*words, "--clients", 2, "--split", "iid", "--out", tmp_path / "two") == 0
    mixed = json.loads((tmp_path / "two" / "split.json").read_text())["clients"]
    assert list(mixed) == ["client-1", "client-2"]
    capsys.readouterr()
    assert federate("--data.root", sites[0], "--split", "folders", "--out", tmp_path / "one") == 2
    assert "split: folders needs several folders" in capsys.readouterr().err
    fill(sites[0], room, "z", first=30)  # it goes on with the same
    assert main(["federate", room, "--resume", str(run)]) == 0
    assert "left out" in capsys.readouterr().err
    (next(sites[0].rglob("a.png"))).unlink()
    assert main(["federate", room, "--resume", str(run)]) == 2
    assert "began with other images" in capsys.readouterr().err


def test_folders_of_one_name_are_told_apart_and_an_empty_one_is_named(tmp_path: Path, capsys):
    sites = [fill(tmp_path / name / "photos", "superres", names) for name, names in (("a", "abc"), ("b", "abc"))]
    words = ["federate", "superres", *TINY, "--rounds", "1", "--local-steps", "1", "--data.test", str(sites[0])]
    assert main([*words, "--data.root", *map(str, sites), "--out", str(tmp_path / "run")]) == 0
    assert list(json.loads((tmp_path / "run" / "split.json").read_text())["clients"]) == ["1-photos", "2-photos"]
    for file in sites[1].iterdir():
        file.write_bytes(b"")
    assert main([*words, "--data.root", *map(str, sites), "--out", str(tmp_path / "none")]) == 2
    assert "the folder 2-photos has 0 samples" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
