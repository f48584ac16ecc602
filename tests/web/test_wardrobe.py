"""Adapters are put on and taken off one base, and what comes out is what a fresh model gives."""

from __future__ import annotations

import gc
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lorgnette import LoRAConfig, build, load, save
from lorgnette.images.file import Image
from lorgnette.lora.several.named import adapters
from lorgnette.shipped import load_shipped
from lorgnette.systems import superres
from lorgnette.web.offered import Offer, offer, offers
from lorgnette.web.settings import Limits
from lorgnette.web.work import wardrobe as wardrobe_module
from lorgnette.web.work.wardrobe import Wardrobe

PICTURE = Image(np.random.default_rng(0).random((12, 14, 3), dtype=np.float32))


def made(task: superres.SuperResolution) -> np.ndarray:
    return superres.enhance(task, PICTURE).pixels


@pytest.fixture
def wardrobe(lenses: Path) -> Wardrobe:
    return Wardrobe("cpu", [lenses], Limits())


def test_two_adapters_of_one_base_share_it_and_do_not_mix(wardrobe: Wardrobe, lenses: Path):
    expected = {name: made(load(lenses / name)) for name in ("warm", "cold")}
    assert not np.array_equal(expected["warm"], expected["cold"])
    for name in ("warm", "cold", "warm"):
        task = wardrobe.task(wardrobe.offer(name, None, "enhance"))
        np.testing.assert_array_equal(made(task), expected[name])
    assert len(wardrobe._models) == 1


def test_what_ships_is_worn_over_one_base(wardrobe: Wardrobe):
    for name in ("photo", "base", "web"):
        worn = wardrobe.task(Offer(name, "superres"))
        np.testing.assert_array_equal(made(worn), made(load_shipped("superres", name)))
    assert len(wardrobe._models) == 1


def test_the_oldest_go_when_there_are_too_many(wardrobe: Wardrobe, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wardrobe_module, "HUNG", 2)
    for name in ("photo", "web", "art", "photo"):
        task = wardrobe.task(Offer(name, "superres"))
        assert len(adapters(task.model)) <= 2
    np.testing.assert_array_equal(made(task), made(load_shipped("superres", "photo")))
    del task
    for name in ("base", "jpeg"):
        wardrobe.task(Offer(name, "restore"))
    gc.collect()
    assert len(wardrobe._models) == 1  # the other one is gone


def test_an_adapter_that_trains_the_base_is_a_model_of_its_own(tmp_path: Path, lenses: Path):
    recipe = superres.Recipe(
        model=superres.Model(encoder="edsr-tiny", base="none"),
        lora=LoRAConfig(r=2, target_modules=r"encoder\.body.*", modules_to_save=["imnet"]),
    )
    task = build(recipe)
    for name, parameter in task.model.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * (1 + len(name) % 3)
    save(task, recipe, tmp_path / "deep")
    wardrobe = Wardrobe("cpu", [lenses, tmp_path], Limits())
    before = made(wardrobe.task(wardrobe.offer("warm", None, "enhance")))
    deep = made(wardrobe.task(wardrobe.offer("deep", None, "enhance")))
    np.testing.assert_array_equal(deep, made(load(tmp_path / "deep")))
    np.testing.assert_array_equal(made(wardrobe.task(wardrobe.offer("warm", None, "enhance"))), before)


def test_a_folder_that_was_written_again_is_read_again(tmp_path: Path, lenses: Path):
    shutil.copytree(lenses / "warm", tmp_path / "mine")
    wardrobe = Wardrobe("cpu", [tmp_path], Limits())
    first = made(wardrobe.task(wardrobe.offer("mine", None, "enhance")))
    shutil.copytree(lenses / "cold", tmp_path / "mine", dirs_exist_ok=True)
    for file in (tmp_path / "mine").iterdir():
        os.utime(file, (2e9, 2e9))
    again = made(wardrobe.task(wardrobe.offer("mine", None, "enhance")))
    assert not np.array_equal(first, again)
    np.testing.assert_array_equal(again, made(load(lenses / "cold")))


def test_one_s_own_adapter_hides_a_shipped_one_of_its_name(tmp_path: Path, lenses: Path):
    shutil.copytree(lenses / "warm", tmp_path / "photo")
    shutil.copytree(lenses / "cold", tmp_path / "run" / "adapter")
    found = offers([tmp_path, tmp_path / "absent"])
    assert offer("photo", None, found, "enhance").folder == tmp_path / "photo"
    assert offer("photo", "restore", found, "enhance").folder is None
    assert offer("run", None, found, "enhance").folder == tmp_path / "run" / "adapter"
    with pytest.raises(ValueError, match="there is no 'photo'; there is none"):
        offer("photo", None, found, "classify")


def test_a_base_is_told_from_another(wardrobe: Wardrobe, tmp_path: Path, lenses: Path):
    """The same adapter over a base with other settings is another model."""
    recipe = superres.Recipe(model=superres.Model(encoder="edsr-tiny", base="none"), lora=None)
    recipe = replace(recipe, train=replace(recipe.train, seed=5))
    save(build(recipe), recipe, tmp_path / "whole")
    other = Wardrobe("cpu", [lenses, tmp_path], Limits())
    first = made(other.task(other.offer("warm", None, "enhance")))
    made(other.task(other.offer("whole", None, "enhance")))
    assert len(other._models) == 2
    np.testing.assert_array_equal(made(other.task(other.offer("warm", None, "enhance"))), first)
