"""The adapters that ship: they load, do what they are for, and are chosen by looking."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from lorgnette.cli import main
from lorgnette.cli.arguments import kept_folder
from lorgnette.enhancing.enhancer import adapter
from lorgnette.images.choosing import BASE, NOTHING, Choice, Judge
from lorgnette.images.damage import DAMAGES
from lorgnette.images.file import Image
from lorgnette.images.metrics import psnr
from lorgnette.images.patches import channels_first
from lorgnette.images.scenes import drawn
from lorgnette.lora import adapter_info
from lorgnette.shipped import Chooser, adapter_path, load_shipped, rooms_with_adapter
from lorgnette.systems import ROOMS, room

SHIPPED = [(of, name) for of in ROOMS for name in room(of).ABOUT.shipped]


def picture(kind: str, side: int, small: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A damaged picture and the truth."""
    skimage_data = pytest.importorskip("skimage.data")
    whole = np.asarray(skimage_data.astronaut(), np.float32) / 255  # ships with scikit-image
    top, left = 20, 150
    always = replace(DAMAGES[kind], clean=0, drawn=0)
    return always.pair(whole[top : top + side, left : left + side], np.random.default_rng(seed), (small, small))


def score(made: np.ndarray, truth: np.ndarray) -> float:
    return psnr(channels_first(np.ascontiguousarray(made)), channels_first(truth), luma=False)


@pytest.mark.parametrize(("of", "name"), SHIPPED)
def test_each_is_small_and_says_what_it_learnt(of: str, name: str):
    folder = adapter_path(of, name)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 300_000
    assert (folder / "training.json").is_file()
    assert (Path(__file__).parents[1] / "recipes" / f"{of}-{name}.yaml").is_file()
    assert adapter_info(folder)
    task = load_shipped(of, name)
    assert {p.dtype for p in task.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("of", "name", "kind", "gain"),
    [
        ("restore", "jpeg", "web", 0.8),
        ("restore", "counts", "counts", 3),
        ("superres", "phone", "phone", 0),
        ("superres", "web", "web", 0.2),
    ],
)
def test_it_brings_more_than_nothing_and_more_than_the_base(of: str, name: str, kind: str, gain: float):
    """On a picture that nobody trained on; the mean of four draws."""
    side, home = (96, room(of))
    small = side // 2 if of == "superres" else side
    found = []
    for seed in range(4):
        lq, gt = picture(kind, side, small, seed)
        image = Image(lq)
        plain = home.plain(image)  # pyright: ignore[reportAttributeAccessIssue]
        made = [home.enhance(load_shipped(of, which), image).pixels for which in (BASE, name)]  # pyright: ignore
        found.append([score(pixels, gt) for pixels in (plain.pixels, *made)])
    nothing, base, adapted = np.mean(found, 0)
    assert adapted > nothing + gain
    assert adapted > base + 0.3


def test_pixel_art_stays_in_squares():
    small, truth = drawn("sprites", 5, (40, 40)), drawn("sprites", 5, (40, 40), (80, 80))
    home = room("superres")
    made = home.enhance(load_shipped("superres", "art"), Image(small)).pixels  # pyright: ignore
    assert score(made, truth) > score(home.plain(Image(small)).pixels, truth) + 8  # pyright: ignore


def test_names_that_do_not_ship_are_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"'fotos'.*photo"):
        adapter_path("superres", "fotos")
    with pytest.raises(ValueError, match="none"):
        adapter_path("clip", "photo")
    assert rooms_with_adapter("photo") == ["superres", "restore"]
    assert rooms_with_adapter("jpeg") == ["restore"]


def test_what_ships_is_found_by_name_where_the_command_line_wants_an_adapter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kept_folder("web") == str(adapter_path("superres", "web"))
    assert kept_folder("restore/photo") == str(adapter_path("restore", "photo"))
    assert kept_folder("superres/photo") == str(adapter_path("superres", "photo"))
    assert kept_folder("restore/web") == "restore/web"  # not there: whoever reads it says so
    with pytest.raises(argparse.ArgumentTypeError, match=r"did you mean 'photo'.*jpeg"):
        kept_folder("fotos")
    with pytest.raises(argparse.ArgumentTypeError, match="superres/photo or restore/photo"):
        kept_folder("photo")
    assert adapter("photo") == "photo"  # --room or superres decides
    assert adapter("restore/jpeg") == str(adapter_path("restore", "jpeg"))
    (tmp_path / "web").mkdir()  # a folder of one's own goes first
    assert kept_folder("web") == "web"


def test_info_and_merge_take_what_ships_by_name(tmp_path, capsys):
    assert main(["info", "jpeg"]) == 0
    assert "restore" in capsys.readouterr().out
    assert main(["merge", "jpeg", str(tmp_path / "whole")]) == 0
    assert "layers merged" in capsys.readouterr().out
    assert main(["info", "restore/web"]) != 0
    assert "restore/web" in capsys.readouterr().err
    assert main(["info", "photo"]) != 0
    assert "restore/photo" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- choosing


@pytest.mark.parametrize("of", [of for of in ROOMS if room(of).ABOUT.shipped])
def test_the_judge_knows_exactly_what_ships(of: str):
    judge = Judge(adapter_path(of, room(of).ABOUT.shipped[0]).parent / "judge.safetensors")
    assert judge.names[0] == NOTHING
    assert set(judge.names) == {NOTHING, BASE, *room(of).ABOUT.shipped}


def test_drawn_pictures_and_sound_ones_are_left_alone_by_restoration():
    chooser = Chooser("restore", "cpu")
    sharp = np.asarray(pytest.importorskip("skimage.data").coffee()[100:292, 200:392], np.float32) / 255
    for pixels in (drawn("sprites", 1, (128, 128)), drawn("lines", 1, (128, 128)), sharp):
        choice = chooser.choose(pixels)
        assert choice.network is None
        image = Image(pixels)
        same, _ = chooser.enhance(image)
        assert same is image


