"""Folders of frames in place of files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL.Image
import pytest
from tests.images.files import with_chunks
from tests.video.clips import decoded, make_clip, pixels, scene, times
from tests.video.tasks import frames_folder

from lorgnette.images.file import read_image
from lorgnette.images.pixels import to_uint8
from lorgnette.systems import restore
from lorgnette.train.task import Task
from lorgnette.video.enhance import enhance_video, working_folder


def test_a_folder_of_frames_becomes_another(room: ModuleType, task: Task, tmp_path: Path):
    source = frames_folder(tmp_path / "in")
    done = enhance_video(task, source, tmp_path / "out")
    assert sorted(file.name for file in done.path.iterdir()) == ["10.png", "11.png", "8.png", "9.png"]
    for file in source.iterdir():
        expected = to_uint8(room.enhance(task, read_image(file)).pixels)
        assert np.array_equal(to_uint8(read_image(done.path / file.name).pixels), expected)
    assert not working_folder(done.path).exists()


def test_a_folder_becomes_a_clip_and_a_clip_a_folder(cleaner: Task, tmp_path: Path):
    source = frames_folder(tmp_path / "in")
    rate = Fraction(24000, 1001)
    done = enhance_video(cleaner, source, tmp_path / "out.mkv", codec="ffv1", rate=rate)
    assert times(done.path) == pytest.approx([n / rate for n in range(4)], abs=1e-3)
    assert decoded(done.path)[0].format.name == "bgr0"  # lossless in full
    for name, picture in zip((8, 9, 10, 11), pixels(done.path), strict=True):
        expected = restore.enhance(cleaner, read_image(source / f"{name}.png")).pixels
        assert np.array_equal(to_uint8(picture), to_uint8(expected))
    back = enhance_video(cleaner, done.path, tmp_path / "frames")
    assert sorted(file.name for file in back.path.iterdir()) == [f"00000{n}.png" for n in (1, 2, 3, 4)]


def test_deep_frames_become_deep_pictures(cleaner: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mkv", scene(1, (24, 32)), pixel_format="yuv420p10le")
    enhance_video(cleaner, source, tmp_path / "frames")
    assert read_image(tmp_path / "frames" / "000001.png").bits == 16


def test_what_is_left_out_of_frames_is_said_once(cleaner: Task, tmp_path: Path):
    frames_folder(tmp_path / "in")
    for file in (tmp_path / "in").iterdir():
        with_chunks(file, (b"bKGD", bytes(6)))
    done = enhance_video(cleaner, tmp_path / "in", tmp_path / "out")
    assert list(done.notes) == [f"{tmp_path}/out/8.png and 3 more: without the chunk bKGD"]


def test_frames_of_a_format_that_is_not_written_become_png(cleaner: Task, tmp_path: Path):
    (tmp_path / "in").mkdir()
    for number in (1, 2):
        PIL.Image.new("RGB", (24, 16), (number, 0, 0)).save(tmp_path / "in" / f"{number}.gif")
    enhance_video(cleaner, tmp_path / "in", tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["1.png", "2.png"]
