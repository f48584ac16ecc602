"""Clips: what is kept, what is computed, what a kill leaves, and wrong input."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from lorgnette import build
from lorgnette.images.file import Image, read_image, to_uint8, write_image
from lorgnette.systems import restore, superres
from lorgnette.tiles.cache import TILINGS, TileCache
from lorgnette.train.task import Task
from lorgnette.video.clip import Clip, Colour, Frame
from lorgnette.video.codecs import choose_encoding
from lorgnette.video.enhance import enhance_video, open_clip, working_folder
from lorgnette.video.journal import Journal
from lorgnette.video.pixels import to_frame
from lorgnette.video.read import VideoSource, read_clip
from lorgnette.video.write import Packer, formats_of, write_video
from video_helpers import decoded, make_clip, packets, pixels, scene, times

ROOMS = {"restore": restore, "superres": superres}
UNEVEN = [0, 40, 80, 200, 240, 300, 310, 500]  # milliseconds


@pytest.fixture(scope="module", params=list(ROOMS))
def room(request: pytest.FixtureRequest) -> ModuleType:
    return ROOMS[request.param]


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {module.__name__: tiny_task(module) for module in ROOMS.values()}


@pytest.fixture(scope="module")
def task(room: ModuleType, tasks: dict[str, Task]) -> Task:
    return tasks[room.__name__]


@pytest.fixture(scope="module")
def cleaner(tasks: dict[str, Task]) -> Task:
    return tasks[restore.__name__]


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


# ---------------------------------------------------------------------------------------------- what is computed


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


# -------------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_times_aspect_rotation_colour_sound_and_tags(room: ModuleType, task: Task, suffix: str, tmp_path: Path):
    source = make_clip(
        tmp_path / "in.mp4",
        scene(len(UNEVEN), (36, 48)),
        pts=UNEVEN,
        time_base=Fraction(1, 1000),
        sound="aac",
        rotation=90,
        aspect=Fraction(4, 3),
        colour=(2, 1),
        title="A clip",
    )
    done = enhance_video(task, source, tmp_path / f"out{suffix}")
    before, after = read_clip(source), read_clip(done.path)
    assert done.notes == []
    assert (after.rotation, after.aspect, after.colour) == (90, Fraction(4, 3), before.colour)
    assert after.colour.range == 2
    at, was = times(done.path), times(source)
    assert [t - at[0] for t in at] == pytest.approx([t - was[0] for t in was], abs=1e-9)
    sound, old_sound = packets(done.path, "audio"), packets(source, "audio")
    assert [data for _, data in sound] == [data for _, data in old_sound]
    # Matroska knows no time before zero: all streams begin later there, together.
    assert sound[0][0] - at[0] == pytest.approx(old_sound[0][0] - was[0], abs=1.1e-3)
    with av.open(str(done.path)) as container:
        assert container.metadata["title"] == "A clip"


def test_a_stream_that_begins_late_stays_in_step(cleaner: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.ts", scene(6, (36, 48)), sound="aac", options={"output_ts_offset": "5"})
    done = enhance_video(cleaner, source, tmp_path / "out.mp4")
    assert times(source)[0] > 1  # as transport streams do
    assert times(done.path)[0] < 0.1
    lag = packets(source, "audio")[0][0] - times(source)[0]
    assert packets(done.path, "audio")[0][0] - times(done.path)[0] == pytest.approx(lag, abs=2e-3)


def test_sound_that_does_not_go_into_the_file_is_told(cleaner: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mkv", scene(3, (36, 48)), sound="pcm_s16le")
    done = enhance_video(cleaner, source, tmp_path / "out.webm")
    assert done.notes == ["audio (pcm_s16le) does not go into .webm and was left out"]


@pytest.mark.parametrize(
    ("pixel_format", "codec", "size", "kept"),
    [
        ("yuv420p", "mpeg4", (35, 47), "yuv444p"),  # H.264 has no odd sizes with colour at half the resolution
        ("yuv420p10le", "libx264", (36, 48), "yuv420p10le"),
        ("yuv422p", "libx264", (36, 48), "yuv422p"),
        ("yuv444p", "libx264", (36, 48), "yuv444p"),
        ("gray", "ffv1", (36, 48), "yuv420p"),
        ("bgr0", "ffv1", (36, 48), "yuv420p"),
    ],
)
def test_depth_and_colour_resolution(
    cleaner: Task, pixel_format: str, codec: str, size: tuple[int, int], kept: str, tmp_path: Path
):
    frames = scene(3, size)
    source = make_clip(tmp_path / "in.mkv", frames, codec=codec, pixel_format=pixel_format)
    done = enhance_video(cleaner, source, tmp_path / "out.mp4", quality=95)
    written = decoded(done.path)
    names = {frame.format.name.replace("yuvj", "yuv") for frame in written}  # the j is said by the range
    assert (names, {(frame.height, frame.width) for frame in written}) == ({kept}, {size})
    expected = restore.enhance(cleaner, next(VideoSource(source).frames()).image).pixels
    assert np.abs(pixels(done.path)[0] - expected).mean() < 0.03


def test_a_fraction_that_gives_odd_sizes_gives_even_ones(tasks: dict[str, Task], tmp_path: Path):
    source = make_clip(tmp_path / "in.mp4", scene(1, (34, 46)))
    done = enhance_video(tasks[superres.__name__], source, tmp_path / "out.mp4", scale=1.5)
    assert done.size == (52, 70)  # 51 x 69


def test_players_that_guess_the_matrix_by_size_are_told(tmp_path: Path):
    clip = Clip(tmp_path, (480, 640), 1, Fraction(1, 25), Fraction(25), colour=Colour())
    assert clip.enhanced_colour((480, 640), rgb=False).matrix == 2  # not said before, not said now
    assert clip.enhanced_colour((960, 1280), rgb=False).matrix == 6  # would be taken for BT.709


@pytest.mark.parametrize("codec", ["hevc", "av1", "vp9", "mpeg4", "prores", "ffv1"])
def test_codecs(cleaner: Task, codec: str, tmp_path: Path):
    source = make_clip(tmp_path / "in.mp4", scene(3, (64, 80)), pts=UNEVEN[:3], time_base=Fraction(1, 90000))
    done = enhance_video(cleaner, source, tmp_path / "out.mkv", codec=codec)
    with av.open(str(done.path)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == codec
    assert len(decoded(done.path)) == 3


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_short_clips_in_hevc_have_sound_times(cleaner: Task, count: int, tmp_path: Path):
    """x265 makes up decoding times where a clip is shorter than what it reorders; FFmpeg refused one in three."""
    source = make_clip(tmp_path / "in.mp4", scene(count, (64, 80)))
    done = enhance_video(cleaner, source, tmp_path / "out.mp4", codec="hevc")
    with av.open(str(done.path)) as container:
        times = [(p.pts, p.dts, p.time_base) for p in container.demux(video=0) if p.dts is not None]
    assert len(times) == count
    assert all(pts is not None and abs((pts - dts) * base) < 1 for pts, dts, base in times)


def test_higher_quality_is_nearer(cleaner: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mp4", scene(3, (64, 80)))
    exact = pixels(enhance_video(cleaner, source, tmp_path / "exact.mkv", codec="ffv1").path)
    errors = []
    for quality in (20, 60, 95):
        done = enhance_video(cleaner, source, tmp_path / f"{quality}.mp4", quality=quality)
        errors.append(np.mean([np.abs(a - b).mean() for a, b in zip(exact, pixels(done.path), strict=True)]))
    assert errors[0] > errors[1] > errors[2]


# ------------------------------------------------------------------------------------------------------- folders


def frames_folder(folder: Path, count: int = 4, name: str = "{}.png") -> Path:
    for number, picture in enumerate(scene(count, (24, 32)), 8):  # 8, 9, 10, 11: not in the order of letters
        write_image(folder / name.format(number), Image(picture))
    return folder


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


# ------------------------------------------------------------------------------------- what a kill leaves behind


KILLED = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {here!r})
    from test_video import ROOMS, tiny_task
    from lorgnette.video.enhance import enhance_video

    def told(what, done, total):
        print(what, done, flush=True)
        if (what, done) == ({what!r}, {stop}):
            time.sleep(60)

    enhance_video(tiny_task(ROOMS[{room!r}]), {source!r}, {target!r}, progress=told)
"""


