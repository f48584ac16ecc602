"""The exported mapping answers as `rotate` does, for any number of faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.systems.faceview.test_model import shake

from lorgnette import build, lora
from lorgnette.export import export
from lorgnette.systems import faceview

for needed in ("onnx", "onnxscript"):
    pytest.importorskip(needed)
onnxruntime = pytest.importorskip("onnxruntime")


def a_task(**model) -> tuple[faceview.FaceMapping, faceview.Recipe]:
    sizes = {"d_model": 64, "nhead": 4, "num_layers": 2, "dim_feedforward": 32, "allow_untrained": True, **model}
    recipe = faceview.Recipe(model=faceview.Model(**sizes))
    task = build(recipe)
    assert isinstance(task, faceview.FaceMapping)
    shake(task.model)
    return task, recipe


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [{}, {"projection": True, "voxel_resolution": 6}, {"keypoints": False, "gate": "none", "num_tokens": 1}]
)
def test_the_file_answers_as_the_network(model: dict, tmp_path: Path):
    task, recipe = a_task(**model)
    assert export(task, recipe, tmp_path / "mapping.onnx").difference <= 1e-5
    assert lora.is_adapted(task)  # as it was
    session = onnxruntime.InferenceSession(str(tmp_path / "mapping.onnx"))
    views = faceview.invented(1, 7)["0-0000"].video
    embedding, target = views.embedding[:, :64] * 20, np.tile(np.float32([0.1, 0.4, 0]), (7, 1))
    given = {"embedding": embedding, "pose": views.pose, "target": target, "kps3d": views.keypoints}
    given = {i.name: given[i.name] for i in session.get_inputs()}
    wanted = faceview.rotate(task, embedding, views.pose, target, keypoints=views.keypoints)
    assert np.abs(session.run(None, given)[0] - wanted.numpy()).max() <= 1e-5
    assert ("kps3d" in given) == task.recipe.model.keypoints


def test_a_pose_is_still_looked_at():
    """Nothing of the check is in a program, but the network has it after an export as before."""
    task, _ = a_task()
    program = faceview.program(task)
    torch.export.export(program.module, program.example(0))
    with pytest.raises(ValueError, match="are these degrees"):
        task.map(torch.randn(1, 64), torch.tensor([[0.0, 60, 0]]), torch.randn(1, 5, 3))
