"""The worker at a site: bytes there and back, refusals without file names, work that nobody waits for."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.federate.deploy.worker import (
    Answer,
    Worker,
    WorkerLate,
    WorkerLost,
    WorkerRefused,
    serve_requests,
    unpacked,
    without_paths,
)

SOURCE = Path(__file__).parents[3] / "src"
PATIENCE = 120.0  # seconds for what takes none


@contextlib.contextmanager
def working(answer: Answer) -> Iterator[Worker]:
    """A worker in a thread of this process."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve_requests, args=(answer, theirs))
    with ours, theirs:
        thread.start()
        yield Worker(ours, thread.is_alive)
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_bytes_come_back():
    with working(lambda request, hung_up: request[::-1]) as worker:
        for data in (b"", b"\0\1\2", os.urandom(3 * 2**20 + 7)):
            assert worker.ask("train", 12, data, PATIENCE) == (b"train 12\n" + data)[::-1]


def test_a_refusal_says_why_without_file_names():
    def refuse(request: bytes, hung_up: threading.Event) -> bytes:
        raise (ValueError if request.endswith(b"v") else RuntimeError)("of /data/Mary Smith/3.png nothing remains")

    with working(refuse) as worker:
        for data in (b"v", b"r", b"v"):
            with pytest.raises(WorkerRefused) as refusal:
                worker.ask("train", 1, data, PATIENCE)
            assert "Mary" not in str(refusal.value)
            assert "site's own log" in str(refusal.value)


@pytest.mark.parametrize("text", ["scans/a b.png", r"C:\data", "Mary.nii is damaged", "see 'p17.dcm'"])
def test_file_names_stay_at_the_site(text: str):
    assert without_paths(text) == "(details are in the site's own log)"


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60), st.text("/\\", min_size=1, max_size=1), st.text(max_size=60))
def test_nothing_with_a_separator_leaves(before: str, separator: str, after: str):
    assert without_paths(before + separator + after) == "(details are in the site's own log)"


def test_other_reasons_pass():
    reason = "3 samples; at least 8 are needed (loss 0.25)"
    assert without_paths(reason + "\nfor one step") == reason + " for one step"


def test_work_that_nobody_waits_for_is_given_up():
    release, asked, given_up = threading.Event(), [], []

    def slow(request: bytes, hung_up: threading.Event) -> bytes:
        asked.append(unpacked(request)[1])
        if asked == [1]:
            given_up.append(hung_up.wait(PATIENCE))
            release.wait(PATIENCE)
        return request * 1000

    with working(slow) as worker:
        for round in (1, 2):
            with pytest.raises(WorkerLate, match=r"within 0\.2 s"):
                worker.ask("train", round, b"", 0.2)
        release.set()
        assert worker.ask("train", 3, b"", PATIENCE) == b"train 3\n" * 1000  # not the late answer of round 1
    assert given_up == [True]
    assert asked == [1, 3]  # the second was not even sent


def test_a_worker_that_still_starts_is_waited_for():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = Worker(ours, lambda: True)
        with pytest.raises(WorkerLate):
            worker.ask("greet", 0, b"", 0.05)
        thread = threading.Thread(target=serve_requests, args=(lambda request, hung_up: request, theirs))
        thread.start()
        assert worker.ask("greet", 0, b"", PATIENCE) == b"greet 0\n"
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)


@pytest.mark.parametrize("said", [b"", b"\0" * 5, b"\0" * 9 + b"\0\0\0\0\0\0\0\0\5ab"])
def test_a_worker_that_ended_is_lost(said: bytes):
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(said)
        theirs.close()
        with pytest.raises(WorkerLost):
            Worker(ours, lambda: True).ask("train", 1, b"abc", PATIENCE)


def test_a_worker_whose_socket_another_process_still_holds_is_lost():
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(WorkerLost):
        Worker(ours, lambda: False).ask("train", 1, b"abc", PATIENCE)


def test_a_worker_that_does_not_listen_is_lost():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(bytes(9))  # ready, but it reads nothing
        with pytest.raises(WorkerLost):
            Worker(ours, lambda: True).ask("train", 1, bytes(2**24), 0.3)


def test_asking_needs_no_torch():
    code = "import sys, lorgnette.federate.deploy.worker; print('torch' in sys.modules, 'numpy' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == "False False\n"
