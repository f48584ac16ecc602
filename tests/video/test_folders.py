"""Folders of frames in place of files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
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


def see_through(path: Path, codec: str, pixel_format: str, hidden: int) -> np.ndarray:
    """A clip of two frames with a soft cut-out on a ground that nobody sees; its alpha plane."""
    pixels = np.full((24, 32, 4), 120, np.uint8)
    pixels[..., 3] = 0
    pixels[4:20, 6:26, 3] = np.arange(20) * 12 + 20
    pixels[pixels[..., 3] == 0, :3] = hidden
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, pixel_format
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pixel_format, threads=1)
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return pixels[..., 3]


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("a.mov", "qtrle", "argb"), ("a.mov", "png", "rgba64be"), ("a.mkv", "ffv1", "yuva444p10le")],
)
def test_what_is_hidden_in_a_clip_stays_hidden(
    name: str, codec: str, pixel_format: str, room: ModuleType, task: Task, tmp_path: Path
):
    seen = []
    for hidden in (0, 255):
        alpha = see_through(tmp_path / name, codec, pixel_format, hidden)
        done = enhance_video(task, tmp_path / name, tmp_path / f"frames-{hidden}")
        picture = read_image(done.path / "000001.png")
        if picture.alpha.shape == alpha.shape:
            np.testing.assert_allclose(picture.alpha * 255, alpha, atol=0.6)
        clip = enhance_video(task, tmp_path / name, tmp_path / f"{hidden}.mkv", codec="ffv1")
        assert any("transparency" in note for note in clip.notes)
        seen.append([to_uint8(picture.pixels), *pixels(clip.path)])
    assert all(np.array_equal(one, other) for one, other in zip(*seen, strict=True))
