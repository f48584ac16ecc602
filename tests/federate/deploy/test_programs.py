"""Child programs: they end with whoever started them, and take no settings from the shell."""

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
from lorgnette.federate.deploy.programs import _is_gone, child
from lorgnette.federate.flower.command import environment


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
from lorgnette.federate.deploy.programs import end_group_with_input
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
    quick = "import lorgnette.federate.deploy.programs as p; p.STOP_SECONDS = 0.5; "
    words[2] = quick + STUBBORN
    if not killed:
        monkeypatch.setattr("lorgnette.federate.deploy.programs.STOP_SECONDS", 0.5)
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
