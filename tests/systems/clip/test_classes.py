"""Which folders are classes: names that come to the same, folders without an image, sites taken for classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lorgnette import build
from lorgnette.cli import main
from lorgnette.common.parts import LeftOut
from lorgnette.systems import clip
from lorgnette.systems.clip.classes import class_names
from lorgnette.systems.clip.names import class_key
from lorgnette.train.config import TrainConfig

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "naïve Ähre") for form in ("NFC", "NFD"))


def fill(root: Path, folders: Sequence[str], count: int = 4) -> Path:
    """Pictures in each of these folders."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            pixels = np.random.default_rng((number, k)).integers(0, 255, (20, 24, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(root / folder / f"{k}.png")
    return root


def labels(data: clip.Data) -> list[int]:
    batches, test = clip.loaders(data, TrainConfig(batch_size=2))
    return sorted([*batches.dataset.labels.tolist(), *(n for batch in test for n in batch["label"].tolist())])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("red_car", "red car"),
        ("Red car", "red car"),
        ("red car", "red  car"),
        ("red car_", "red car"),
        (COMPOSED, DECOMPOSED),
        ("ﬁsh", "fish"),
        ("straße", "STRASSE"),
        ("Ⅳ", "iv"),
    ],
)
def test_names_that_come_to_the_same_are_refused_before_any_work(one: str, other: str, tmp_path: Path, capsys):
    root = fill(tmp_path / "data", [one, other, "dog"])
    for refused in (
        lambda: build(clip.Recipe(data=clip.Data(root=str(root)))),
        lambda: labels(clip.Data(root=str(root))),
    ):
        with pytest.raises(ValueError, match="one class but for") as refusal:
            refused()
        assert str(root / one) in str(refusal.value)
        assert str(root / other) in str(refusal.value)
    named = clip.Data(root=str(root), classes=(one, other, "dog"))
    for check in (lambda: labels(named), named.check_alike):
        with pytest.raises(ValueError, match=r"data\.classes: ") as refusal:
            check()
        assert repr(one) in str(refusal.value)
        assert repr(other) in str(refusal.value)
    words = ["train", "clip", "--data.root", str(root), "--out", str(tmp_path / "run")]
    for more in ([], ["--data.classes", one, other, "dog"]):
        assert main([*words, *more]) == 2
        assert "one class but for" in capsys.readouterr().err
    assert main(["classify", str(root), "--classes", one, other]) == 2
    assert "one class but for" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_names_that_differ_stay_apart(tmp_path: Path):
    names = ["cat", "cats", "c at", "red-car", "red car", "e", "é"]
    assert class_names(clip.Data(root=str(fill(tmp_path, names, 1)))) == tuple(sorted(names))
    assert len(set(map(class_key, names))) == len(names)


@pytest.mark.parametrize("folder", ["naïve_Ähre", "Naïve Ähre", "NAÏVE_ÄHRE"])
@pytest.mark.parametrize(("on_disk", "given"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD"), ("NFKD", "NFKC")])
def test_a_class_is_found_however_its_folder_is_written(folder: str, on_disk, given, tmp_path: Path):
    name = unicodedata.normalize(given, "naïve Ähre")
    root = fill(tmp_path, [unicodedata.normalize(on_disk, folder), "dog"], 3)
    assert labels(clip.Data(root=str(root), classes=("dog", name))) == [0, 0, 0, 1, 1, 1]
    assert set(class_names(clip.Data(root=str(root)))) == {
        unicodedata.normalize("NFC", folder).replace("_", " "),
        "dog",
    }


@pytest.mark.parametrize("inside", ["nothing", "a note", "a broken picture", "a hidden picture"])
def test_a_folder_that_yields_no_image_is_named_before_training(inside: str, tmp_path: Path, capsys):
    root = fill(tmp_path / "data", ["cat", "dog", "horned_owl"])
    for file in (root / "horned_owl").iterdir():
        if inside == "a broken picture":
            file.write_bytes(file.read_bytes()[:60])
        elif inside == "a hidden picture":
            file.rename(file.with_name(f".{file.name}"))
        else:
            file.unlink()
    if inside == "a note":
        (root / "horned_owl" / "note.txt").write_text("all gone")
    words = ["train", "clip", "--data.root", str(root), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "horned owl" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    named = clip.Data(root=str(root), classes=("cat", "dog", "horned owl"))  # as a site that has no owls
    with pytest.warns(LeftOut) as said:
        assert set(labels(named)) == {0, 1}
    assert "of horned owl there is no image to learn from" in str(said[-1].message)


def test_a_class_of_one_image_learns_from_it(tmp_path: Path):
    data = clip.Data(root=str(fill(fill(tmp_path, ["cat", "dog"], 3), ["owl"], 1)))
    for seed in range(4):
        batches, test = clip.loaders(data, TrainConfig(seed=seed))
        assert 2 in batches.dataset.labels
        assert 2 not in test[0]["label"]


def test_a_class_without_an_image_to_learn_from_is_named(tmp_path: Path):
    data = clip.Data(root=str(fill(tmp_path, ["cat", "dog"], 3)), classes=("cat", "dog", "owl"))
    with pytest.warns(LeftOut, match="of owl there is no image to learn from"):
        clip.loaders(data)


def test_sites_are_not_taken_for_classes_unless_it_is_said(tmp_path: Path):
    for site in ("north", "south"):
        fill(tmp_path / site, ["cat", "dog"])
    data = clip.Data(root=str(tmp_path))
    with pytest.raises(
        ValueError, match=r"cat, dog are the classes, give --data.root .*north .*south .*--data.classes"
    ):
        class_names(data)
    assert labels(clip.Data(root=str(tmp_path), classes=("north", "south"))) == [0] * 8 + [1] * 8
    both = clip.Data(root=[str(tmp_path / "north"), str(tmp_path / "south")])
    assert class_names(both) == ("cat", "dog")
    assert labels(both) == [0] * 8 + [1] * 8
    batches, _ = clip.loaders(both)
    assert set(batches.folders or ()) == {"north", "south"}


def test_images_one_folder_deeper_are_those_of_their_class(tmp_path: Path):
    fill(tmp_path, ["cat/images", "dog/images"])
    assert labels(clip.Data(root=str(tmp_path))) == [0] * 4 + [1] * 4


def test_folders_of_several_sites_may_name_a_class_in_one_way_only(tmp_path: Path):
    fill(tmp_path / "north", ["Cat", "dog"])
    fill(tmp_path / "south", ["cat", "dog"])
    with pytest.raises(ValueError, match="one class but for") as refusal:
        class_names(clip.Data(root=[str(tmp_path / "north"), str(tmp_path / "south")]))
    assert str(tmp_path / "north" / "Cat") in str(refusal.value)
