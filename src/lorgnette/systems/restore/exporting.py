"""The restoration as a function of tensors alone, for export: pictures of any size, each by itself."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lorgnette.common.modules import with_functions, with_module
from lorgnette.images.waves import waves
from lorgnette.systems.protocol import OnPictures, Program
from lorgnette.systems.restore.model import MambaIR
from lorgnette.systems.restore.predict import USUAL
from lorgnette.systems.restore.task import Restoration
from lorgnette.train.task import Task

SIZES = ((24, 20), (16, 16), (13, 31), (40, 21), (9, 50), (64, 48))
"""Height and width of the examples."""


def program(task: Restoration) -> Program:
    """See `lorgnette.systems.protocol.Room`. Nothing is remembered from one frame of a clip to the next."""
    model = task.model
    assert isinstance(model, MambaIR)

    def example(number: int) -> tuple[Tensor, ...]:
        return (waves((2 if number == 0 else 1, model.in_chans, *SIZES[number % len(SIZES)]), number),)

    def answering(run: Callable[..., Tensor]) -> Task:
        def forward(x: Tensor, cache_key: object = None) -> Tensor:
            return run(x)

        return with_module(task, "model", with_functions(model, forward=forward))

    return Program(
        module=model,
        inputs={"image": {0: "n", 2: "height", 3: "width"}},
        output="restored",
        example=example,
        answering=answering,
        pictures=OnPictures(
            tile=USUAL.tile,
            halo=USUAL.halo,
            blend=USUAL.blend,
            channels=model.in_chans,
            factor=model.upscale,
            usual_scale=model.upscale,
        ),
    )