@pytest.mark.parametrize(
    ("of", "kind", "right"),
    [
        ("restore", "web", {"jpeg"}),
        ("restore", "counts", {"counts"}),
        ("superres", "web", {"web", "photo", "phone"}),
    ],
)
def test_damage_is_recognised(of: str, kind: str, right: set[str]):
    chooser = Chooser(of, "cpu")
    small = 192 if of == "restore" else 120
    chosen = [chooser.choose(picture(kind, 240, small, seed)[0]).name for seed in range(6)]
    assert sum(name in right for name in chosen) >= 4, chosen


def test_pixel_art_and_screens_get_theirs():
    chooser = Chooser("superres", "cpu")
    assert all(chooser.choose(drawn("sprites", seed, (120, 120))).name == "art" for seed in range(5))
    chosen = [chooser.choose(drawn("screen", seed, (160, 160))).name for seed in range(8)]
    assert sum(name in ("screen", "art") for name in chosen) >= 5, chosen


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ({BASE: 1.0, "phone": 1.15}, BASE),  # the base, where an adapter is hardly better
        ({BASE: 1.0, "phone": 1.25}, "phone"),
        ({BASE: 1.0, "phone": 0.7}, BASE),
        ({BASE: -0.5, "phone": 0.15}, "phone"),  # it is no better than nothing: nobody stays with it
        ({BASE: 0.05, "phone": 0.15}, "phone"),
        ({BASE: 0.05, "phone": 0.09}, NOTHING),
        ({BASE: 0.15, "phone": 0.2}, BASE),
    ],
)
def test_who_is_chosen(gains: dict[str, float], chosen: str, monkeypatch: pytest.MonkeyPatch):
    judge = Judge(adapter_path("superres", "phone").parent / "judge.safetensors")
    table = np.array([[gains.get(name, -1.0 if name != NOTHING else 0.0) for name in judge.names]])
    monkeypatch.setattr(judge, "expected", lambda seen: table)
    assert [judge.names[place] for place in judge.chosen(np.zeros((1, 22)))] == [chosen]
    assert judge(np.zeros((32, 32, 3), np.float32)).name == chosen


def test_a_choice_says_what_is_expected():
    gains = {NOTHING: 0.0, BASE: 0.2, "phone": 1.1}
    assert str(Choice("phone", gains, {})) == "adapter phone: expected +1.1 dB over no network; base +0.2"
    assert str(Choice(BASE, gains, {})) == "the base: expected +0.2 dB over no network"
    said = "no network: none is expected to help"
    assert str(Choice(NOTHING, gains, {})) == f"{said} enough (phone +1.1 dB)"
    assert str(Choice(NOTHING, {NOTHING: 0.0, BASE: 0.1, "phone": -3.0}, {})) == said
    assert Choice(NOTHING, gains, {}).network is None


def test_a_judge_of_other_measures_is_refused(tmp_path: Path):
    from safetensors.numpy import save_file

    save_file({"mean": np.zeros(3)}, tmp_path / "j.safetensors", metadata={"names": '["nothing"]', "measures": '["x"]'})
    with pytest.raises(ValueError, match="other measures"):
        Judge(tmp_path / "j.safetensors")


def test_what_learnt_from_grey_pictures_is_not_chosen_for_colours():
    chooser, free = Chooser("restore", "cpu"), Judge(adapter_path("restore", "counts").parent / "judge.safetensors")
    light = drawn("specimen", 1, (120, 120))
    coloured = np.random.default_rng(0).poisson(light * 200 * np.array((1, 0.9, 0.8))) / 200
    for numbers, with_colours in ((coloured[..., :1].repeat(3, -1), False), (coloured, True)):
        counted = numbers.clip(0, 1).astype(np.float32)
        assert free(counted).name == "counts"
        choice = chooser.choose(counted)
        assert (choice.name == "counts") != with_colours
        assert ("counts" in choice.gains) != with_colours


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ({BASE: 1.9, "camera": 1.99}, NOTHING),  # little noise, or fine detail of a sound picture
        ({BASE: 1.9, "camera": 2.2}, "camera"),
        ({BASE: 2.1, "camera": 1.9}, BASE),
        ({BASE: 1.5, "camera": 1.9, "photo": 0.2}, "photo"),  # the others as ever
        ({BASE: 1.0, "jpeg": 0.15}, "jpeg"),
    ],
)
def test_what_takes_noise_away_must_be_expected_to_bring_more(
    gains: dict[str, float], chosen: str, monkeypatch: pytest.MonkeyPatch
):
    judge = Chooser("restore", "cpu")._judge
    table = np.array([[gains.get(name, -1.0 if name != NOTHING else 0.0) for name in judge.names]])
    monkeypatch.setattr(judge, "expected", lambda seen: table)
    assert judge(np.zeros((32, 32, 3), np.float32)).name == chosen


def test_sound_pictures_that_were_made_small_are_mostly_left_alone():
    data = pytest.importorskip("skimage.data")
    chooser, chosen = Chooser("restore", "cpu"), []
    for name in ("coffee", "astronaut", "chelsea", "rocket"):
        photo = PIL.Image.fromarray(getattr(data, name)())
        for side in (90, 120, 160, 240):
            small = photo.resize((side, round(side * photo.height / photo.width)), PIL.Image.Resampling.BICUBIC)
            chosen.append(chooser.choose(np.asarray(small, np.float32) / 255).name)
    assert chosen.count(NOTHING) >= 13, chosen
