"""Frames stream: memory does not grow with the clip."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorgnette.images.file import Image
from lorgnette.systems import restore
from lorgnette.train.task import Task
from lorgnette.video.clip import Clip, Colour, Frame
from lorgnette.video.enhance import enhance_video


class Endless:
    """A long clip that counts how many of its pictures are still held."""

    def __init__(self, folder: Path, count: int):
        self.clip = Clip(folder, (16, 16), count, Fraction(1, 25), Fraction(25), colour=Colour(matrix=0))
        self.most = 0

    def identity(self) -> dict[str, Any]:
        return {}

    def frames(self, start: int = 0) -> Iterator[Frame]:
        alive: list[weakref.ref] = []
        for index in range(start, self.clip.frames):
            picture = np.full((16, 16, 3), index % 7 / 7, np.float32)
            alive.append(weakref.ref(picture))
            yield Frame(index, Image(picture), index, 1)
            del picture
            if index % 20 == 0:
                gc.collect()
                alive = [reference for reference in alive if reference() is not None]
                self.most = max(self.most, len(alive))


def test_frames_stream(cleaner: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(restore, "enhance", lambda task, image, **_: image)
    (tmp_path / "in").mkdir()
    source = Endless(tmp_path / "in", 120)
    assert enhance_video(cleaner, source, tmp_path / "out.mp4").frames == 120
    assert source.most <= 3
