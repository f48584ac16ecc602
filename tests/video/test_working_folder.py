"""Whose frames a working folder may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lorgnette import build
from lorgnette.images import Image, write_image
from lorgnette.systems import restore
from lorgnette.train.task import Task
from lorgnette.video.enhance import enhance_video


def cleaner() -> Task:
    torch.manual_seed(0)
    return build(restore.tiny()[0])


def frames(folder: Path, count: int = 3) -> Path:
    for number in range(count):
        write_image(folder / f"{number}.png", Image(torch.rand(24, 24, 3).numpy()))
    return folder


def interrupted(task: Task, source: Path, target: Path) -> None:
    def told(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enhance_video(task, source, target, progress=told)


def test_models_that_differ_in_a_tuple_do_not_share_a_working_folder(tmp_path: Path):
    """A dilated convolution has the weights of a plain one, and gives other pictures."""
    source, target = frames(tmp_path / "in"), tmp_path / "out"
    interrupted(cleaner(), source, target)
    dilated = cleaner()
    layer = next(m for m in dilated.model.modules() if isinstance(m, nn.Conv2d) and m.padding == (1, 1))
    layer.dilation = layer.padding = (2, 2)
    with pytest.raises(ValueError, match="holds frames done with another weights"):
        enhance_video(dilated, source, target)
    assert enhance_video(cleaner(), source, target).resumed == 1


def test_a_model_may_go_on_in_another_mode_and_after_use(tmp_path: Path):
    source, target = frames(tmp_path / "in"), tmp_path / "out"
    interrupted(cleaner(), source, target)
    used = cleaner()
    enhance_video(used, source, tmp_path / "another")
    used.train()
    assert enhance_video(used, source, target).resumed == 1
