"""Programs of a federation, started by their commands, killed as a machine that loses power, and counted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.federate.studies import own_data

from lorgnette.federate.deploy.board import Board

SOURCE = Path(__file__).parents[2] / "src"
PATIENCE = 900.0  # seconds for what takes a minute on a machine of its own


def started(log: Path, *words: str) -> subprocess.Popen[bytes]:
    """`lorgnette federate WORDS`, with its output in `log`."""
    no_proxy = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}  # nobody is to ask it
    env = os.environ | no_proxy | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        command = [sys.executable, "-m", "lorgnette", "federate", *words]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env)


def start_node(study: Path, site: str, folder: Path | None = None) -> subprocess.Popen[bytes]:
    """A site's node with the site's pictures."""
    folder = folder or study / "sites" / site
    (name, root), *_ = own_data(study, site).items()
    return started(folder / "node-output.log", "node", str(folder), f"--{name}", root)


@contextlib.contextmanager
def running(processes: list[subprocess.Popen[bytes]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Stop these at the end as an operator does; more may be added meanwhile."""
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all that come from it, as when a machine loses power."""
    family = [pid]
    parents = _parents()
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    for one in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


@contextlib.contextmanager
def frozen(*words: str) -> Iterator[list[int]]:
    """Hold the processes with all of these words in their command line, from the first moment that there are some."""
    found: list[int] = []
    wait_for(f"a process with {words}", lambda: bool(found.extend(_with_words(words)) or found), PATIENCE)
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield found
    finally:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _with_words(words: Sequence[str]) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if all(word.encode() in (process / "cmdline").read_bytes().split(b"\0") for word in words):
                found.append(int(process.name))
    return found


def wait_for(what: str, happened: Callable[[], bool], seconds: float) -> float:
    """Wait until something is so; gives the seconds it took."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)
    return time.monotonic() - began


def board_of(study: Path) -> Board | None:
    """The operator's board, once there is one."""
    with contextlib.suppress(FileNotFoundError):
        return Board.read(study / "run" / "board.json")
    return None


def is_training(study: Path, round: int) -> bool:
    """Whether this round is under way."""
    board = board_of(study)
    return board is not None and board.round == round and board.phase == "training"


def processes_of(folder: Path) -> list[str]:
    """Command lines of living processes that know of a folder by their words, environment or working folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words, env = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
            if words and str(folder).encode() in words + env:
                found.append(words.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def _parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = stat.read_text()
            found[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    return found
