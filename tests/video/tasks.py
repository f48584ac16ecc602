"""What the tests of clips share: rooms in miniature, and how outputs are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.video.clips import decoded, scene, times

from lorgnette import build
from lorgnette.images.file import Image, write_image
from lorgnette.systems import restore, superres
from lorgnette.train.task import Task
from lorgnette.video.enhance import enhance_video

ROOMS = {"restore": restore, "superres": superres}
UNEVEN = [0, 40, 80, 200, 240, 300, 310, 500]  # milliseconds


def tiny_task(module: ModuleType) -> Task:
    """A network of a second, whose adapter does something."""
    task = build(module.tiny()[0])
    generator = torch.Generator().manual_seed(3)
    for name, parameter in task.named_parameters():
        if "lora" in name or "conv_last" in name or "imnet" in name:
            parameter.data = 0.03 * torch.randn(parameter.shape, generator=generator)
    return task


def planes(frame: av.VideoFrame) -> list[NDArray]:
    """The numbers of a frame, without what pads its rows."""
    if frame.format.is_rgb:
        return [frame.reformat(format="rgb24", threads=1).to_ndarray()]
    found = []
    for plane, part in zip(frame.planes, frame.format.components, strict=False):
        kind = np.uint8 if part.bits <= 8 else np.uint16
        found.append(np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width])
    return found


def same_frames(a: Path, b: Path) -> bool:
    """Bit for bit, at the same times."""
    first, second = decoded(a), decoded(b)
    return times(a) == times(b) and all(
        np.array_equal(x, y)
        for f, g in zip(first, second, strict=True)
        for x, y in zip(planes(f), planes(g), strict=True)
    )


def frames_folder(folder: Path, count: int = 4, name: str = "{}.png") -> Path:
    for number, picture in enumerate(scene(count, (24, 32)), 8):  # 8, 9, 10, 11: not in the order of letters
        write_image(folder / name.format(number), Image(picture))
    return folder


def interrupted(task: Task, source: Path, target: Path, after: int, **options: Any) -> None:
    """Ctrl-C after some frames."""

    def told(what: str, done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enhance_video(task, source, target, progress=told, **options)


def noisy(count: int, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """The scene as a camera sees it: no two frames have a pixel in common for certain."""
    rng = np.random.default_rng(5)
    return [np.clip(f + rng.normal(0, 1.2, f.shape), 0, 255).astype(np.uint8) for f in scene(count, size)]


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    return line
