"""`lorgnette push`: what is sent, what is kept back, and what the card says."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tests.sharing.conftest import LEARNT, RECIPE
from tests.sharing.hub_server import Hub

from lorgnette import build, load, load_recipe, save
from lorgnette.cli import main
from lorgnette.sharing import Terms, pack, push

# Of huggingface_hub's own call to its client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def head_of(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


def row(card: str, name: str) -> str:
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
    return line


def test_what_is_pushed_comes_back(hub: Hub, lens: Path, capsys: pytest.CaptureFixture[str]):
    before = {file.name: file.read_bytes() for file in lens.iterdir()}
    assert main(["push", str(lens), "hub:ann/lens", "--license", "mit"]) == 0
    said = capsys.readouterr()
    commit = hub.repos["ann/lens"].branches["main"]
    assert f"shared   hub:ann/lens@{commit}" in said.out
    assert hub.token not in said.out + said.err
    there = hub.repos["ann/lens"].files()
    assert there.keys() == {*before, "README.md", ".gitattributes"}
    assert there["adapter_model.safetensors"] == before["adapter_model.safetensors"]
    ours, theirs = load(lens).model.state_dict(), load(f"hub:ann/lens@{commit}").model.state_dict()
    assert all(tensor.equal(theirs[name]) for name, tensor in ours.items())
    assert {file.name: file.read_bytes() for file in lens.iterdir()} == before


def test_where_data_lies_on_this_machine_does_not_leave_it(hub: Hub, lens: Path):
    assert b"/home/somebody" in (lens / "recipe.yaml").read_bytes()
    with pack(lens, "hub:ann/lens") as parcel:
        assert parcel.notes == ["recipe.yaml: without data.root, which says where data lies"]
    push(lens, "hub:ann/lens")
    assert not [name for name, data in hub.repos["ann/lens"].files().items() if b"somebody" in data]
    assert load_recipe(lens).data.root == "/home/somebody/photos"


def test_the_card_says_what_is_known_and_what_is_not(lens: Path):
    with pack(lens, "hub:ann/lens", Terms("mit", "my own pictures")) as parcel:
        card = (parcel.folder / "README.md").read_text()
        digest = json.loads((lens / "lorgnette.json").read_text())["base"]
    assert head_of(card) == {"library_name": "lorgnette", "license": "mit", "tags": ["lorgnette", "superres", "lora"]}
    assert row(card, "psnr") == "| psnr | 29.41 | 30.61 | +1.20 |"
    assert "on 12 held-out samples" in card
    assert row(card, "learnt from").endswith("| 93 samples, 400 steps, 1 min 2 s; the best of step 350 is kept |")
    assert f"`{digest['structure']}`, values `{digest['content']}`" in card
    assert "an untrained network (encoder edsr-tiny)" in row(card, "base")
    assert row(card, "data settings") == "| data settings | scales (1.0, 3.0) |"
    assert row(card, "the data it learnt from").endswith("| my own pictures |")
    assert "(drift) was not measured" in card
    assert "lorgnette enhance IN OUT --adapter hub:ann/lens" in card


def test_a_card_of_something_that_says_little(lens: Path, tmp_path: Path):
    folder = tmp_path / "bare"
    shutil.copytree(lens, folder)
    (folder / "training.json").unlink()
    (folder / "README.md").write_text("---\nlicense: gpl\n---\n# My lens\nFor my microscope.\n")
    with pack(folder, "hub:ann/lens") as parcel:
        card = (parcel.folder / "README.md").read_text()
    assert head_of(card)["license"] == "unknown"
    assert row(card, "this").endswith("unknown: whoever shares it has not said |")
    assert "not known: no note of its training" in row(card, "learnt from")
    assert "Not known: nothing was held out" in card
    assert card.endswith("## Notes that lay with it\n\n### My lens\nFor my microscope.\n")
    assert "gpl" not in card


def test_a_training_that_did_not_help_says_so(tmp_path: Path, lens: Path):
    folder = save(load(lens), RECIPE, tmp_path / "lens", LEARNT | {"improved": False})
    with pack(folder, "hub:ann/lens") as parcel:
        assert "**It did not help**" in (parcel.folder / "README.md").read_text()


@pytest.mark.parametrize("room", ["superres", "restore", "clip", "mesh"])
def test_the_terms_of_what_ships_are_those_of_its_own_card(room: str):
    from lorgnette.sharing.card import _terms_of_base
    from lorgnette.systems import room as room_by_name

    told = _terms_of_base(room_by_name(room).Recipe())
    assert told.startswith("Apache-2.0")
    assert ("BSDS500: non-commercial research" in told) == (room in ("superres", "restore"))


def test_a_pickle_is_refused_by_name_and_other_things_stay_here(lens: Path, tmp_path: Path):
    folder = tmp_path / "lens"
    shutil.copytree(lens, folder)
    (folder / "curve.png").write_bytes(b"")
    (folder / "samples").mkdir()
    with pack(folder, "hub:ann/lens") as parcel:
        assert "curve.png" not in parcel.files
        assert parcel.notes[-2:] == ["left out: curve.png", "left out: samples/"]
    (folder / "optimizer.pt").write_bytes(pickle.dumps(print))
    with (
        pytest.raises(ValueError, match=r"optimizer\.pt is a pickle and is not shared"),
        pack(folder, "hub:ann/lens"),
    ):
        pass


def test_what_cannot_be_loaded_is_not_sent(hub: Hub, lens: Path, tmp_path: Path):
    folder = tmp_path / "lens"
    shutil.copytree(lens, folder)
    data = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(data[:-8])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors"):
        push(folder, "hub:ann/lens")
    assert hub.asked == []
    with pytest.raises(FileNotFoundError, match="no such folder"):
        push(tmp_path / "none", "hub:ann/lens")


def test_a_base_of_this_machine_has_to_be_shared_first(hub: Hub, tmp_path: Path):
    whole = replace(RECIPE, lora=None)
    base = save(build(whole), whole, tmp_path / "base")
    recipe = replace(RECIPE, model=replace(RECIPE.model, base=str(base)))
    folder = save(build(recipe), recipe, tmp_path / "lens")
    with pytest.raises(ValueError, match=r"its base is .*base, a file of this machine.*--base hub:user/name"):
        push(folder, "hub:ann/lens")
    at = push(base, "hub:ann/base")
    assert main(["push", str(folder), "hub:ann/lens", "--base", "hub:ann/base"]) == 0
    files = hub.repos["ann/lens"].files()
    assert yaml.safe_load(files["recipe.yaml"])["model"]["base"] == at
    head = head_of(files["README.md"].decode())
    assert (head["base_model"], head["base_model_relation"]) == ("ann/base", "adapter")
    assert load("hub:ann/lens")

    another = replace(whole, train=replace(whole.train, seed=1))
    push(save(build(another), another, tmp_path / "another"), "hub:ann/another")
    with pytest.raises(ValueError, match="is for another base than this"):
        push(folder, "hub:ann/lens", base="hub:ann/another")


def test_a_second_push_leaves_nothing_of_another_kind(hub: Hub, lens: Path, tmp_path: Path):
    first = push(lens, "hub:ann/lens", private=True)
    assert hub.repos["ann/lens"].private
    hub.repos["ann/lens"].commit(hub.repos["ann/lens"].files() | {"notes.md": b"by hand"})
    whole = replace(RECIPE, lora=None, data=type(RECIPE.data)())
    second = push(save(build(whole), whole, tmp_path / "whole"), "hub:ann/lens")
    there = hub.repos["ann/lens"].files()
    assert there.keys() == {"model.safetensors", "recipe.yaml", "README.md", "notes.md", ".gitattributes"}
    assert first != second
    assert load(first)


def test_a_dry_run_shows_all_and_sends_nothing(hub: Hub, lens: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["push", str(lens), "hub:ann/lens", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "adapter_model.safetensors" in said
    assert "without data.root" in said
    assert "| psnr | 29.41 | 30.61 | +1.20 |" in said
    assert hub.asked == []


@pytest.mark.parametrize("how", ["gone", "down", "no token", "a revision"])
def test_a_push_that_fails_is_one_line_and_loses_nothing(
    how: str, hub: Hub, lens: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between tries
    before = {file.name: file.read_bytes() for file in lens.iterdir()}
    name, why = "hub:ann/lens", "the hub at"
    if how == "gone":
        hub.stop()
    elif how == "down":
        hub.down, why = True, "answers with status 503"
    elif how == "no token":
        monkeypatch.setenv("HF_TOKEN", "hf_a_wrong_one")
        why = "asks for a token"
    else:
        name, why = "hub:ann/lens@v1", "goes to the main branch"
    assert main(["push", str(lens), name]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1, told
    assert why in told[0]
    assert "hf_" not in told[0]
    assert {file.name: file.read_bytes() for file in lens.iterdir()} == before
    assert hub.repos == {}
