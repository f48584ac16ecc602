"""The mapping as a function of tensors, for export: to plug behind a recogniser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.common.modules import with_functions
from lorgnette.systems.faceview.task import FaceMapping
from lorgnette.systems.protocol import Program
from lorgnette.train.task import Task


class Mapping(nn.Module):
    """embedding (N, D) of any length, pose and target (N, 3) in radians: pitch, yaw, roll, and, of a network that wants
    them, kps3d (N, 5, 3), about their centre, with a root mean square distance of 1 -> (N, D) of length 1."""

    def __init__(self, task: FaceMapping):
        super().__init__()
        self.task = task

    def forward(self, embedding: Tensor, pose: Tensor, target: Tensor, kps3d: Tensor | None = None) -> Tensor:
        return self.task.map(F.normalize(embedding, dim=-1), pose, kps3d, target)


def program(task: FaceMapping) -> Program:
    """See `lorgnette.systems.protocol.Room`."""
    model: Any = task.model
    names = ["embedding", "pose", "target", *(["kps3d"] if task.recipe.model.keypoints else [])]

    def example(number: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(number)
        n = (2, 1, 3, 5, 8, 64)[number % 6]
        shapes = [(n, model.d_model), (n, model.pose_dim), (n, model.pose_dim), (n, 5, 3)][: len(names)]
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)

    def answering(run: Callable[..., Tensor]) -> Task:
        def mapped(src: Tensor, angles: Tensor, keypoints: Tensor | None, pose: Tensor | None = None) -> Tensor:
            target = torch.zeros_like(angles) if pose is None else pose
            return run(*[x for x in (src, angles, target, keypoints)[: len(names)] if x is not None])

        return with_functions(task, map=mapped)

    return Program(
        module=Mapping(task),
        inputs={name: {0: "n"} for name in names},
        output="mapped",
        example=example,
        answering=answering,
        facts={"poses": "radians: pitch, yaw, roll"},
    )
