"""The mapping as an ONNX file answers as the network does, for any number of faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.systems.faceview.test_model import shake

from lorgnette import build, lora
from lorgnette.systems import faceview
from lorgnette.systems.faceview import exporting

onnxruntime = pytest.importorskip("onnxruntime")


def a_task(**model) -> faceview.FaceMapping:
    sizes = {"d_model": 64, "nhead": 4, "num_layers": 2, "dim_feedforward": 32, "allow_untrained": True, **model}
    task = build(faceview.Recipe(model=faceview.Model(**sizes)))
    assert isinstance(task, faceview.FaceMapping)
    shake(task.model)
    return task


@pytest.mark.parametrize(
    "model", [{}, {"projection": True, "voxel_resolution": 6}, {"keypoints": False, "gate": "none", "num_tokens": 1}]
)
def test_the_file_answers_as_the_network(model: dict, tmp_path: Path):
    task = a_task(**model)
    assert faceview.to_onnx(task, tmp_path / "mapping.onnx") <= 1e-5
    assert lora.is_adapted(task)  # as it was
    session = onnxruntime.InferenceSession(str(tmp_path / "mapping.onnx"))
    views = faceview.invented(1, 7)["0-0000"].video
    embedding, target = views.embedding[:, :64] * 20, np.tile(np.float32([0.1, 0.4, 0]), (7, 1))
    given = {"embedding": embedding, "pose": views.pose, "target": target, "kps3d": views.keypoints}
    given = {i.name: given[i.name] for i in session.get_inputs()}
    wanted = faceview.rotate(task, embedding, views.pose, target, keypoints=views.keypoints)
    assert np.abs(session.run(None, given)[0] - wanted.numpy()).max() <= 1e-5
    assert ("kps3d" in given) == task.recipe.model.keypoints


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match=r"answers differ by .* from the network's"):
        faceview.to_onnx(a_task(), tmp_path / "mapping.onnx")
    assert list(tmp_path.iterdir()) == []


def test_names_that_do_not_do(tmp_path: Path):
    with pytest.raises(ValueError, match=r"an \.onnx file is written"):
        faceview.to_onnx(a_task(), tmp_path / "mapping.pt")


def test_a_pose_is_still_looked_at(tmp_path: Path):
    """Nothing of the check is in the file, but the network has it after an export as before."""
    task = a_task()
    faceview.to_onnx(task, tmp_path / "mapping.onnx")
    with pytest.raises(ValueError, match="are these degrees"):
        task.map(torch.randn(1, 64), torch.tensor([[0.0, 60, 0]]), torch.randn(1, 5, 3))
