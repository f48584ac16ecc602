"""How rounds reach clients: bytes go out, bytes come back. A network implements `Transport`; `InProcess` runs clients
in this process."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol


class Cancelled(Exception):
    """Raised inside a client whose answer nobody waits for any more."""


class Reply(NamedTuple):
    """What came back from one client."""

    client: str
    data: bytes
    """Its message; empty where there is none."""
    error: str = ""
    """Why there is no message, in one line."""
    seconds: float = 0.0
    """From the question to the answer."""


class Client(Protocol):
    """One holder of data."""

    def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
        """Train on what the server sent; the same answer whenever the same round is asked again.

        Args:
            round: from 1.
            work: a message, see `lorgnette.federate.wire.messages`.
            cancelled: set when nobody waits any more; then it may raise `Cancelled`.

        Raises:
            ValueError: it cannot; one line says why.
        """
        ...


class Transport(Protocol):
    """The way from the rounds to the clients."""

    def clients(self) -> Sequence[str]:
        """Names of the clients that can be asked now."""
        ...

    def ask(self, round: int, work: Mapping[str, bytes], deadline: float | None) -> Iterator[Reply]:
        """Send each client its message and give the replies as they come in.

        Args:
            round: from 1.
            work: client -> message.
            deadline: seconds after which it ends, whoever has not answered; None waits for all.
        """
        ...


class InProcess:
    """Clients in this process, one after another.

    On a network they would work side by side, and so the deadline is for each of them: who needs longer is left
    behind in a thread of its own and not asked again before it comes back.

    Args:
        clients: by name.
    """

    def __init__(self, clients: Mapping[str, Client]):
        self._clients = dict(clients)
        self._behind: dict[str, threading.Thread] = {}

    def clients(self) -> list[str]:
        return sorted(self._clients)

    def ask(self, round: int, work: Mapping[str, bytes], deadline: float | None) -> Iterator[Reply]:
        for name, message in work.items():
            if name in self._behind and self._behind[name].is_alive():
                continue
            started = time.perf_counter()
            if deadline is None:
                data, error = _answer(self._clients[name], round, message, None)
            elif (answer := self._within(deadline, name, round, message)) is not None:
                data, error = answer
            else:
                continue
            yield Reply(name, data, error, time.perf_counter() - started)

    def _within(self, deadline: float, name: str, round: int, message: bytes) -> tuple[bytes, str] | None:
        answers: queue.SimpleQueue[tuple[bytes, str] | BaseException] = queue.SimpleQueue()
        cancelled = threading.Event()

        def work() -> None:
            try:
                answers.put(_answer(self._clients[name], round, message, cancelled))
            except Cancelled:
                pass
            except BaseException as error:  # a programming error: to be seen at once
                answers.put(error)

        thread = threading.Thread(target=work, name=f"client {name}", daemon=True)
        thread.start()
        try:
            answer = answers.get(timeout=deadline)
        except queue.Empty:
            self._behind[name] = thread
            return None
        finally:
            cancelled.set()
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _answer(client: Client, round: int, message: bytes, cancelled: threading.Event | None) -> tuple[bytes, str]:
    try:
        return client.train(round, message, cancelled), ""
    except (ValueError, OSError) as error:
        return b"", " ".join(str(error).split()) or type(error).__name__
