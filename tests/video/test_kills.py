"""What a kill, a full disk or a second run leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from tests.video.clips import make_clip, scene
from tests.video.tasks import ROOMS, frames_folder, interrupted, refusal, same_frames, tiny_task

from lorgnette.systems import restore
from lorgnette.train.task import Task
from lorgnette.video.enhance import enhance_video
from lorgnette.video.journal import Journal

KILLED = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {here!r})
    from tests.video.tasks import ROOMS, tiny_task
    from lorgnette.video.enhance import enhance_video

    def told(what, done, total):
        print(what, done, flush=True)
        if (what, done) == ({what!r}, {stop}):
            time.sleep(60)

    enhance_video(tiny_task(ROOMS[{room!r}]), {source!r}, {target!r}, progress=told)
"""


def kill_on_the_way(room: str, source: Path, target: Path, what: str, stop: int) -> None:
    """Run in a process of its own; SIGKILL once so much is done."""
    here = str(Path(__file__).parents[2])
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
    seen: list[tuple[str, int, int]] = []
    done = enhance_video(task, source, target, progress=lambda *told: seen.append(told))
    ready = stop if what == "frame" else 9
    assert done.resumed == ready
    assert [n for what, n, _ in seen if what == "frame"] == list(range(ready + 1, 10))  # none is done twice
    assert {total for what, _, total in seen if what == "frame"} <= {9}
    assert same_frames(whole.path, target)
    assert whole.path.read_bytes() == target.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.mp4", "out.mp4", "whole.mp4"]


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
    with pytest.raises(ValueError, match="holds frames done with another codec: --overwrite"):
        enhance_video(cleaner, source, target, codec="hevc")
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
