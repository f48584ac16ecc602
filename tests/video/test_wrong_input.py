"""Damaged files, impossible outputs, missing libraries: one line each."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tests.video.clips import decoded, make_clip, packets, pixels, scene, times
from tests.video.tasks import frames_folder, refusal

from lorgnette.images.file import Image, write_image
from lorgnette.train.task import Task
from lorgnette.video.enhance import enhance_video, open_clip, working_folder
from lorgnette.video.read import VideoSource


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    short = path.with_stem("cut")
    short.write_bytes(data[: int(len(data) * share)])
    return short


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_truncated_file_is_told_and_its_beginning_can_be_done(cleaner: Task, suffix: str, tmp_path: Path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(50)]
    faststart = {"movflags": "faststart"} if suffix == ".mp4" else {}
    source = make_clip(tmp_path / f"in{suffix}", noise, options=faststart, sound="aac")
    short = cut(source, 0.6)
    line = refusal(lambda: enhance_video(cleaner, short, tmp_path / "out.mp4"))
    assert "breaks off after 1." in line
    assert "--truncated" in line
    assert not working_folder(tmp_path / "out.mp4").exists()
    done = enhance_video(cleaner, short, tmp_path / "out.mp4", truncated=True)
    assert 20 < done.frames < 40
    assert np.allclose(pixels(source)[done.frames - 1], list(VideoSource(short, True).frames())[-1].image.pixels)
    assert packets(done.path, "audio")[-1][0] <= times(done.path)[-1] + 0.04


def test_damage_on_the_way_keeps_what_is_done(cleaner: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mov", scene(8, (36, 48)), codec="png", pixel_format="rgb24")
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 800] = bytes(800)
    source.write_bytes(data)
    target = tmp_path / "out.mp4"
    line = refusal(lambda: enhance_video(cleaner, source, target))
    match = re.search(r"breaks off at frame (\d) ", line)
    assert match
    assert 2 <= int(match[1]) <= 5
    done = enhance_video(cleaner, source, target, truncated=True)
    assert (done.resumed, done.frames) == (int(match[1]), int(match[1]))
    assert len(decoded(target)) == done.frames


def test_an_index_that_is_missing(cleaner: Task, tmp_path: Path):
    short = cut(make_clip(tmp_path / "in.mp4", scene(20, (36, 48))), 0.5)
    line = refusal(lambda: enhance_video(cleaner, short, tmp_path / "out.mp4"))
    assert line == f"{short} is no video, or is damaged or incomplete: use an intact copy"


def test_a_size_that_changes(cleaner: Task, tmp_path: Path):
    for number, size in enumerate(((36, 48), (40, 56))):
        make_clip(tmp_path / f"{number}.h264", scene(3, size))
    both = tmp_path / "both.h264"
    both.write_bytes((tmp_path / "0.h264").read_bytes() + (tmp_path / "1.h264").read_bytes())
    line = refusal(lambda: enhance_video(cleaner, both, tmp_path / "out.mp4"))
    assert line.startswith(f"{both} changes its size at frame 3 from 48x36 to 56x40")


def test_files_without_frames(cleaner: Task, tmp_path: Path):
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as out:
        stream: Any = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 44100, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    none = tmp_path / "none.avi"
    with av.open(str(none), "w") as out:
        empty: Any = out.add_stream("libx264", rate=25)
        empty.width, empty.height, empty.pix_fmt = 32, 32, "yuv420p"
        out.start_encoding()
    (tmp_path / "text.mp4").write_text("this is no clip")
    (tmp_path / "zero.mp4").write_bytes(b"")
    for name, says in (
        ("sound.mp4", "has no video stream; it holds audio"),
        ("none.avi", "holds no frames"),
        ("text.mp4", "is no video, or is damaged"),
        ("zero.mp4", "is empty (0 bytes)"),
        ("gone.mp4", "no such file or folder"),
    ):
        line = refusal(lambda name=name: enhance_video(cleaner, tmp_path / name, tmp_path / "out.mp4"))
        assert says in line
        assert name in line
    assert not list(tmp_path.glob("out*"))


def test_outputs_that_cannot_be(cleaner: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = make_clip(tmp_path / "in.mp4", scene(2, (36, 48)))
    folder = frames_folder(tmp_path / "frames")
    (tmp_path / "file").write_text("")
    for name, options, says in (
        ("in.mp4", {}, "is the input itself"),
        ("out.avi", {}, "the suffix of a clip must be one of .mp4"),
        ("out.mp4", {"codec": "ffv1"}, "ffv1 does not go into .mp4; h264, hevc, av1, mpeg4 do"),
        ("out.webm", {"codec": "h264"}, "h264 does not go into .webm"),
        ("file/out.mp4", {}, "cannot make the folder"),
        ("frames", {}, "holds something already"),
        ("out", {"codec": "h264"}, "is a folder"),
        ("out.mp4", {"quality": 0}, "quality"),
        ("out.mp4", {"scale": 3}, "scale"),
    ):
        line = refusal(lambda n=name, o=options: enhance_video(cleaner, source, tmp_path / n, **o))
        assert says in line, line
    assert "lies in the folder" in refusal(lambda: enhance_video(cleaner, folder, folder / "out"))
    assert "is the input itself" in refusal(lambda: enhance_video(cleaner, folder, folder))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert "is not writable" in refusal(lambda: enhance_video(cleaner, source, tmp_path / "out.mp4"))


def test_frames_of_several_sizes(cleaner: Task, tmp_path: Path):
    source = frames_folder(tmp_path / "in")
    write_image(source / "12.png", Image(scene(1, (20, 20))[0]))
    line = refusal(lambda: enhance_video(cleaner, source, tmp_path / "out"))
    assert "12.png is 20x20 and 8.png 32x24" in line
    with pytest.raises(FileNotFoundError, match="no frames in"):
        open_clip(working_folder(tmp_path / "out"))


def test_an_encoder_that_refuses_does_so_at_the_first_frame(cleaner: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mkv", [np.zeros((2, 2, 3), np.uint8)] * 3, codec="ffv1")
    seen: list[str] = []
    with pytest.raises(ValueError, match=r"libsvtav1 cannot write 2x2 pixels of yuv420p into \.mp4"):
        enhance_video(cleaner, source, tmp_path / "out.mp4", codec="av1", progress=lambda what, *_: seen.append(what))
    assert seen == []
    with pytest.raises(ValueError, match=r"no encoder of hevc for \.mp4 files of 2x2 pixels"):  # it would crash
        enhance_video(cleaner, source, tmp_path / "out.mp4", codec="hevc")


def test_without_pyav_one_line_says_how_to_get_it(cleaner: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = make_clip(tmp_path / "in.mp4", scene(1, (36, 48)))
    for name in ("lorgnette.video.pixels", "lorgnette.video.read", "lorgnette.video.write"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "av", None)
    line = refusal(lambda: enhance_video(cleaner, source, tmp_path / "out.mp4"))
    assert line == "clips need PyAV: pip install 'lorgnette[video]'"


def test_another_clip_of_the_same_length_is_another_clip(tmp_path: Path):
    """What is looked at are the first and the last megabyte."""
    source = VideoSource(make_clip(tmp_path / "a.mp4", scene(3, (64, 64))))
    content = source.clip.path.read_bytes() + bytes(3 * 2**20)
    source.clip.path.write_bytes(content)
    before, n = source.identity(), len(content)
    for place in (0, 1000, 2**20 - 1, n - 2**20, n - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        source.clip.path.write_bytes(changed)
        assert source.identity() != before, place
    source.clip.path.write_bytes(content)
    assert source.identity() == before