def kill_on_the_way(room: str, source: Path, target: Path, what: str, stop: int) -> None:
    """Run in a process of its own; SIGKILL once so much is done."""
    here = str(Path(__file__).parent)
    code = KILLED.format(here=here, room=room, source=str(source), target=str(target), what=what, stop=stop)
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.split() == [what, str(stop)]:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("name", "what", "stop"), [("restore", "frame", 5), ("superres", "write", 3)])
def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(name: str, what: str, stop: int, tmp_path: Path):
    source = make_clip(tmp_path / "in.mp4", scene(9, (36, 48)), sound="aac")
    task = tiny_task(ROOMS[name])
    whole = enhance_video(task, source, tmp_path / "whole.mp4")
    target = tmp_path / "out.mp4"
    kill_on_the_way(name, source, target, what, stop)
    assert not target.exists()
    seen: list[tuple[str, int]] = []
    done = enhance_video(task, source, target, progress=lambda what, n, total: seen.append((what, n)))
    ready = stop if what == "frame" else 9
    assert done.resumed == ready
    assert [n for what, n in seen if what == "frame"] == list(range(ready + 1, 10))  # none is done twice
    assert same_frames(whole.path, target)
    assert whole.path.read_bytes() == target.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.mp4", "out.mp4", "whole.mp4"]


