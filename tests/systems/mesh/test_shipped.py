"""The decoder that ships: what it is, and that it decodes."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from lorgnette import build, evaluate
from lorgnette.systems import mesh
from lorgnette.systems.mesh.samples import collate, make_sample
from lorgnette.systems.mesh.volumes import read_image, read_labels
from lorgnette.systems.mesh.weights import SHIPPED

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("LORGNETTE_DATA", ROOT.parent / "shared" / "data"))
CASE = DATA / "medical" / "totalsegmentator" / "example_ct"
needs_data = pytest.mark.skipif(not CASE.is_dir(), reason=f"needs the volumes in {CASE} (set LORGNETTE_DATA)")


def test_it_is_small_and_its_card_says_what_it_is():
    size = (SHIPPED / "model.safetensors").stat().st_size
    task = build(mesh.Recipe(lora=None))
    count = sum(parameter.numel() for parameter in task.parameters())
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert size < 4_000_000
    assert f"{size:,} bytes" in card
    assert f"{count:,} parameters" in card


def test_another_size_has_no_shipped_weights():
    with pytest.raises(ValueError, match=r"model\.base: the shipped weights are of the size 'small', not 'tiny'"):
        build(mesh.Recipe(model=mesh.Model(size="tiny")))


def test_a_bright_ball_is_found():
    grid = np.indices((30, 30, 30)) - 14.5
    mask = (grid**2).sum(0) < 11**2
    task = build(mesh.Recipe(lora=None))
    found = mesh.decode(task, mask, np.diag([3.0, 3, 3, 1]), np.where(mask, 110.0, -80.0))
    assert found.volume == pytest.approx(mask.sum() * 27, rel=0.1)


@needs_data
@pytest.mark.parametrize(("organ", "least"), [("kidney_left", 0.86), ("spleen", 0.95), ("femur_right", 0.92)])
def test_organs_of_the_card(organ: str, least: float):
    scan = read_image(CASE / "example_ct.nii.gz")
    labels = read_labels(CASE / "example_seg_fast_force_split.nii.gz", only=[organ])
    mask = labels.whole(labels.organs[0])
    task = build(mesh.Recipe(lora=None))
    batch = collate([make_sample(mask, scan.affine, scan.values, task.data.resolution)])
    assert evaluate(task, [batch])["dice"] > least


@needs_data
@pytest.mark.slow
def test_an_adapter_of_a_lung_helps_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("LORGNETTE_DATA", str(DATA))
    words = ["--adapt", "lung_lower_lobe_right", "--test", "lung_lower_lobe_left", "--steps", "25", "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", ["mesh_lora.py", *words, "--json", str(tmp_path / "rows.json")])
    importlib.import_module("mesh_lora").main()
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["gain"] >= 0.05
    assert row["share of parameters"] < 0.005
    assert row["adapter bytes"] < 0.01 * (SHIPPED / "model.safetensors").stat().st_size
    assert row["merged differs by"] < 1e-5
