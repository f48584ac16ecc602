"""Child programs that end with the process that started them, killed or not: their standard input ends with it.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lorgnette.federate.deploy.reach import reachable

START_SECONDS = 180.0
STOP_SECONDS = 15.0


@contextlib.contextmanager
def child(
    words: list[str], env: Mapping[str, str], log: Path, descriptors: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that ends with the block, or with this process.

    Args:
        words: its command line.
        env: its environment.
        log: file for what it prints; the one of the last time is kept beside it.
        descriptors: open files that it gets, under the same numbers.
    """
    if log.exists():
        log.replace(log.with_suffix(".previous.log"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
            pass_fds=descriptors,
        )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()  # it ends itself, with what it started
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if not _is_gone(process.pid, STOP_SECONDS + 2, process.poll):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_group_with_input() -> None:
    """End this process, and all that it will have started, when its standard input ends: with whoever started it.

    To be called at the start of a program. A forked process outside its group sees to it: a program that ends on a
    signal need not wait for those that it started.
    """
    group = os.getpid()
    if os.getpgrp() != group:  # else whoever started it would end, too
        os.setpgid(0, 0)
    if os.fork():
        return
    os.setsid()
    os.closerange(3, 1024)  # whoever waits for the program to hang up must not wait for this process
    while os.read(0, 4096):
        pass
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        if not _is_gone(group, STOP_SECONDS):
            os.killpg(group, signal.SIGKILL)
    os._exit(0)


def _is_gone(group: int, seconds: float, reap: Callable[[], object] = lambda: None) -> bool:
    """Whether nobody of a group of processes is left, after so many seconds at most."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        reap()
        if not _is_alive(group):
            return True
        time.sleep(0.05)
    return False


def _is_alive(group: int) -> bool:
    """Whether a process of a group still runs: one that ended and was not reaped (who would, in a container?) does not.

    A signal reaches it on Linux, so `/proc` is asked, too; macOS has none and refuses the signal.
    """
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return not Path("/proc/self/stat").exists()


@contextlib.contextmanager
def stopping_on_terminate() -> Iterator[None]:
    """Within the block SIGTERM, as service managers send it, ends this process as Ctrl-C does: programs first."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def started(process: subprocess.Popen[bytes], log: Path, is_up: Callable[[], bool]) -> Iterator[None]:
    """Wait until a program is up; a ValueError with the end of its log where it ends instead."""
    until = time.monotonic() + START_SECONDS
    while not is_up():
        if process.poll() is not None or time.monotonic() > until:
            raise ValueError(last_words(log))
        time.sleep(0.2)
    yield


def last_words(log: Path) -> str:
    """The last line that a program wrote, and where the rest is."""
    lines = log.read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"{last[:300]} (all of it: {log})"


def says_ready(log: Path) -> bool:
    """Whether a program wrote the line `ready`."""
    return b"ready\n" in log.read_bytes()


def is_up(address: str, ca_file: Path) -> bool:
    """Whether a server answers over TLS."""
    try:
        reachable(address, ca_file, timeout=2.0)
    except ValueError:
        return False
    return True


def listens(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2.0).close()
    except OSError:
        return False
    return True


def require_free_port(host: str, port: int) -> None:
    """A one-line ValueError where this port cannot be listened on."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port} ({os.strerror(error.errno or 0)})") from None


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
