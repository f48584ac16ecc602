"""Tiles that frames share, computed once: exactly and nearly."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tests.video.clips import make_clip, scene
from tests.video.tasks import interrupted, noisy, same_frames

from lorgnette.images.file import Image
from lorgnette.tiles.cache import TILINGS, TileCache
from lorgnette.train.task import Task
from lorgnette.video.clip import Clip, Colour
from lorgnette.video.codecs import choose_encoding
from lorgnette.video.enhance import enhance_video
from lorgnette.video.pixels import to_frame
from lorgnette.video.write import formats_of, write_video


def test_the_exact_cache_changes_no_bit(room: ModuleType, task: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mkv", scene(3, (60, 100)), codec="ffv1")
    tile, halo, *_ = TILINGS["exact"]
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
