"""`hub:user/name` in place of a folder: what is brought here, what is refused, and what stands in without a network."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.sharing.conftest import RECIPE
from tests.sharing.hub_server import Hub

from lorgnette import build, load, load_recipe, lora, save
from lorgnette.cli import main
from lorgnette.common import hub as names


def weights(name: str, revision: str | None = None) -> bytes:
    return (lora.adapter_folder(name, revision) / "adapter_model.safetensors").read_bytes()


def state(folder: str | Path, **more: str) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in load(folder, **more).model.state_dict().items()}


def other(files: dict[str, bytes]) -> dict[str, bytes]:
    """The adapter after more training, so to say."""
    data = bytearray(files["adapter_model.safetensors"])
    data[-1] ^= 1
    return files | {"adapter_model.safetensors": bytes(data)}


def test_what_is_shared_is_loaded_as_from_its_folder(hub: Hub, lens: Path, files: dict[str, bytes]):
    commit = hub.repo("ann/lens", files).branches["main"]
    assert state("hub:ann/lens") == state(lens)
    assert load_recipe(lora.adapter_folder("hub:ann/lens")) == load_recipe(lens)
    asked = len(hub.asked)
    assert state(f"hub:ann/lens@{commit}") == state("hub:ann/lens", revision=commit) == state(lens)
    assert not [line for line in hub.asked[asked:] if "/resolve/" in line], "it was here already"
    base = build(replace(RECIPE, lora=None))
    assert not lora.load_adapter(base.model, "hub:ann/lens").missing


def test_a_branch_is_taken_as_the_commit_it_stands_for_and_that_is_told(
    hub: Hub, files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
):
    repo = hub.repo("ann/lens", files)
    first = repo.branches["main"]
    before = weights("hub:ann/lens")
    assert f"hub:ann/lens is {first} now; hub:ann/lens@{first} stays so" in capsys.readouterr().err
    second = repo.commit(other(files))
    assert weights("hub:ann/lens") != before
    assert f"hub:ann/lens is {second} now" in capsys.readouterr().err
    assert weights(f"hub:ann/lens@{first}") == before
    assert weights("hub:ann/lens@main") != before
    assert weights("hub:ann/lens", revision=first) == before
    assert first not in capsys.readouterr().err.replace(second, ""), "a commit needs no word"


def test_a_base_on_the_hub_is_written_down_with_its_commit(hub: Hub, tmp_path: Path):
    whole = replace(RECIPE, lora=None)
    base = build(whole)
    repo = hub.repo("ann/base")
    commit = repo.commit({f.name: f.read_bytes() for f in save(base, whole, tmp_path / "base").iterdir()})
    recipe = replace(RECIPE, model=replace(RECIPE.model, base="hub:ann/base"))
    save(build(recipe), recipe, tmp_path / "lens")
    assert load_recipe(tmp_path / "lens").model.base == f"hub:ann/base@{commit}"
    repo.commit({"model.safetensors": b"of something else", "recipe.yaml": b""})
    assert load(tmp_path / "lens").model.state_dict().keys() >= base.model.state_dict().keys()


@pytest.mark.parametrize("how", ["down", "gone", "switched off"])
def test_out_of_reach_the_copy_that_was_taken_last_stands_in(
    how: str, hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from huggingface_hub import constants

    repo = hub.repo("ann/lens", files | {"picture.png": b"is not taken"})
    repo.commit(other(files), "old")
    before, old = weights("hub:ann/lens"), weights("hub:ann/lens@old")
    capsys.readouterr()
    if how == "down":
        hub.down = True
    elif how == "gone":
        hub.stop()
    else:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert weights("hub:ann/lens") == before
    told = capsys.readouterr().err
    assert "HF_HUB_OFFLINE is set" in told if how == "switched off" else "cannot be reached" in told
    assert f"taken is the copy of {repo.branches['main']}" in told
    assert told.count("\n") == 1
    assert weights("hub:ann/lens@old") == old != before
    assert weights(f"hub:ann/lens@{repo.branches['main']}") == before
    with pytest.raises(ValueError, match=r"hub:ann/another: .* and no whole copy of it lies in") as refusal:
        load("hub:ann/another")
    assert "\n" not in str(refusal.value)


def test_half_a_download_is_no_copy(hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between tries
    hub.repo("ann/lens", files)
    hub.short.add("adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"hub:ann/lens: .*broke off; nothing of it is used") as refusal:
        load("hub:ann/lens")
    assert "\n" not in str(refusal.value)
    hub.down = True
    with pytest.raises(ValueError, match="no whole copy"):
        load("hub:ann/lens")
    hub.down, hub.short = False, set()
    assert weights("hub:ann/lens")


def test_wrong_bytes_of_the_right_length_are_found_out(hub: Hub, files: dict[str, bytes]):
    hub.repo("ann/lens", other(files))
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors"):
        load("hub:ann/lens")


HOSTILE = (
    "../escaped.json",
    "/escaped.json",
    "..\\escaped.json",
    "c:escaped.json",
    ".hidden.json",
    "sub/deeper.json",
    "adapter_model.bin",
    "optimizer.pt",
    "run.py",
    "config.json.exe",
)


def test_of_files_only_what_cannot_run_is_taken_and_nothing_beside_the_folder(
    hub: Hub, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    hub.repo("ann/lens", files | dict.fromkeys(HOSTILE, pickle.dumps(print)))
    folder = lora.adapter_folder("hub:ann/lens")
    assert {path.name for path in folder.rglob("*")} == files.keys()
    assert not [path for path in tmp_path.rglob("*") if "escaped" in path.name or path.suffix in (".py", ".bin", ".pt")]
    told = capsys.readouterr().err
    assert "left out '../escaped.json', '..\\\\escaped.json', '.hidden.json'" in told
    assert "and 5 more" in told


def test_a_repository_of_pickles_is_refused_by_name(hub: Hub, files: dict[str, bytes]):
    weights = {"adapter_model.bin": pickle.dumps(print)}
    hub.repo("ann/lens", {"adapter_config.json": files["adapter_config.json"]} | weights)
    with pytest.raises(ValueError, match=r"hub:ann/lens: .*'adapter_model.bin' is a pickle and is not taken"):
        load("hub:ann/lens")
    hub.repo("ann/text", {"README.md": b"# nothing"})
    with pytest.raises(ValueError, match="it holds none"):
        load("hub:ann/text")
    assert not [line for line in hub.asked if "/resolve/" in line]


def test_too_much_is_not_fetched(hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    hub.repo("ann/lens", files)
    monkeypatch.setattr(names, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="1000 bytes are not taken"):
        load("hub:ann/lens")
    assert not [line for line in hub.asked if "/resolve/" in line]


def test_private_ones_need_the_token_which_is_never_shown(
    hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    hub.repo("ann/lens", files).private = True
    monkeypatch.setenv("HF_TOKEN", "hf_a_wrong_one")
    with pytest.raises(ValueError, match="knows no such repository, or shows it only to some") as refusal:
        load("hub:ann/lens")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert weights("hub:ann/lens")
    hub.down = True
    weights("hub:ann/lens")
    said = capsys.readouterr()
    assert "hf_" not in said.out + said.err + str(refusal.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hub:ann", "names nothing on the hub"),
        ("hub:", "names nothing on the hub"),
        ("hub:ann/lens@", "names nothing on the hub"),
        ("hub:../../etc", "names nothing on the hub"),
        ("hub:ann/..", "names nothing on the hub"),
        ("hub:ann/a/b", "names nothing on the hub"),
        ("hub:ann/lens@../../x", "names nothing on the hub"),
        ("hub:ann/lens@a b", "names nothing on the hub"),
        ("hub:ann/none", "knows no such repository"),
        ("hub:ann/lens@v9", "has no revision 'v9'"),
    ],
)
def test_names_that_name_nothing(name: str, why: str, hub: Hub, files: dict[str, bytes], capsys):
    hub.repo("ann/lens", files)
    with pytest.raises(ValueError, match=re.escape(why)) as refusal:
        load(name)
    assert "\n" not in str(refusal.value)
    for words in (["info", name], ["enhance", "in.png", "out.png", "--adapter", name], ["merge", name, "out"]):
        capsys.readouterr()
        assert main(words) == 2
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 1, told
        assert why in told[0]


def test_a_revision_is_of_the_hub_only_and_given_once(hub: Hub, lens: Path):
    with pytest.raises(ValueError, match=r"revision='v1': .* is a folder"):
        load(lens, revision="v1")
    with pytest.raises(ValueError, match="both say a revision"):
        load("hub:ann/lens@v1", revision="v2")
    assert hub.asked == []


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", None)
    with pytest.raises(ValueError, match=r"hub:ann/lens needs .*pip install 'lorgnette\[hub\]'"):
        load("hub:ann/lens")


def test_the_command_line_by_the_environment_alone(hub: Hub, files: dict[str, bytes], tmp_path: Path):
    """As a user has it: HF_ENDPOINT, HF_HUB_CACHE and HF_TOKEN, in a process of its own."""
    commit = hub.repo("ann/lens", files).branches["main"]
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "own"), "HF_TOKEN": hub.token}
    words = [sys.executable, "-m", "lorgnette", "info", "hub:ann/lens"]
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert f"models--ann--lens/snapshots/{commit}" in done.stdout
    assert done.stderr.splitlines() == [f"lorgnette: hub:ann/lens is {commit} now; hub:ann/lens@{commit} stays so"]
