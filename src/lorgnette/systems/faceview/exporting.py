"""The whole mapping as an ONNX file, to plug behind a recogniser."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.common.files import atomic_write
from lorgnette.systems.faceview.task import FaceMapping

OPSET = 20  # the first with a sampler of volumes
TOLERANCE = 1e-5


class _Program(nn.Module):
    """Embeddings of any length in, of length 1 out."""

    def __init__(self, task: FaceMapping):
        super().__init__()
        self.model, self.unit = task.model, task.model.angle_unit  # pyright: ignore[reportAttributeAccessIssue]
        self.keypoints = task.recipe.model.keypoints

    def forward(self, embedding: Tensor, pose: Tensor, target: Tensor, kps3d: Tensor | None = None) -> Tensor:
        unit = F.normalize(embedding, dim=-1)
        mapped = self.model(unit, pose, kps3d if self.keypoints else None, target, return_residual=False)
        return F.normalize(mapped, dim=-1)


def to_onnx(task: FaceMapping, file: str | os.PathLike[str]) -> float:
    """Write the mapping, adapters folded in, and compare it with the network on random inputs.

    Inputs are `embedding` (N, D), `pose` (N, 3) and `target` (N, 3) in radians, pitch, yaw, roll, and, of a network
    that wants them, `kps3d` (N, 5, 3), about their centre, with a root mean square distance of 1; the output is
    `mapped` (N, D). N is free.

    Args:
        task: from `lorgnette.load`; it stays as it is.
        file: ends in .onnx.

    Returns:
        The largest difference of any number of the outputs, over batches of 1, 2 and 5.

    Raises:
        ValueError: ONNX is not installed, or the file answers otherwise than the network.
    """
    file = Path(file)
    if file.suffix != ".onnx":
        raise ValueError(f"{file}: an .onnx file is written; name it so")
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise ValueError("ONNX is not installed: pip install 'lorgnette[faceview]'") from None
    plain = copy.deepcopy(task).cpu().eval()
    lora.merge_lora_weights(plain.model)
    program = _Program(plain).eval()
    names = ["embedding", "pose", "target", *(["kps3d"] if program.keypoints else [])]
    with atomic_write(file) as temporary:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter(
                "ignore"
            )  # the exporter that reads a trace is deprecated; the other has no free N here
            torch.onnx.export(
                program,
                tuple(_inputs(task, 2, len(names))),
                str(temporary),
                input_names=names,
                output_names=["mapped"],
                dynamic_axes={name: {0: "n"} for name in (*names, "mapped")},
                opset_version=OPSET,
                dynamo=False,
            )
        onnx.checker.check_model(str(temporary))
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        worst = max(_difference(program, session, task, n, names) for n in (1, 2, 5))
        if not worst <= TOLERANCE:
            raise ValueError(
                f"{file}: the file's answers differ by {worst:.1e} from the network's; {TOLERANCE} is allowed"
            )
    return worst


def _inputs(task: FaceMapping, n: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    shapes = [(n, task.recipe.model.d_model), (n, 3), (n, 3), (n, 5, 3)][:count]
    return [torch.randn(shape, generator=generator) for shape in shapes]


@torch.no_grad()
def _difference(program: _Program, session: object, task: FaceMapping, n: int, names: list[str]) -> float:
    given = _inputs(task, n, len(names))
    answers = session.run(None, {k: x.numpy() for k, x in zip(names, given, strict=True)})  # type: ignore[attr-defined]
    return float((torch.from_numpy(answers[0]) - program(*given)).abs().max())
