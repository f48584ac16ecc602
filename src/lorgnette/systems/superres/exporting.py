"""The enlargement as a function of tensors alone, for export: any size of picture, any size of result."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.common.modules import with_functions, with_module
from lorgnette.images.waves import waves
from lorgnette.nn.loop import loop
from lorgnette.systems.protocol import OnPictures, Program
from lorgnette.systems.superres.coords import axis_coords
from lorgnette.systems.superres.decoders import ContinuousImage, LMCiaoSR
from lorgnette.systems.superres.model import TRAINED_SCALE, from_network, render_cell, to_network
from lorgnette.systems.superres.predict import BLEND, MAX_SCALE, MIN_SCALE, TILE
from lorgnette.systems.superres.recipe import ABOUT
from lorgnette.systems.superres.task import SuperResolution
from lorgnette.train.task import Task

SIZES = ((24, 28, 50, 70), (24, 24, 48, 48), (17, 31, 56, 102), (40, 21, 160, 84), (33, 50, 33, 77), (12, 16, 150, 99))
"""h, w, H and W of the examples: factors whole and not, equal for both axes and not, and beyond those of training."""
ROWS = 64
"""Rendered at a time, at most, where their number is fixed: each turn is written out, and costs seconds to lower."""


class Enlargement(nn.Module):
    """What `ContinuousImage.render_window` does, as one graph: rows are rendered in a loop.

    image (B, 3, h, w) in [0, 1], y (H,), x (W,), cell (2,) -> (B, 3, H, W), not clamped.
    """

    def __init__(self, model: ContinuousImage):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, y: Tensor, x: Tensor, cell: Tensor) -> Tensor:
        model, b = self.model, image.shape[0]
        inp, y, x, cell = model.grid_in_windows(to_network(image), y, x, cell)
        mod = model.modulations(model.encoder(inp), cell.expand(b, 2))

        def rows(carried: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            coord = torch.stack(torch.meshgrid(at, x, indexing="ij"), -1).flatten(0, 1)
            return carried.clone(), model._query(mod, coord.expand(b, -1, -1), cell.expand(b, 2))

        count = y.shape[0]  # a number where the size is fixed
        at_a_time = max(n for n in range(1, ROWS + 1) if count % n == 0) if isinstance(count, int) else 1
        _, colours = loop(rows, torch.zeros(1), [y.unflatten(0, (-1, at_a_time))])
        assert colours is not None
        colours = colours.unflatten(2, (at_a_time, -1)).permute(1, 4, 0, 2, 3).flatten(2, 3)
        if not model.skip:
            return from_network(colours)
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).expand(b, -1, -1, 2)
        skip = F.grid_sample(inp, grid.flip(-1), padding_mode="border", align_corners=False)
        return from_network(colours + skip)


def program(task: SuperResolution) -> Program:
    """See `lorgnette.systems.protocol.Room`.

    Raises:
        ValueError: the network is of LM-CiaoSR, whose attention looks at blocks of the picture.
    """
    model = cast(ContinuousImage, task.model)
    if isinstance(model, LMCiaoSR):
        raise ValueError("model: lm-ciaosr cannot be exported for pictures of any size; other methods can")

    def example(number: int) -> tuple[Tensor, ...]:
        h, w, *size = SIZES[number % len(SIZES)]
        return _inputs(waves((2 if number == 0 else 1, 3, h, w), number), (size[0], size[1]))

    def answering(run: Callable[..., Tensor]) -> Task:
        def render(inp: Tensor, size: tuple[int, int]) -> Tensor:
            return to_network(run(*_inputs(from_network(inp), size)))

        return with_module(task, "model", with_functions(model, render=render))

    return Program(
        module=Enlargement(model),
        inputs={"image": {0: "n", 2: "height", 3: "width"}, "y": {0: "rows"}, "x": {0: "columns"}, "cell": {}},
        output="enlarged",
        example=example,
        answering=answering,
        pictures=OnPictures(
            tile=TILE,
            halo=model.receptive_radius,
            blend=BLEND,
            align=model.encoder.window,
            usual_scale=ABOUT.usual_scale,
            least_scale=MIN_SCALE,
            most_scale=MAX_SCALE,
            trained_scale=TRAINED_SCALE,
        ),
    )


def _inputs(image: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
    return image, axis_coords(size[0]), axis_coords(size[1]), render_cell(image, size)
