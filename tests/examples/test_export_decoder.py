"""The exported programs answer as the decoder with its adapter, for an organ of another number of voxels."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import pytest

for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed)
FILE = Path(__file__).parents[2] / "examples" / "export_decoder.py"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporters: what is deprecated in them
def test_programs_answer_as_the_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spec = importlib.util.spec_from_file_location("export_decoder", FILE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    sizes = [len(example.organ(axes, 4)[0]) for axes in ((9, 7, 8), (6, 10, 10))]
    assert sizes[0] != sizes[1]
    with warnings.catch_warnings():
        apart = example.main(["--out", str(tmp_path)])
    assert set(apart) == {"torch.export", "ONNX", "TorchScript"}
    assert max(apart.values()) < 1e-4
    assert "values up to 0.00" not in capsys.readouterr().out