def interrupted(task: Task, source: Path, target: Path, after: int, **options: Any) -> None:
    """Ctrl-C after some frames."""

    def told(what: str, done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enhance_video(task, source, target, progress=told, **options)


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_folder_goes_on(cleaner: Task, after: int, tmp_path: Path):
    source = frames_folder(tmp_path / "in")
    whole = enhance_video(cleaner, source, tmp_path / "whole")
    interrupted(cleaner, source, tmp_path / "out", after)
    assert not (tmp_path / "out").exists()
    assert enhance_video(cleaner, source, tmp_path / "out").resumed == after
    for file in whole.path.iterdir():
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes()


def test_frames_of_an_older_job_are_not_left_among_new_ones(cleaner: Task, tmp_path: Path):
    interrupted(cleaner, frames_folder(tmp_path / "long", 4), tmp_path / "out", 4)
    done = enhance_video(cleaner, frames_folder(tmp_path / "short", 2), tmp_path / "out", overwrite=True)
    assert sorted(file.name for file in done.path.iterdir()) == ["8.png", "9.png"]


def test_what_another_job_left_is_not_mixed_in(cleaner: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mp4", scene(4, (36, 48)))
    other = make_clip(tmp_path / "other.mp4", scene(4, (36, 48), seed=1))
    target = tmp_path / "out.mp4"
    interrupted(cleaner, source, target, 2)
    with pytest.raises(ValueError, match="holds frames done with another source: --overwrite"):
        enhance_video(cleaner, other, target)
    with pytest.raises(ValueError, match="holds frames done with another settings"):
        enhance_video(cleaner, source, target, tile=16)
    changed = tiny_task(restore)
    next(p for n, p in changed.named_parameters() if "lora" in n).data += 0.1
    with pytest.raises(ValueError, match="holds frames done with another weights"):
        enhance_video(changed, source, target)
    assert enhance_video(changed, source, target, overwrite=True).resumed == 0


def test_a_folder_that_is_no_working_folder_is_left_alone(cleaner: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mp4", scene(1, (36, 48)))
    (tmp_path / "out.mp4.part").mkdir()
    (tmp_path / "out.mp4.part" / "mine.txt").write_text("precious")
    line = refusal(lambda: enhance_video(cleaner, source, tmp_path / "out.mp4", overwrite=True))
    assert "holds something else" in line
    assert (tmp_path / "out.mp4.part" / "mine.txt").read_text() == "precious"


def test_the_quality_may_change_on_the_way(cleaner: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mp4", scene(4, (36, 48)))
    interrupted(cleaner, source, tmp_path / "out.mp4", 2, quality=30)
    assert enhance_video(cleaner, source, tmp_path / "out.mp4", quality=90).resumed == 2


def test_two_runs_do_not_meet(cleaner: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mp4", scene(2, (36, 48)))
    target = tmp_path / "out.mp4"

    def told(*_: object) -> None:
        with pytest.raises(ValueError, match="in use by another run"):
            enhance_video(cleaner, source, target)

    assert enhance_video(cleaner, source, target, progress=told).frames == 2


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(0, 400), st.sampled_from(["cut", "garbage"]))
def test_a_log_cut_anywhere_keeps_what_is_whole(tmp_path_factory, data: list[bytes], at: int, how: str):
    folder = tmp_path_factory.mktemp("log")
    with Journal(folder, {"source": 1}) as journal:
        journal.append({"n": "first"}, b"first")
        ends = [(folder / "frames.log").stat().st_size]
        for number, piece in enumerate(data):
            journal.append({"n": number}, piece)
            ends.append((folder / "frames.log").stat().st_size)
    log = folder / "frames.log"
    whole = log.read_bytes()
    cut = min(ends[0] + at, len(whole))
    log.write_bytes(whole[:cut] + (b"\xff" * 30 if how == "garbage" else b""))
    expected = sum(end <= cut for end in ends[1:])
    with Journal(folder, {"source": 1}) as journal:
        assert [piece for _, piece in journal.records()] == [b"first", *data[:expected]]
        journal.append({"n": "new"}, b"new")
    with Journal(folder, {"source": 1}) as journal:
        between = [({"n": n}, piece) for n, piece in enumerate(data[:expected])]
        assert list(journal.records()) == [({"n": "first"}, b"first"), *between, ({"n": "new"}, b"new")]


def test_a_full_disk_is_one_line_and_leaves_what_is_done(cleaner: Task, tmp_path: Path, monkeypatch):
    source = make_clip(tmp_path / "in.mp4", scene(4, (36, 48)))
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match=r"No space left on device\): what is done is kept; make room"):
            enhance_video(cleaner, source, tmp_path / "out.mp4")
    assert enhance_video(cleaner, source, tmp_path / "out.mp4").resumed > 0


# --------------------------------------------------------------------------------------------------------- cache


def noisy(count: int, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """The scene as a camera sees it: no two frames have a pixel in common for certain."""
    rng = np.random.default_rng(5)
    return [np.clip(f + rng.normal(0, 1.2, f.shape), 0, 255).astype(np.uint8) for f in scene(count, size)]


def test_the_exact_cache_changes_no_bit(room: ModuleType, task: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mkv", scene(3, (60, 100)), codec="ffv1")
    tile, halo, _ = TILINGS["exact"]
    without = enhance_video(task, source, tmp_path / "without.mkv", codec="ffv1", tile=tile, halo=halo)
    cached = enhance_video(task, source, tmp_path / "with.mkv", codec="ffv1", cache=TileCache())
    assert same_frames(without.path, cached.path)
    assert without.reuse == []
    assert not cached.reuse[0].any()
    shares = [reused.mean() for reused in cached.reuse[1:]]
    assert all(0.5 < share < 1 for share in shares)  # all but where the square is


@pytest.mark.parametrize("after", [4, 5, 6])
def test_a_near_cache_goes_on_as_if_it_had_not_been_stopped(cleaner: Task, after: int, tmp_path: Path):
    source = make_clip(tmp_path / "in.mkv", noisy(8, (70, 100)), codec="ffv1")

    def cache() -> TileCache:
        return TileCache(mode="near", tolerance=30, refresh=3)

    whole = enhance_video(cleaner, source, tmp_path / "whole.mkv", codec="ffv1", cache=cache())
    assert [bool(reused.any()) for reused in whole.reuse] == [False, True, True, False, True, True, False, True]
    interrupted(cleaner, source, tmp_path / "out.mkv", after, codec="ffv1", cache=cache())
    with pytest.raises(ValueError, match="another cache"):
        enhance_video(cleaner, source, tmp_path / "out.mkv", codec="ffv1", cache=TileCache())
    done = enhance_video(cleaner, source, tmp_path / "out.mkv", codec="ffv1", cache=cache())
    assert done.resumed == after
    assert same_frames(whole.path, done.path)
    assert all(np.array_equal(a, b) for a, b in zip(whole.reuse, done.reuse, strict=True))


def test_the_encoder_gives_the_same_bits_each_time(tmp_path: Path):
    """With its AVX-512 code x264 does not."""
    clip = Clip(tmp_path, (36, 48), 9, Fraction(1, 25), Fraction(25), colour=Colour())
    encoding = choose_encoding(tmp_path / "out.mp4", None, 80, clip, clip.size, formats_of)
    frames = [to_frame(Image(picture / np.float32(255)), encoding) for picture in scene(9, (36, 48))]
    written = set()
    for _ in range(20):
        write_video(tmp_path / "out.mp4", [(frame, n, 1) for n, frame in enumerate(frames)], clip, encoding)
        written.add((tmp_path / "out.mp4").read_bytes())
    assert len(written) == 1


# -------------------------------------------------------------------------------------------------------- memory


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


# --------------------------------------------------------------------------------------------------- wrong input


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    return line


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


# -------------------------------------------------------------------------------------------------------- report


def test_the_report_shows_times_and_pictures(room: ModuleType, task: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mp4", scene(3, (36, 48)))
    page = tmp_path / "more" / "report.html"
    enhance_video(task, source, tmp_path / "out.mp4", report=page)
    text = page.read_text()
    assert "seconds per frame, median" in text
    assert "The first frame, before" in text
    assert "http" not in text.replace("http-equiv", "")


def test_the_report_of_a_cache_has_its_figures_and_a_heat_map(cleaner: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mkv", scene(3, (100, 150)), codec="ffv1")
    page = tmp_path / "report.html"
    done = enhance_video(cleaner, source, tmp_path / "out.mp4", report=page, cache=TileCache())
    text = page.read_text()
    share = sum(reused.sum() for reused in done.reuse) / sum(reused.size for reused in done.reuse)
    assert f"{share:.1%} of all tiles came from the cache" in text
    assert "here 0% to 67% of the frames" in text


def test_a_heat_map_has_the_colours_of_its_shares():
    from lorgnette.video.report import heat_map

    picture = np.full((40, 60, 3), 255, np.uint8)
    painted = heat_map(np.array([[0.0, 1.0], [0.5, 0.25]]), picture)
    assert painted.shape == picture.shape
    assert painted[0, 0].tolist() == [68, 1, 84]
    assert painted[0, -1].tolist() == [253, 231, 37]
    assert painted[-1, 0].tolist() == [33, 145, 140]
    assert heat_map(np.ones((1, 1)), picture // 4).mean() < painted[0, -1].mean()
