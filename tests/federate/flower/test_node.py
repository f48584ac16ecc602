"""How a node looks for messages, comes back after a kill, and ends with whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tests.federate.processes import SOURCE, processes_of, wait_for

from lorgnette.common.files import take_lock
from lorgnette.federate.flower import node
from lorgnette.federate.flower.node import NODE_ID, Waits, coming_back
from lorgnette.federate.flower.programs import _is_gone, child, environment


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a node slept, without sleeping: its clock is moved instead."""
    found: list[float] = []
    monkeypatch.setattr(node.time, "monotonic", lambda: sum(found))
    monkeypatch.setattr(node.time, "sleep", found.append)
    return found


def test_a_node_that_just_had_work_looks_often_and_an_idle_one_as_flower_does(slept: list[float]):
    waits = Waits()
    while sum(slept) < 100:
        waits.sleep(3)
    assert slept[0] == node.POLL_SECONDS
    assert slept[-1] == 3
    assert all(pause <= max(node.POLL_SECONDS, sum(slept[:i]) / 10 + 1e-9) for i, pause in enumerate(slept))
    waits.sleep(0.5)
    assert slept[-1] == node.POLL_SECONDS
    waits.sleep(3)
    assert slept[-1] == node.POLL_SECONDS


class Server:
    """Lets a node in under a new number; not while it is taken for online."""

    def __init__(self) -> None:
        self.number, self.online, self.gone = 0, False, []

    def activate(self, request: str) -> object:
        if self.online:
            raise ConnectionError("it is online")
        self.online, self.number = True, self.number + 1
        return type("Response", (), {"node_id": self.number})

    def deactivate(self, node_id: int) -> None:
        if node_id != self.number:
            raise PermissionError("it is another's")
        self.online = False
        self.gone.append(node_id)


def test_a_node_that_was_killed_says_goodbye_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(NODE_ID, str(tmp_path / "node-id"))
    activate, server = coming_back(Server.activate, Server.deactivate), Server()
    activate(server, "first")
    assert not server.gone
    activate(server, "again")
    assert server.gone == [1]
    assert (tmp_path / "node-id").read_text() == "2"


def test_a_node_and_its_server_that_were_killed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What says goodbye for the node before is not lost while nobody listens."""
    monkeypatch.setenv(NODE_ID, str(tmp_path / "node-id"))
    server = Server()
    coming_back(Server.activate, Server.deactivate)(server, "first")

    def unreachable(*_: object) -> None:
        raise ConnectionRefusedError("no server")

    with pytest.raises(ConnectionRefusedError):
        coming_back(unreachable, unreachable)(server, "while the server is gone")
    coming_back(Server.activate, Server.deactivate)(server, "again")
    assert server.gone == [1]


@pytest.mark.parametrize("stale", ["", "seven", "7"])
def test_a_number_that_is_not_the_node_s_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stale: str
):
    """The file is damaged, or of a server whose database was lost: why it is shut out is what the log should say."""
    monkeypatch.setenv(NODE_ID, str(tmp_path / "node-id"))
    (tmp_path / "node-id").write_text(stale)
    server = Server()
    server.online = True
    with pytest.raises(ConnectionError, match="it is online"):
        coming_back(Server.activate, Server.deactivate)(server, "first")
    server.online = False
    coming_back(Server.activate, Server.deactivate)(server, "later")
    assert (tmp_path / "node-id").read_text() == "1"


def test_a_node_of_another_folder_cannot_throw_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server = Server()
    for name in ("one", "two"):
        monkeypatch.setenv(NODE_ID, str(tmp_path / name))
        activate = coming_back(Server.activate, Server.deactivate)
        if name == "one":
            activate(server, "first")
        else:
            with pytest.raises(ConnectionError):
                activate(server, "a copy of the folder, elsewhere")
    assert not server.gone


def test_a_lock_is_for_one_and_ends_with_it(tmp_path: Path):
    file = tmp_path / "lock"
    with file.open("w") as first, file.open("w") as second:
        assert take_lock(first)
        assert not take_lock(second)
        first.close()
        assert take_lock(second)


def test_flower_s_programs_take_no_settings_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Some open more ports; one makes Flower's server believe a stranger who says that it is this machine."""
    for name in ("FORWARDED_ALLOW_IPS", "FLWR_INTERNAL_GRPC_CONTROL_API", "NO_PROXY", "KEPT"):
        monkeypatch.setenv(name, "*" if name.startswith("FORWARDED") else "1")
    found = environment(tmp_path)
    assert "FORWARDED_ALLOW_IPS" not in found
    assert "FLWR_INTERNAL_GRPC_CONTROL_API" not in found
    assert found["KEPT"] == "1"
    monkeypatch.setattr(os, "environ", found)
    assert urllib.request.proxy_bypass_environment("127.0.0.1:9100")
    assert found["NO_PROXY"].startswith("1,")


def test_nobody_waits_for_what_ended_and_is_not_reaped():
    """As in a container without an init process, where every stop would take as long as a deaf program's."""
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    assert not _is_gone(alive.pid, 0.2)
    assert alive.stdin is not None
    alive.stdin.write(b"\n")
    alive.stdin.close()
    assert _is_gone(alive.pid, 20)  # not reaped: that is what wait would do
    assert alive.wait() == 0


STUBBORN = """
import signal, subprocess, sys, time
from lorgnette.federate.flower.programs import end_group_with_input
end_group_with_input()
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", sys.argv[2]])
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("hearing", ["good", "deaf"])
@pytest.mark.parametrize("killed", [False, True])
def test_a_child_ends_with_all_that_it_started(
    tmp_path: Path, hearing: str, killed: bool, monkeypatch: pytest.MonkeyPatch
):
    """Also where it hears no signal, and where whoever started it is killed."""
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    words, log = [sys.executable, "-c", STUBBORN, hearing, str(tmp_path)], tmp_path / "log"
    quick = "import lorgnette.federate.flower.programs as p; p.STOP_SECONDS = 0.5; "
    words[2] = quick + STUBBORN
    if not killed:
        monkeypatch.setattr("lorgnette.federate.flower.programs.STOP_SECONDS", 0.5)
        with child(words, os.environ, log):
            wait_for("it is up", lambda: b"ready" in log.read_bytes(), 60)
            assert len(processes_of(tmp_path)) == 3  # it, who watches for its end, and what it started
    else:
        starter = f"{quick}import os, pathlib\nwith p.child({words!r}, os.environ, pathlib.Path({str(log)!r})):\n"
        starting = subprocess.Popen([sys.executable, "-c", f"{starter}    p.time.sleep(1000)"])
        wait_for("it is up", lambda: log.exists() and b"ready" in log.read_bytes(), 60)
        starting.send_signal(signal.SIGKILL)
        starting.wait()
    until = time.monotonic() + 30
    while (left := processes_of(tmp_path)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []
