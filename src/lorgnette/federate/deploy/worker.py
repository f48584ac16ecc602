"""A site's worker: a child process that holds model and data and answers one request after another.

The node, which talks to the server, stays free of torch, and a model that fails or runs out of memory takes only the
worker with it. The two talk over a pair of connected sockets that no other process can reach; nothing is unpickled.

    node -> worker   8-byte length, request; length 0: nobody waits for the answer any more
    worker -> node   status byte (0 answer, 1 refusal), 8-byte length, answer or one line that says why not

The worker sends one empty answer of its own accord: it is ready. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lorgnette.federate.deploy.programs import child

LOOK_SECONDS = 1.0
MAX_BYTES = 4 * 2**30
CHUNK = 2**20

Answer = Callable[[bytes, threading.Event], bytes]
"""Request -> answer. The event is set once nobody waits for the answer any more."""


class WorkerRefused(ValueError):
    """The worker understood the request and said why it does not answer it."""


class WorkerLate(ValueError):
    """The worker did not answer in time; it may be asked again."""


class WorkerLost(ValueError):
    """The worker ended, or no longer listens: a new one is needed."""


class Worker:
    """The node's end of the connection.

    Args:
        connection: one of a pair of connected sockets; the worker has the other.
        is_alive: whether the worker's process still runs.
    """

    def __init__(self, connection: socket.socket, is_alive: Callable[[], bool]):
        self._connection, self._is_alive = connection, is_alive
        self._arrived = bytearray()
        self._owed = 1  # answers that are still to come; at first the one that says that it is ready
        self.is_lost = False
        """Whether it ended or no longer listens."""

    def ask(self, kind: str, round: int, data: bytes, seconds: float) -> bytes:
        """Send a request and wait for its answer, also for a worker that still starts.

        Args:
            kind: `train` or `greet`.
            round: from 1; 0 for a greeting.
            data: the message that goes with it.
            seconds: how long to wait.

        Raises:
            WorkerRefused: the worker refused; its reason.
            WorkerLate: no answer in time; the worker is told to give the work up.
            WorkerLost: the worker ended.
        """
        until = time.monotonic() + seconds
        try:
            self._take_what_is_owed(until)
            self._send(f"{kind} {round}\n".encode() + data, seconds)
            self._owed = 1
            refused, answer = self._receive(until)
        except TimeoutError:
            with contextlib.suppress(OSError):
                self._connection.sendall(bytes(8))
            raise WorkerLate(f"the worker did not answer within {seconds:g} s") from None
        if refused:
            raise WorkerRefused(answer.decode("utf-8", "replace"))
        return answer

    def _take_what_is_owed(self, until: float) -> None:
        while self._owed:
            self._receive(until)

    def _send(self, request: bytes, seconds: float) -> None:
        self._connection.settimeout(max(0.001, seconds))
        try:
            _send(self._connection, request)
        except OSError:  # half of it may be on the way: no next request would be understood
            raise self._lost("the worker is gone, or no longer listens") from None

    def _receive(self, until: float) -> tuple[bool, bytes]:
        refused = self._read(1, until, keep=True) != b"\0"
        length = int.from_bytes(self._read(9, until, keep=True)[1:], "big")
        answer = self._read(9 + length, until)[9:]
        self._owed -= 1
        return refused, answer

    def _read(self, length: int, until: float, keep: bool = False) -> bytes:
        """The next bytes; those of an answer that is not all there yet stay for the next time."""
        while len(self._arrived) < length:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(min(left, LOOK_SECONDS))
            try:
                piece = self._connection.recv(min(CHUNK, length - len(self._arrived)))
            except TimeoutError:
                if not self._is_alive():  # what it started may still hold its end
                    raise self._lost("the worker ended") from None
                continue
            except OSError:
                piece = b""
            if not piece:
                raise self._lost("the worker ended")
            self._arrived += piece
        found = bytes(self._arrived[:length])
        if not keep:
            del self._arrived[:length]
        return found

    def _lost(self, reason: str) -> WorkerLost:
        self.is_lost = True
        return WorkerLost(reason)


@contextlib.contextmanager
def site_worker(folder: Path, given: Mapping[str, Any], log: Path) -> Iterator[tuple[subprocess.Popen[bytes], Worker]]:
    """The worker of a site while the block runs: its process, which may still be starting, and the way to ask it.

    Args:
        folder: the site's.
        given: its own settings by flat name, such as `data.root`.
        log: file for what the program prints: `ready`, or why it ended.
    """
    ours, theirs = socket.socketpair()
    words = [sys.executable, "-m", "lorgnette.federate.deploy.data_holder", str(folder), json.dumps(dict(given))]
    with ours, theirs, child([*words, str(theirs.fileno())], os.environ, log, (theirs.fileno(),)) as process:
        theirs.close()
        yield process, Worker(ours, lambda: process.poll() is None)


def serve_requests(answer: Answer, connection: socket.socket) -> None:
    """Answer the node's requests, one at a time, until it hangs up.

    Args:
        answer: what to do; a ValueError that it raises becomes a refusal with its text (without file names).
        connection: the worker's end.
    """
    requests: queue.SimpleQueue[tuple[bytes, threading.Event] | None] = queue.SimpleQueue()

    def read() -> None:
        hung_up = threading.Event()
        try:
            while True:
                request = _read_frame(connection)
                if request:
                    hung_up = threading.Event()
                    requests.put((request, hung_up))
                else:
                    hung_up.set()
        except (OSError, EOFError):
            hung_up.set()
            requests.put(None)

    threading.Thread(target=read, name="requests", daemon=True).start()
    with contextlib.suppress(OSError):
        connection.sendall(b"\0" + bytes(8))  # ready
        while (asked := requests.get()) is not None:
            status, reply = _answer(answer, *asked)
            connection.sendall(status)
            _send(connection, reply)


def unpacked(request: bytes) -> tuple[str, int, bytes]:
    """Kind, round and message of a request.

    Raises:
        ValueError: it is none.
    """
    line, found, data = request.partition(b"\n")
    match = re.fullmatch(rb"(train|greet) (\d{1,9})", line)
    if match is None or not found:
        raise ValueError("unknown request")
    return match[1].decode(), int(match[2]), data


def without_paths(text: str) -> str:
    """One line that may leave the site: what looks like a file or folder name is struck out.

    `"scans/Mary Smith/3.png is damaged"` -> `"(details are in the site's own log)"`: where a path begins and ends
    cannot be told from words with spaces, so a line that holds one is withheld as a whole.
    """
    line = " ".join(text.split())
    names_a_file = re.search(r"[/\\]|\w\.(?!\d)\w{1,5}\b", line)
    return "(details are in the site's own log)" if names_a_file else line[:500]


def _answer(answer: Answer, request: bytes, hung_up: threading.Event) -> tuple[bytes, bytes]:
    try:
        return b"\0", answer(request, hung_up)
    except ValueError as error:
        return b"\1", without_paths(str(error)).encode()
    except Exception as error:  # a full GPU, a lost disk: the next request may go well
        return b"\1", f"{type(error).__name__} {without_paths(str(error))}".encode()


def _send(connection: socket.socket, content: bytes) -> None:
    connection.sendall(len(content).to_bytes(8, "big"))
    connection.sendall(content)


def _read_frame(connection: socket.socket) -> bytes:
    length = int.from_bytes(_read(connection, 8), "big")
    if length > MAX_BYTES:
        raise EOFError
    return _read(connection, length)


def _read(connection: socket.socket, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:  # memory grows with what really arrives
        piece = connection.recv(min(CHUNK, length - len(content)))
        if not piece:
            raise EOFError
        content += piece
    return bytes(content)
