"""Meshes, classes and training over the API: as the command line has them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.cli.pictures import picture

from lorgnette.cli import main


def png(side: int = 64, seed: int = 0) -> bytes:
    out = io.BytesIO()
    picture(side, seed).save(out, "PNG")
    return out.getvalue()


def ask(client: httpx.Client, verb: str, body: bytes, **asked: Any) -> httpx.Response:
    return client.post(f"/api/{verb}", params=asked | {"wait": True}, content=body)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """Two boxes that touch."""
    nibabel = pytest.importorskip("nibabel", reason="needs the extra 'mesh'")
    values = np.zeros((18, 16, 14), np.uint8)
    values[3:9, 3:12, 3:11] = 1
    values[9:14, 3:12, 3:11] = 2
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2, 3, 1])), tmp_path / "seg.nii.gz")
    return tmp_path / "seg.nii.gz"


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], {"format": "stl"}),
        (["--only", "2"], {"format": "obj", "only": ["2"]}),
        (["--walls", "own", "--largest"], {"format": "ply", "walls": "own", "largest": True}),
        (["--error", "0.5"], {"format": "glb", "error": 0.5}),
    ],
)
def test_a_mesh_is_the_command_line_s(client: httpx.Client, mask: Path, words: list[str], asked: dict[str, Any]):
    out = mask.parent / f"out.{asked['format']}"
    assert main(["mesh", str(mask), "-o", str(out), *words]) == 0
    answer = ask(client, "mesh", mask.read_bytes(), name="seg.nii.gz", **asked)
    assert answer.status_code == 200, answer.text
    assert answer.content == out.read_bytes()
    assert f'filename="seg.{asked["format"]}"' in answer.headers["content-disposition"]


def test_a_mask_that_does_not_work_is_refused(client: httpx.Client, mask: Path):
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.zeros((300, 300, 30), np.uint8), np.eye(4)), mask.parent / "large.nii.gz")
    for body, asked, complaint in (
        (mask.read_bytes()[:100], {}, "no whole NIfTI"),
        ((mask.parent / "large.nii.gz").read_bytes(), {}, "up to 20,000 are read"),
        (mask.read_bytes(), {"only": "spleen"}, "there is no 'spleen'"),
        (mask.read_bytes(), {"error": 1, "walls": "shared"}, "shared_walls"),
        (mask.read_bytes(), {"triangles": 100}, "error"),
    ):
        answer = ask(client, "mesh", body, name="seg.nii.gz", **asked)
        assert answer.status_code == 400
        assert complaint in answer.json()["detail"]


@pytest.fixture(scope="module")
def digits(lenses: Path) -> Path:
    """A whole tiny classifier among what is offered."""
    from dataclasses import replace

    from lorgnette import build, save
    from lorgnette.systems import clip

    recipe = replace(clip.tiny()[0], lora=None)
    return save(build(recipe), recipe, lenses / "digits")


@pytest.mark.slow
def test_classes_are_the_command_line_s(client: httpx.Client, digits: Path, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png())
    words = ["classify", str(tmp_path / "a.png"), "--adapter", str(digits), "--device", "cpu", "--top", "3"]
    assert main([*words, "--json", str(tmp_path / "out.json")]) == 0
    (expected,) = json.loads((tmp_path / "out.json").read_text())["pictures"].values()
    found = ask(client, "classify", png(), adapter="digits", top=3).json()["found"]["labels"]
    assert [one["name"] for one in found] == [one["name"] for one in expected]
    assert [one["probability"] for one in found] == pytest.approx([one["probability"] for one in expected], abs=1e-6)


@pytest.mark.slow
def test_classes_by_name_alone(client: httpx.Client):
    answer = ask(client, "classify", png(), classes=["circle", "star"])
    assert answer.status_code == 200, answer.text
    found = answer.json()["found"]["labels"]
    assert {one["name"] for one in found} == {"circle", "star"}
    assert sum(one["probability"] for one in found) == pytest.approx(1)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({}, "classes: not set"),
        ({"adapter": "warm"}, "there is no 'warm'"),
        ({"adapter": "digits", "classes": "a"}, "leave one of the two out"),
        ({"classes": ["a", "b"], "prompt": "no place"}, "prompt"),
    ],
)
def test_what_no_class_can_be_told_by_is_refused(client: httpx.Client, asked: dict[str, Any], complaint: str):
    answer = ask(client, "classify", png(), **asked)
    assert answer.status_code == 400
    assert complaint in answer.json()["detail"]


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return out.getvalue()


@pytest.mark.slow
def test_photographs_become_an_adapter_that_is_offered_and_taken_away(client: httpx.Client, tmp_path: Path):
    photographs = zipped({f"holiday/{n}.png": png(96, n) for n in range(4)} | {"notes.txt": b"by the sea"})
    answer = ask(client, "adapt", photographs, minutes=1, keep="sea")
    assert answer.status_code == 200, answer.text
    (tmp_path / "sea.zip").write_bytes(answer.content)
    with zipfile.ZipFile(tmp_path / "sea.zip") as archive:
        archive.extractall(tmp_path)
    assert "/" not in (tmp_path / "sea" / "recipe.yaml").read_text().partition("root:")[2].partition("\n")[0]
    assert {"name": "sea", "room": "superres", "ships": False} in client.get("/api/adapters").json()
    (tmp_path / "small.png").write_bytes(png(40))
    words = [str(tmp_path / "small.png"), str(tmp_path / "out.png"), "--adapter", str(tmp_path / "sea")]
    assert main(["enhance", *words, "--device", "cpu"]) == 0
    assert ask(client, "enhance", png(40), adapter="sea").content == (tmp_path / "out.png").read_bytes()


@pytest.mark.slow
def test_a_training_says_how_it_goes_and_stops_when_it_is_enough(client: httpx.Client):
    import time

    body = zipped({f"{n}.png": png(96, n) for n in range(4)})
    job = client.post("/api/adapt", params={"minutes": 5, "keep": "early"}, content=body).json()
    until = time.monotonic() + 120
    while time.monotonic() < until:
        job = client.get(f"/api/jobs/{job['id']}").json()
        if sum("loss" in point for point in job["points"]) > 1:
            break
        time.sleep(0.2)
    assert job["state"] == "running"
    assert job["seconds_left"] > 0
    assert client.post(f"/api/jobs/{job['id']}/enough").status_code == 202
    while job["state"] == "running" and time.monotonic() < until:
        job = client.get(f"/api/jobs/{job['id']}").json()
        time.sleep(0.1)
    assert (job["state"], job["files"]) == ("done", ["early.zip"])
    assert "Interrupted at step" in job["said"][1]


@pytest.mark.parametrize(
    ("body", "asked", "complaint"),
    [
        (b"no zip", {}, "is no whole zip file"),
        (zipped({"a.txt": b"text"}), {}, "holds 0 pictures; 1 to 4 work"),
        (zipped({f"{n}.png": png(16) for n in range(5)}), {}, "holds 5 pictures"),
        (zipped({"bomb.png": bytes(1_000_000)}), {}, "bomb.png unpacks to more"),
        (zipped({"../../evil.png": png(20)}), {}, "one image only"),
        (png(), {"minutes": 6}, "up to 5 work"),
        (png(), {"room": "mesh"}, "superres or restore is"),
        (png(), {"damage": "rust"}, "data.damage"),
        (png(), {"keep": "auto"}, "meaning of its own"),
    ],
)
def test_what_nothing_can_be_learnt_from_is_refused(
    client: httpx.Client, body: bytes, asked: dict[str, Any], complaint: str
):
    answer = ask(client, "adapt", body, **asked)
    assert answer.status_code == 400, answer.text
    assert complaint in answer.json()["detail"]


def test_results_come_as_a_zip(client: httpx.Client):
    jobs = []
    for seed in range(2):
        asked = {"adapter": "warm", "name": "same.png"}
        jobs.append(client.post("/api/enhance", params=asked, content=png(30, seed)).json()["id"])
    for id in jobs:
        while client.get(f"/api/jobs/{id}").json()["state"] != "done":
            pass
    answer = client.get("/api/zip", params={"job": jobs})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["same.png", "same-2.png"]
        assert archive.read("same-2.png") == client.get(f"/api/jobs/{jobs[1]}/files/same.png").content
    client.delete(f"/api/jobs/{jobs[0]}")
    assert client.get("/api/zip", params={"job": jobs}).status_code == 404
