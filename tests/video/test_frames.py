"""Frames of a clip are what the room makes of them; colours survive the way to RGB and back."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tests.video.clips import decoded, make_clip, pixels, scene
from tests.video.tasks import planes

from lorgnette.images.file import Image
from lorgnette.images.pixels import to_uint8
from lorgnette.systems import superres
from lorgnette.train.task import Task
from lorgnette.video.clip import FULL, LIMITED, Clip, Colour
from lorgnette.video.codecs import choose_encoding
from lorgnette.video.enhance import enhance_video
from lorgnette.video.pixels import to_frame
from lorgnette.video.read import VideoSource, read_clip
from lorgnette.video.write import Packer, formats_of


@pytest.mark.parametrize(("size", "matrix"), [((1080, 1920), 1), ((576, 720), 6)])
def test_colours_of_a_clip_that_was_rgb_are_said_as_players_guess_them(size: tuple[int, int], matrix: int):
    colour = Colour(range=FULL, matrix=0, primaries=9)
    clip = Clip(Path("x"), (240, 320), 1, Fraction(1, 25), Fraction(25), colour=colour)
    assert clip.enhanced_colour(size, rgb=False) == Colour(range=LIMITED, matrix=matrix, primaries=9)
    assert clip.enhanced_colour(size, rgb=True) == Colour(range=0, matrix=0, primaries=9)
    usual = replace(clip, colour=Colour(range=LIMITED, matrix=1, primaries=9))
    assert usual.enhanced_colour(size, rgb=True) == Colour(range=0, matrix=0, primaries=9)


def test_frames_are_what_the_room_makes_of_them(room: ModuleType, task: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mp4", scene(4, (36, 48)))
    done = enhance_video(task, source, tmp_path / "out.mkv", codec="ffv1")
    factor = 2 if room is superres else 1
    assert (done.frames, done.size) == (4, (36 * factor, 48 * factor))
    clip = read_clip(source)
    encoding = choose_encoding(done.path, "ffv1", 80, clip, done.size, formats_of)
    for frame, written in zip(VideoSource(source).frames(), decoded(done.path), strict=True):
        expected = planes(to_frame(room.enhance(task, frame.image), encoding))
        assert all(np.array_equal(a, b) for a, b in zip(expected, planes(written), strict=True))


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p10le"])
@pytest.mark.parametrize("colour", [(1, 1), (2, 1), (1, 6), (0, 2)], ids=["709", "709 full", "601", "not said"])
def test_colours_survive_the_way_to_rgb_and_back(pixel_format: str, colour: tuple[int, int], tmp_path: Path):
    frames = [frame // 2 + 60 for frame in scene(1, (36, 48))]  # colours that RGB has
    source = make_clip(tmp_path / "in.mkv", frames, codec="ffv1", pixel_format=pixel_format, colour=colour)
    clip = read_clip(source)
    encoding = choose_encoding(tmp_path / "out.mkv", "ffv1", 80, clip, clip.size, formats_of)
    assert (encoding.pixel_format, encoding.colour.range, encoding.colour.matrix) == (pixel_format, *colour)
    (frame,) = VideoSource(source).frames()
    for before, after in zip(planes(decoded(source)[0]), planes(to_frame(frame.image, encoding)), strict=True):
        error = np.abs(before.astype(int) - after).astype(float) / (1 if clip.bits == 8 else 4)
        assert error.mean() < 0.3
        assert abs((before.astype(int) - after).mean()) < 0.3  # no shift of brightness or hue


def test_a_known_colour_is_read_by_the_matrix_that_the_file_names(tmp_path: Path):
    red = np.full((32, 32, 3), (255, 0, 0), np.uint8)
    for matrix, numbers in ((1, (63, 102, 240)), (6, (81, 90, 240))):
        with av.open(str(tmp_path / "red.mkv"), "w") as out:
            stream: Any = out.add_stream("ffv1", rate=25)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv444p"
            stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 1
            raw = np.stack([np.full((32, 32), n, np.uint8) for n in numbers])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(raw, format="yuv444p")))
            out.mux(stream.encode(None))
        (read,) = pixels(tmp_path / "red.mkv")
        assert np.abs(to_uint8(read).astype(int) - red).max() <= 2


def test_the_same_frame_gives_the_same_pixels_each_time(tmp_path: Path):
    """libswscale in several threads does not."""
    source = make_clip(tmp_path / "in.mkv", scene(1, (102, 178)), codec="ffv1", pixel_format="yuv444p10le")
    first = pixels(source)[0]
    assert all(np.array_equal(first, pixels(source)[0]) for _ in range(5))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "bgr0"]),
    st.integers(0, 9),
)
def test_packed_frames_come_back_bit_for_bit_in_any_order(height: int, width: int, format: str, seed: int):
    rng = np.random.default_rng(seed)
    clip = Clip(Path("x"), (height, width), 1, Fraction(1, 25), Fraction(25))
    encoding = replace(choose_encoding(Path("x.mkv"), "ffv1", 80, clip, clip.size, formats_of), pixel_format=format)
    frames = [to_frame(Image(rng.random((height, width, 3), dtype=np.float32)), encoding) for _ in range(3)]
    packer = Packer()
    packed = [packer.pack(frame) for frame in frames]
    for index in (2, 0, 1):
        back = Packer().unpack(packed[index], (height, width))
        assert all(np.array_equal(a, b) for a, b in zip(planes(frames[index]), planes(back), strict=True))
