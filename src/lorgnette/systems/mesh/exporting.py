"""The decoder as a function of tensors alone, for export: voxels of one organ in, values of the fine cubes out.

What follows from the places of the voxels (`trunk.places`) is an input; the surface (`flexicubes.extract`) is found
outside.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lorgnette.common.modules import with_functions, with_module
from lorgnette.systems.mesh.samples import collate, make_sample
from lorgnette.systems.mesh.task import MeshDecoding
from lorgnette.systems.mesh.trunk import Trunk, places
from lorgnette.systems.protocol import Program
from lorgnette.train.task import Task

HALF_AXES = ((9, 7, 8), (6, 10, 10), (8, 8, 8), (10, 6, 7), (7, 9, 6), (10, 10, 9))
"""Of the ellipsoids that the examples are of, in voxels of 2 mm."""
FREE = {"feats": {0: "voxels"}, "coords": {0: "voxels"}, "neighbours": {0: "voxels"}, "children": {0: "children"},
        "grandchildren": {0: "grandchildren"}, "voxels": {0: "windows", 1: "length"},
        "inside": {0: "windows", 1: "length"}, "place": {0: "voxels"},
        "shifted_voxels": {0: "shifted_windows", 1: "shifted_length"},
        "shifted_inside": {0: "shifted_windows", 1: "shifted_length"}, "shifted_place": {0: "voxels"}}  # fmt: skip


def program(task: MeshDecoding) -> Program:
    """See `lorgnette.systems.protocol.Room`."""
    model, settings = task.decoder, task.data

    def example(number: int) -> tuple[Tensor, ...]:
        grid = np.indices((24, 24, 24)) - 11.5
        half_axes = np.array(HALF_AXES[number % len(HALF_AXES)]).reshape(3, 1, 1, 1)
        mask = ((grid / half_axes) ** 2).sum(0) < 1
        scan = np.where(mask, 160.0, -80.0)
        sample = make_sample(
            mask, np.diag([2.0, 2, 2, 1]), scan, settings.resolution, settings.features, settings.window
        )
        batch = collate([sample])
        return batch["feats"], *places(model, batch["coords"])

    def answering(run: Callable[..., Tensor]) -> Task:
        def forward(coords: Tensor, feats: Tensor) -> tuple[None, Tensor]:
            values = []
            for item in coords[:, 0].unique():
                rows = coords[:, 0] == item
                own = coords[rows] * coords.new_tensor([0, 1, 1, 1])
                values.append(run(feats[rows], *places(model, own)))
            return None, torch.cat(values)

        return with_module(task, "model", with_functions(model, forward=forward))

    def free(name: str, given: Tensor) -> dict[int, str]:
        # Where a window spans the whole grid there is never more than one: an axis of length 1.
        return {axis: length for axis, length in FREE[name].items() if given.shape[axis] > 1}

    return Program(
        module=Trunk(model),
        inputs={name: free(name, given) for name, given in zip(FREE, example(0), strict=True)},
        output="values",
        example=example,
        answering=answering,
        facts={"resolution": model.resolution},
    )
