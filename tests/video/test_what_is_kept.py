"""Times, sound, rotation, colour, depth, tags: what of a clip is kept."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from tests.video.clips import decoded, make_clip, packets, pixels, scene, times
from tests.video.tasks import UNEVEN

from lorgnette.systems import restore, superres
from lorgnette.train.task import Task
from lorgnette.video.clip import Clip, Colour
from lorgnette.video.enhance import enhance_video
from lorgnette.video.read import VideoSource, read_clip


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
