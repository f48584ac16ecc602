"""Jobs of many clients: whose turn it is, what is bounded, and what is gone when it is cancelled."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.web.jobs import Full, Job, Jobs, State, Stopping
from lorgnette.web.settings import Limits, Settings

NEVER = lambda job: None  # noqa: E731


def job(tmp_path: Path, client: str = "a", size: int = 10) -> Job:
    folder = tmp_path / f"{client}-{time.monotonic_ns()}"
    (folder / "upload").mkdir(parents=True)
    source = folder / "upload" / "picture.png"
    source.write_bytes(bytes(size))
    return Job(client, "enhance", {}, source, 60, bytes=size)


def submitted(jobs: Jobs, tmp_path: Path, client: str = "a", size: int = 10) -> Job:
    one = job(tmp_path, client, size)
    jobs.submit(one)
    return one


def done(jobs: Jobs) -> Job:
    taken = jobs.take(NEVER)
    assert taken is not None
    jobs.give_back(taken, {"files": []})
    return taken


def test_clients_take_turns_however_many_jobs_one_brings(tmp_path: Path):
    jobs = Jobs(Limits())
    crowd = [submitted(jobs, tmp_path, "many") for _ in range(4)]
    one, other = submitted(jobs, tmp_path, "one"), submitted(jobs, tmp_path, "other")
    assert [jobs.ahead(j) for j in (*crowd, one, other)] == [0, 3, 4, 5, 1, 2]
    assert [done(jobs) for _ in range(6)] == [crowd[0], one, other, *crowd[1:]]


def test_what_is_read_while_it_is_forgotten_is_not_told_of_and_goes_later(tmp_path: Path):
    jobs = Jobs(Limits())
    submitted(jobs, tmp_path)
    read = done(jobs)
    read.held += 1
    jobs.forget(read)
    assert jobs.get(read.id) is None
    assert read.source.is_file()
    read.held -= 1
    submitted(jobs, tmp_path)
    assert not read.folder.exists()


@given(st.lists(st.sampled_from(["submit a", "submit b", "submit c", "take", "cancel"]), max_size=40))
@settings(deadline=None, max_examples=60)
def test_each_job_comes_when_it_was_said_to_and_none_is_lost(events: list[str]):
    jobs, waiting, over = Jobs(Limits()), [], []
    for event in events:
        if event == "take" and waiting:
            first = min(waiting, key=jobs.ahead)
            places = sorted(map(jobs.ahead, waiting))
            assert places == list(range(len(waiting)))
            taken = jobs.take(NEVER)
            assert taken is first
            waiting.remove(taken)
        elif event == "cancel" and waiting:
            gone = waiting.pop(len(waiting) // 2)
            assert jobs.cancel(gone)
            over.append(gone)
        elif event.startswith("submit"):
            one = Job(event[-1], "enhance", {}, Path("/nowhere/job/upload/file"), 60)
            jobs.submit(one)
            waiting.append(one)
    assert jobs.counts()["waiting"] == len(waiting)
    assert all(j.state is State.CANCELLED and j.over.is_set() for j in over)


def test_a_cancelled_job_that_waits_is_gone_at_once(tmp_path: Path):
    jobs = Jobs(Limits(waiting=2))
    first, second = submitted(jobs, tmp_path), submitted(jobs, tmp_path)
    with pytest.raises(Full, match="2 jobs wait already"):
        jobs.submit(job(tmp_path))
    assert jobs.cancel(first)
    assert (first.state, first.folder.exists()) == (State.CANCELLED, False)
    submitted(jobs, tmp_path)
    assert not jobs.cancel(first)
    assert done(jobs) is second


def test_a_cancelled_job_that_runs_is_ended_and_stays_cancelled(tmp_path: Path):
    jobs, ended = Jobs(Limits()), []
    one = submitted(jobs, tmp_path)
    taken = jobs.take(ended.append)
    assert jobs.cancel(one)
    assert ended == [one]
    assert not one.over.is_set()  # the worker may still write
    assert taken is one
    jobs.give_back(taken, {"files": ["late.png"]})
    assert (one.state, one.result, one.folder.exists()) == (State.CANCELLED, {}, False)


def test_one_client_cannot_fill_the_queue(tmp_path: Path):
    jobs = Jobs(Limits(waiting=5, waiting_each=2))
    for _ in range(2):
        submitted(jobs, tmp_path, "greedy")
    with pytest.raises(Full, match="of yours"):
        jobs.submit(job(tmp_path, "greedy"))
    submitted(jobs, tmp_path, "modest")


def test_old_results_go_and_those_that_are_read_stay(tmp_path: Path):
    jobs = Jobs(Limits(kept=2))
    made = [submitted(jobs, tmp_path) for _ in range(4)]
    for one in made:
        done(jobs)
        one.held = int(one is made[0])
    submitted(jobs, tmp_path)
    assert [jobs.get(one.id) is not None for one in made] == [True, False, True, True]
    assert [one.folder.exists() for one in made] == [True, False, True, True]


def test_results_are_kept_for_a_time(tmp_path: Path):
    jobs = Jobs(Limits(kept_seconds=0.01))
    one = submitted(jobs, tmp_path)
    done(jobs)
    time.sleep(0.02)
    submitted(jobs, tmp_path)
    assert jobs.get(one.id) is None


def test_the_disk_is_shared_by_uploads_and_results(tmp_path: Path):
    jobs = Jobs(Limits(stored_bytes=100))
    old = submitted(jobs, tmp_path, size=60)
    with pytest.raises(Full, match="disk"):
        jobs.reserve(50)  # of one that waits nothing can go
    done(jobs)
    jobs.reserve(50)
    assert jobs.get(old.id) is None
    with pytest.raises(Full):
        jobs.reserve(51)
    jobs.release(50)
    jobs.reserve(100)


def test_forgetting_removes_everything(tmp_path: Path):
    jobs = Jobs(Limits())
    one = submitted(jobs, tmp_path)
    done(jobs)
    jobs.forget(one)
    assert jobs.get(one.id) is None
    assert not one.folder.exists()
    assert jobs.counts() == {"waiting": 0, "running": 0, "known": 0, "stored_bytes": 0}


def test_what_runs_is_not_told_of_once_it_is_forgotten_and_goes_when_it_has_ended(tmp_path: Path):
    jobs = Jobs(Limits())
    running = submitted(jobs, tmp_path)
    assert jobs.take(NEVER) is running
    jobs.forget(running)
    assert jobs.get(running.id) is None
    jobs.give_back(running, None)
    assert running.state is State.CANCELLED
    assert jobs.get(running.id) is None
    submitted(jobs, tmp_path)
    assert jobs.counts()["known"] == 1


def test_stopping_lets_what_runs_end_and_takes_no_more(tmp_path: Path):
    jobs = Jobs(Limits())
    running, waiting = submitted(jobs, tmp_path), submitted(jobs, tmp_path)
    assert jobs.take(NEVER) is running
    stop = threading.Thread(target=jobs.stop, args=(30,))
    stop.start()
    assert waiting.over.wait(10)
    assert waiting.state is State.CANCELLED
    with pytest.raises(Stopping):
        jobs.submit(job(tmp_path))
    assert jobs.take(NEVER) is None
    jobs.give_back(running, {"files": []})
    stop.join(10)
    assert (stop.is_alive(), running.state) == (False, State.DONE)


def test_stopping_does_not_wait_for_ever(tmp_path: Path):
    jobs, ended = Jobs(Limits()), threading.Event()
    running = submitted(jobs, tmp_path)
    jobs.take(lambda one: ended.set())
    threading.Thread(target=lambda: (ended.wait(10), jobs.give_back(running))).start()
    jobs.stop(0.05)
    assert running.state is State.CANCELLED


def test_time_left_follows_the_pieces_that_are_done(tmp_path: Path):
    one = job(tmp_path)
    assert one.seconds_left is None
    one.state, one.started, one.done, one.total = State.RUNNING, time.monotonic() - 10, 2, 8
    assert one.seconds_left == pytest.approx(30, rel=0.05)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"host": "0.0.0.0"}, "token: not set"),
        ({"host": "192.168.0.2", "token": "short"}, "token: does not work"),
        ({"token": "has a space in it, surely"}, "token: does not work"),
        ({"port": 70000}, "port: 70000"),
    ],
)
def test_settings_that_would_not_do_are_refused(given: dict, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        Settings(**given)
    with pytest.raises(ValueError, match=r"limits\.kept: 0"):
        Limits(kept=0)
