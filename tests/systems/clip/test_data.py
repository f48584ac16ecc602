"""Folders of classes and drawn pictures, with labels to deal out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from lorgnette.systems import clip
from lorgnette.systems.clip import glyphs
from lorgnette.systems.clip.data import class_names, drawn
from lorgnette.train.config import TrainConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of six pictures."""
    for number, name in enumerate(("red_fox", "blue_whale")):
        (tmp_path / name).mkdir()
        for index in range(6):
            pixels = np.full((40, 52, 3), 60 * number + 8 * index, np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    return tmp_path


def test_folders_become_classes(folder: Path):
    data = clip.Data(root=str(folder), image_size=16, holdout=0.25, augment=False)
    assert class_names(data) == ("blue whale", "red fox")
    batches, test = clip.loaders(data, TrainConfig(batch_size=4))
    dataset = batches.dataset
    assert sorted(dataset.labels) == [0] * (dataset.labels == 0).sum() + [1] * (dataset.labels == 1).sum()
    (held_out,) = test
    assert len(dataset) == 9
    assert len(held_out["image"]) == len(held_out["label"]) == test.samples == 3
    batch = next(batches.starting_at(0))
    assert batch["image"].shape == (4, 3, 16, 16)
    for image, label in zip(batch["image"], batch["label"], strict=True):
        assert (image.mean() * 255 >= 59.9) == (label == 0)  # the whales are the brighter ones
    assert held_out["image"][1:3].shape == (2, 3, 16, 16)


def test_batches_are_a_function_of_seed_and_step(folder: Path):
    data = clip.Data(root=str(folder), image_size=16, flip=True)
    first, _ = clip.loaders(data, TrainConfig(batch_size=4))
    again, _ = clip.loaders(data, TrainConfig(batch_size=4))
    batches = first.starting_at(0)
    wanted = [next(batches) for _ in range(4)][3]
    assert torch.equal(next(again.starting_at(3))["image"], wanted["image"])


def test_what_does_not_fit_is_said_in_one_line(folder: Path, tmp_path: Path):
    PIL.Image.new("RGB", (20, 20)).save(folder / "stray.png")
    with pytest.raises(ValueError, match=r"stray\.png is in no subfolder of a class"):
        clip.loaders(clip.Data(root=str(folder)))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        clip.loaders(clip.Data(root=str(tmp_path / "none")))
    (tmp_path / "flat").mkdir()
    with pytest.raises(ValueError, match="0 subfolders"):
        clip.loaders(clip.Data(root=str(tmp_path / "flat")))
    for settings, match in [
        ({"prompts": ("a photo",)}, "data.prompts"),
        ({"preset": "digits", "root": "x"}, "exclude each other"),
        ({"loss": "pairs"}, "data.preset 'glyphs'"),
        ({"classes": ("a", "a")}, "twice"),
        ({"image_size": 4}, "data.image_size"),
    ]:
        with pytest.raises(ValueError, match=match):
            clip.Data(**settings)


def test_digits_are_those_of_scikit_learn():
    batches, test = clip.loaders(clip.Data(preset="digits", augment=False), TrainConfig(batch_size=8))
    labels = np.concatenate([batches.dataset.labels, next(iter(test))["label"].numpy()])
    assert len(labels) == 1797
    assert set(labels) == set(range(10))
    image = next(batches.starting_at(0))["image"]
    assert image.shape == (8, 3, 32, 32)
    assert torch.equal(image[:, 0], image[:, 2])  # grey


@pytest.mark.parametrize("preset", ["shapes", "glyphs"])
def test_drawn_pictures_are_a_function_of_their_number(preset: str):
    few, many = drawn(preset, 40, 32), drawn(preset, 60, 32)
    assert (few.images == many.images[:40]).all()
    assert (few.labels == np.arange(40) % (10 if preset == "shapes" else 20)).all()
    assert len({image.tobytes() for image in many.images}) == 60


def test_captions_say_what_is_drawn():
    seen = set()
    for index in range(300):
        picture = glyphs.draw(np.random.default_rng(index), 32)
        assert glyphs.THINGS[picture.label] in picture.caption.split()
        seen.add(picture.label)
    assert seen == set(range(20))


def test_rare_classes_are_held_out_too(tmp_path: Path):
    for name, count in (("cat", 40), ("dog", 5), ("owl", 2)):
        (tmp_path / name).mkdir()
        for index in range(count):
            PIL.Image.fromarray(np.full((24, 24, 3), index, np.uint8)).save(tmp_path / name / f"{index}.png")
    for seed in range(4):
        batches, test = clip.loaders(clip.Data(root=str(tmp_path), image_size=16), TrainConfig(seed=seed))
        assert np.bincount(batches.dataset.labels).tolist() == [30, 4, 1]
        assert np.bincount(test[0]["label"]).tolist() == [10, 1, 1]
