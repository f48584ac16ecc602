"""The warm worker: bytes there and back, for those who know the secret."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.federate.flower.worker import WorkerRefused, WorkerUnreachable, ask, serving, without_paths

SOURCE = Path(__file__).parents[3] / "src"


def test_bytes_come_back(tmp_path: Path):
    with serving(lambda request, hung_up: request[::-1], tmp_path / "worker.json"):
        for request in (b"", b"\0\1\2", os.urandom(3 * 2**20 + 7)):
            assert ask(tmp_path / "worker.json", request, 30) == request[::-1]


def test_only_the_owner_reads_the_secret(tmp_path: Path):
    endpoint = tmp_path / "worker.json"
    with serving(lambda request, hung_up: b"", endpoint) as port:
        assert stat.S_IMODE(endpoint.stat().st_mode) == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["worker.json"]
        wildcard = socket.socket()
        with wildcard, pytest.raises(OSError, match="in use"):  # it listens, and on the loopback interface
            wildcard.bind(("127.0.0.1", port))
    assert not endpoint.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_wrong_secret_gets_no_answer_and_no_memory(tmp_path: Path):
    asked = []
    with serving(lambda request, hung_up: asked.append(request) or b"", tmp_path / "worker.json") as port:
        stranger = tmp_path / "stranger.json"
        stranger.write_text(json.dumps({"port": port, "secret": "00" * 32}))
        with pytest.raises(WorkerUnreachable, match="gone or broke off"):
            ask(stranger, b"request", 5)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n".ljust(64, b"\xff"))
            assert len(connection.recv(100)) == 36  # the greeting, and no more
            assert connection.recv(100) == b""
        assert ask(tmp_path / "worker.json", b"still here", 5) == b""
    assert asked == [b"still here"]


def test_a_stranger_at_the_port_of_the_worker_is_not_asked(tmp_path: Path):
    """Another program that took the port learns neither request nor secret."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def impostor() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"LGW1" + bytes(32))
                heard.append(connection.recv(64))
                connection.sendall(bytes(32))
                heard.append(connection.recv(1000))

        thread = threading.Thread(target=impostor)
        thread.start()
        endpoint = tmp_path / "worker.json"
        endpoint.write_text(json.dumps({"port": listener.getsockname()[1], "secret": "11" * 32}))
        with pytest.raises(WorkerUnreachable, match="another program"):
            ask(endpoint, b"patients", 5)
        thread.join(5)
    assert len(heard[0]) == 64
    assert heard[1] == b""


def test_a_refusal_says_why_without_file_names(tmp_path: Path):
    def refuse(request: bytes, hung_up: threading.Event) -> bytes:
        raise (ValueError if request == b"v" else RuntimeError)("of /data/Mary Smith/3.png nothing remains")

    with serving(refuse, tmp_path / "worker.json"):
        for request in (b"v", b"r", b"v"):
            with pytest.raises(WorkerRefused) as refusal:
                ask(tmp_path / "worker.json", request, 5)
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


def test_no_worker_and_a_late_one(tmp_path: Path):
    with pytest.raises(WorkerUnreachable, match="no worker is running"):
        ask(tmp_path / "worker.json", b"", 1)
    (tmp_path / "worker.json").write_text("[]")
    with pytest.raises(WorkerUnreachable, match="no worker is running"):
        ask(tmp_path / "worker.json", b"", 1)


def test_work_that_nobody_waits_for_is_given_up(tmp_path: Path):
    release, asked, given_up = threading.Event(), [], []

    def slow(request: bytes, hung_up: threading.Event) -> bytes:
        asked.append(request)
        given_up.append(hung_up.wait(20) if request == b"first" else hung_up.is_set())
        release.wait(20)
        return b"late"

    with serving(slow, tmp_path / "worker.json"):
        for request in (b"first", b"second"):
            with pytest.raises(WorkerUnreachable, match=r"within 0\.2 s"):
                ask(tmp_path / "worker.json", request, 0.2)
        release.set()
        assert ask(tmp_path / "worker.json", b"third", 20) == b"late"
    assert asked == [b"first", b"third"]  # the second was not even begun
    assert given_up == [True, False]


def test_asking_needs_no_torch(tmp_path: Path):
    """The process that Flower starts for every message must start quickly."""
    endpoint = tmp_path / "worker.json"
    with serving(lambda request, hung_up: request.upper(), endpoint):
        code = (
            "import sys; from lorgnette.federate.flower.worker import ask; "
            f"print(ask({str(endpoint)!r}, b'hello', 5), 'torch' in sys.modules, 'numpy' in sys.modules)"
        )
        env = os.environ | {"PYTHONPATH": str(SOURCE)}
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == "b'HELLO' False False\n"
    assert time.monotonic() - begun < 10


FLOODED = """
import resource, socket, sys, time
from lorgnette.federate.flower.worker import ask, serving
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
with serving(lambda request, hung_up: request, sys.argv[1]) as port:
    held = []
    try:
        while True:
            held.append(socket.create_connection(("127.0.0.1", port), timeout=5))
    except OSError:
        time.sleep(0.5)
    for connection in held:
        connection.close()
    time.sleep(0.5)
    print(ask(sys.argv[1], b"still here", 10))
"""


def test_strangers_who_take_all_connections_stop_it_only_as_long_as_they_hold_them(tmp_path: Path):
    words = [sys.executable, "-c", FLOODED, str(tmp_path / "worker.json")]
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.stdout == "b'still here'\n", done.stderr
