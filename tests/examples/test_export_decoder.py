"""The exported programs answer as the decoder with its adapter, for an organ of another number of voxels."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed)
FILE = Path(__file__).parents[2] / "examples" / "export_decoder.py"


@pytest.mark.slow
def test_programs_answer_as_the_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spec = importlib.util.spec_from_file_location("export_decoder", FILE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    reports = example.main(["--out", str(tmp_path)])
    assert sorted(path.suffix for path in tmp_path.iterdir()) == sorted(reports) == [".onnx", ".pt2", ".ts"]
    for report in reports.values():
        assert report.difference < 1e-4
        assert len({sizes.split(",")[0] for sizes in report.differences}) >= 3  # organs of other numbers of voxels
    assert len(capsys.readouterr().out.splitlines()) == 3
