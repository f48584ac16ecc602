"""What is exported answers as the network does, in numbers and in the room's own scores, at sizes it never saw."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.export.conftest import Written
from tests.systems.sixth.recipe import Data, Recipe
from torch import nn

from lorgnette import lora
from lorgnette.export import export, read_manifest
from lorgnette.export.manifest import KEY
from lorgnette.export.onnx import converted
from lorgnette.export.program import traced
from lorgnette.recipe import build
from lorgnette.systems import ROOMS, room
from lorgnette.systems.protocol import Program
from lorgnette.train.task import Task

QUICK = [("superres", ".onnx"), ("clip", ".pt2")]
MATRIX = [
    pytest.param(name, suffix, marks=[] if (name, suffix) in QUICK else [pytest.mark.slow], id=name + suffix)
    for name in ROOMS
    for suffix in (".onnx", ".pt2")
]

Write = Callable[[str, str], Written]


@pytest.mark.parametrize(("name", "suffix"), MATRIX)
def test_the_file_answers_as_the_network(name: str, suffix: str, written: Write):
    file, report, task, _ = written(name, suffix)
    assert len(report.differences) == 5  # sizes that were not there when it was exported
    assert report.difference <= 1e-5
    assert 0 < report.time_ratio < 1e3
    assert report.bytes == file.stat().st_size
    network, exported = report.scores["network"], report.scores["exported"]
    assert exported == pytest.approx(network, rel=1e-4, abs=1e-5)
    assert lora.is_adapted(task)  # as it was
    manifest = read_manifest(file)
    assert manifest is not None
    assert manifest.room == name
    assert manifest.recipe["model"] == json.loads(json.dumps(manifest.recipe["model"]))
    raw = file.read_bytes()
    assert b"site-packages" not in raw
    assert b"src/lorgnette" not in raw


def minus(module: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    return -module(*inputs)


def test_scores_are_the_file_s_own(trained: Any):
    """Not the network's a second time: a program that answers otherwise scores otherwise."""
    for name in ("superres", "clip"):
        task, _, test = trained(name)
        program = room(name).program(task)
        right, wrong = (program.answering(run) for run in (program.module, partial(minus, program.module)))
        with torch.no_grad():
            wanted = task.eval().predict(test[0])
            assert (right.predict(test[0]) - wanted).abs().max() <= 1e-5
            assert (wrong.predict(test[0]) - wanted).abs().max() > 0.1


# ------------------------------------------------------------------------------------------------ exporters' own faults


def of_module(module: nn.Module, example: Callable[[int], tuple[torch.Tensor, ...]], free: dict[int, str]) -> Program:
    return Program(module.eval(), {"x": free}, "y", example, lambda run: Task())


class Guarded(nn.Module):
    def forward(self, x):
        return x / (x.abs() + 1e-9)


def test_small_numbers_are_no_zeros(tmp_path: Path):
    """onnxscript's rules take `x + 1e-9` for `x`."""
    import onnxruntime

    program = of_module(Guarded(), lambda number: (torch.zeros(2 + number, 3),), {0: "n"})
    session = onnxruntime.InferenceSession(converted(program).SerializeToString())
    assert np.isfinite(session.run(None, {"x": np.zeros((5, 3), np.float32)})[0]).all()


def test_axes_bear_the_room_s_names(written: Write):
    import onnx

    model = onnx.load(str(written("superres", ".onnx").file))
    found = {entry.name: [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]
             for entry in model.graph.input}  # fmt: skip
    assert found == {"image": ["n", 3, "height", "width"], "y": ["rows"], "x": ["columns"], "cell": [2]}
    assert [entry.key for entry in model.metadata_props] == [KEY]
    onnx.checker.check_model(model, full_check=True)


class FixedRows(nn.Module):
    def forward(self, x):
        return x * torch.tensor([float(len(x))])


def test_a_size_that_the_network_fixes_is_refused():
    program = of_module(FixedRows(), lambda number: (torch.zeros(2 + number, 3),), {0: "n"})
    with pytest.raises(ValueError, match=r"^torch\.export cannot express this network: ") as refusal:
        traced(program)
    assert "\n" not in str(refusal.value)


# --------------------------------------------------------------------------------------------------------- refusals


def lines_task() -> tuple[Task, Recipe]:
    recipe = Recipe(data=Data())
    return build(recipe), recipe


@pytest.fixture(autouse=True)
def sixth_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROOMS, "sixth", "tests.systems.sixth")


def test_a_new_room_is_exported_with_ten_lines_of_its_own(tmp_path: Path):
    task, recipe = lines_task()
    report = export(task, recipe, tmp_path / "lines.onnx")
    assert report.difference <= 1e-6
    assert report.scores == {}


def test_hashes_tell_weights_apart_and_folders_stay_at_home(tmp_path: Path):
    task, recipe = lines_task()
    found = []
    for name, root in (("a.pt2", None), ("b.pt2", "/home/somebody/patients")):
        export(task, replace(recipe, data=Data(root=root)), tmp_path / name)
        found.append(read_manifest(tmp_path / name))
        assert b"somebody" not in (tmp_path / name).read_bytes()
    with torch.no_grad():
        next(p for name, p in task.named_parameters() if "lora_B" in name).add_(1e-3)
    export(task, recipe, tmp_path / "c.pt2")
    found.append(read_manifest(tmp_path / "c.pt2"))
    one, other, changed = (manifest.weights for manifest in found)
    assert one == other != changed


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path: Path):
    task, recipe = lines_task()
    with pytest.raises(ValueError, match=r"^.*lines\.onnx: not written: its answers differ by .* \(points \dx4\)"):
        export(task, recipe, tmp_path / "lines.onnx", tolerance=-1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "format", "said"),
    [
        ("a.tflite", None, r"a\.tflite: its suffix says no format; there is \.onnx \(onnx\), \.pt2 \(program\), "),
        ("a.onnx", "program", r"a\.onnx: a program file ends in \.pt2"),
        ("a.onnx", "onxn", r"format: 'onxn' is not known; onnx, program, torchscript, executorch, inductor are"),
    ],
)
def test_formats_that_do_not_do(file: str, format: str | None, said: str, tmp_path: Path):
    task, recipe = lines_task()
    with pytest.raises(ValueError, match=said):
        export(task, recipe, tmp_path / file, format)
    assert list(tmp_path.iterdir()) == []


def test_another_shape_is_no_small_difference(tmp_path: Path):
    from lorgnette.export.parity import differences

    program = room("sixth").program(lines_task()[0])
    with pytest.raises(ValueError, match=r"gives \(2, 1\) where the network gives \(3, 1\)"):
        differences(program, lambda points: program.module(points)[1:])
    assert all(
        value == float("inf") for value in differences(program, lambda x: program.module(x) * torch.nan).values()
    )
    found = differences(program, lambda x: program.module(x) + 0.5)
    assert list(found) == [f"points {n}x4" for n in range(3, 8)]
    assert all(value == pytest.approx(0.5, rel=1e-3) or value < 0.5 for value in found.values())
    assert max(found.values()) > 0.1
