"""A room's program for squares of one size: for phones and others that run no loops of free length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lorgnette.export.manifest import SIDES
from lorgnette.export.tiles import Planes, in_tiles, inputs_of, largest_tile, names
from lorgnette.images.waves import waves
from lorgnette.systems.protocol import Program
from lorgnette.tiles.plan import plan_tiles
from lorgnette.train.task import Task


def of_size(program: Program, side: int, scale: float | None = None) -> Program:
    """The program for squares of `side` pixels, one at a time; pictures are made of such tiles.

    Args:
        program: of a room for pictures.
        side: of the squares, in input pixels.
        scale: of a program of any scale: for which `out_side` is wide enough that no tile has to be smaller. Larger
            ones work too, by more tiles. None: the usual one.

    Raises:
        ValueError: the program is not for pictures, or a setting is out of range, in one line.
    """
    if (how := program.pictures) is None:
        raise ValueError("size: this room takes no pictures that are cut into tiles; leave it out")
    if not SIDES[0] <= side <= SIDES[1]:
        raise ValueError(f"size: {side} does not work; {SIDES[0]} to {SIDES[1]} pixels do")
    if how.factor is not None and scale not in (None, how.factor):
        raise ValueError(f"scale: this network makes pictures {how.factor} times as large; leave it out")
    wide = how.usual_scale if scale is None else scale
    if how.factor is None and not 1 <= wide <= how.most_scale:
        raise ValueError(f"scale: {wide:g} does not work; 1 to {how.most_scale:g} does")
    halo, blend = min(how.halo, side // 8), min(how.blend, side // 16)
    out_side = None if how.factor else round(side * wide)
    tile = largest_tile(side, halo, blend)
    fixed = replace(how, side=side, out_side=out_side, tile=tile, halo=halo, blend=blend, align=1)

    def in_squares(run: Callable[..., Tensor], image: Tensor, size: tuple[int, int]) -> Tensor:
        def of_arrays(given: dict[str, Planes]) -> Planes:
            return run(*(torch.from_numpy(given[name]) for name in names(fixed))).numpy()

        return torch.from_numpy(
            in_tiles(of_arrays, fixed, "the program", image.detach().cpu().numpy(), size, tile, halo)
        )

    def example(number: int) -> tuple[Tensor, ...]:
        image = waves((1, how.channels, side, side), number)
        if out_side is None:
            return (image,)
        rows = round(side * (1 + (wide - 1) / (1 + number)))
        (part,) = plan_tiles((side, side), (rows, rows), side, halo, blend)
        return tuple(torch.from_numpy(x) for x in inputs_of(fixed, image.numpy(), part).values())

    def answering(run: Callable[..., Tensor]) -> Task:
        def of_any_size(image: Tensor, *rest: Tensor) -> Tensor:
            factor = how.factor
            size = [factor * n for n in image.shape[-2:]] if factor else [len(axis) for axis in rest[:2]]
            return in_squares(run, image, (size[0], size[1]))

        return program.answering(of_any_size)

    inputs = {name: {} for name in program.inputs}
    return replace(program, inputs=inputs, example=example, answering=answering, pictures=fixed)
