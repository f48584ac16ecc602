"""The script for a GPU: its whole path in a tiny form, and what it says where there is no GPU."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "on_gpu.py"
ALONE = """
import importlib.machinery, runpy, sys

class Hiding(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in REFUSED else super().find_spec(name, path, target)

sys.meta_path[:] = [Hiding if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
sys.path.insert(0, FOLDER)
sys.argv = ["on_gpu.py", *WORDS]
runpy.run_path(FOLDER + "/on_gpu.py", run_name="__main__")
"""
REFUSED = ("accelerate", "jsonargparse", "transformers", "tifffile", "skimage", "scipy", "nibabel", "numba", "onnx")


def table(*words: str, without: tuple[str, ...] = REFUSED) -> list[list[str]]:
    """The lines of the table, where these packages cannot be imported and there is no GPU."""
    given = f"FOLDER, WORDS, REFUSED = {str(SCRIPT.parent)!r}, {words!r}, {without!r}"
    code = f"{given}\n{ALONE}"
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert lines[0] == ["what", "case", "ms", "beside", "peak MB"]
    return lines[1:]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    return table("--tiny", "--out", str(tmp_path_factory.mktemp("out") / "table.md"), without=(*REFUSED, "peft"))


def test_the_whole_path_runs_with_torch_and_the_package_alone(tiny: list[list[str]]):
    assert [line for line in tiny if not float(line[2]) > 0] == []
    assert len(tiny) == 14
    assert {line[0] for line in tiny} == {
        "selective scan", "step with adapters", "LM-LTE", "MambaIR light, x2", "mesh decoder",
    }  # fmt: skip
    beside = {line[0]: line[3] for line in tiny}
    assert "of the floor; " in beside["selective scan"]
    assert beside["step with adapters"].endswith("of the frozen base")
    assert "PEFT" not in beside["step with adapters"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("on_gpu")


def test_without_a_gpu_each_line_says_that_it_was_not_measured(script: Any, tiny: list[list[str]], monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["on_gpu.py"])
    script.main()
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
    assert {tuple(line[2:]) for line in lines} == {("not measured", "no CUDA device", "-")}
    assert {line[0] for line in lines} == {line[0] for line in tiny}
    assert [line[1] for line in lines if line[0] == "mesh decoder"][::2] == [
        "5,000 voxels, float32", "20,000 voxels, float32",
    ]  # fmt: skip


def test_what_is_not_begun_in_time_is_said(script: Any):
    assert {row[3] for row in script.rows("cpu", True, 0)} == {"0 minutes were over"}


def test_a_line_that_fails_says_why_and_leaves_the_others(script: Any, monkeypatch: pytest.MonkeyPatch):
    def broken(device: str) -> Any:
        raise RuntimeError("out of memory\nand much more")

    good = {"it": lambda: None}
    lines = [script.Line("a", "x", broken), script.Line("b", "y", lambda device: good)]
    monkeypatch.setattr(script, "PARTS", [lambda tiny: iter(lines)])
    first, second = script.rows("cpu", True, 1)
    assert first == ("a", "x", "not measured", "RuntimeError: out of memory", "-")
    assert second[:2] == ("b", "y")
    assert float(second[2]) >= 0
