"""The report of a clip."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tests.video.clips import make_clip, scene

from lorgnette.tiles.cache import TileCache
from lorgnette.train.task import Task
from lorgnette.video.enhance import enhance_video


def test_the_report_shows_times_and_pictures(room: ModuleType, task: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mp4", scene(3, (36, 48)))
    page = tmp_path / "more" / "report.html"
    enhance_video(task, source, tmp_path / "out.mp4", report=page)
    text = page.read_text()
    assert "seconds per frame, median" in text
    assert "The first frame, before" in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_report_that_cannot_be_written_is_known_before_the_work(task: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mp4", scene(3, (36, 48)))
    with pytest.raises(ValueError, match=r"cannot make the folder .*: a file of that name exists"):
        enhance_video(task, source, tmp_path / "out.mp4", report=source / "report.html")
    assert list(tmp_path.iterdir()) == [source]


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
