"""The demo in miniature: real photographs cut small, the shipped network, a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lorgnette import demo, load
from lorgnette.cli import main
from lorgnette.images.file import read_image
from lorgnette.train.listeners import MetricsFile, read_metrics


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> demo.Outcome:
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "LARGEST", 128)
        found = demo.run(
            tmp_path_factory.mktemp("demo") / "out",
            full=True,
            steps=3,
            listeners=lambda folder: [MetricsFile(folder.metrics_file)],
            say=said.append,
        )
    assert any("Gaussian blur" in line for line in said)
    return found


def test_every_method_has_its_row(outcome: demo.Outcome):
    methods = ["bicubic", "bicubic after non-local means", "frozen base", "LoRA", "LoRA, merged", "full fine-tuning"]
    assert [row.method for row in outcome.rows] == methods
    lora, full = outcome.row("LoRA"), outcome.row("full fine-tuning")
    assert lora.trained <= 0.08 * outcome.base_parameters
    assert lora.file_bytes <= 300_000
    assert full.trained == outcome.base_parameters - 24  # the two fixed colour shifts of EDSR
    assert outcome.row("LoRA, merged").metrics["psnr"] == pytest.approx(lora.metrics["psnr"], abs=0.01)
    assert lora.metrics["psnr"] != outcome.row("frozen base").metrics["psnr"]


def test_what_it_writes_can_be_used(outcome: demo.Outcome):
    load(outcome.adapter)
    small = read_image(outcome.enlarged.parent / "images" / "test" / "photos" / "chelsea.png").pixels
    assert read_image(outcome.enlarged).pixels.shape[:2] == tuple(round(3.3 * n) for n in small.shape[:2])
    assert read_image(outcome.comparison).pixels.shape[1] > 5 * 200
    assert read_image(outcome.any_picture).pixels.shape[1] > 4 * 160, "given, base, chosen by looking, truth"
    assert "non-local means" in outcome.report.read_text()
    steps = [line for line in read_metrics(outcome.adapter.parent / "metrics.jsonl") if line["event"] == "step"]
    assert [line["step"] for line in steps] == [1, 2, 3]


def test_info_says_what_the_adapter_learnt(outcome: demo.Outcome, capsys: pytest.CaptureFixture[str]):
    learnt = json.loads((outcome.adapter / "training.json").read_text())
    assert learnt["before"] == outcome.row("frozen base").metrics
    assert learnt["after"] == outcome.row("LoRA").metrics
    assert (learnt["samples"], learnt["steps"], learnt["best_step"]) == (len(demo.TRAINING_SCENES), 3, 3)
    assert learnt["improved"] == (learnt["after"]["psnr"] > learnt["before"]["psnr"])
    assert main(["info", str(outcome.adapter)]) == 0
    assert f"{learnt['after']['psnr']:.2f}" in capsys.readouterr().out


def test_no_scene_is_on_both_sides():
    assert not set(demo.TRAINING_SCENES) & set(demo.HELD_OUT_SCENES)
    sides = [name in demo.TRAINING_SCENES for name in ("motorcycle_left", "motorcycle_right")]
    assert sides in ([True, True], [False, False])  # two views of one scene


def test_photographs_differ_by_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "LARGEST", 64)
    camera = demo.Camera()
    photos = [
        read_image(Path(demo.photograph(tmp_path / name, camera, seed).lr or "") / "astronaut.png").pixels
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert np.array_equal(photos[0], photos[1])
    assert not np.array_equal(photos[0], photos[2])
