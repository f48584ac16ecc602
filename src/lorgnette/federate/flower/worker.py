"""A warm worker: the process at a site that holds model and data, and answers one request after another.

Flower starts a fresh client process for every message; that process only carries bytes here and back, so it needs
no torch and starts in a second. Requests and answers are bytes (the codec's); nothing is unpickled.

On the wire, on the loopback interface only, with both sides proving that they know a secret before a length is read:

    worker -> asker   "LGW1", 32 random bytes W
    asker -> worker   32 random bytes A, HMAC-SHA256(secret, "asker" W A)
    worker -> asker   HMAC-SHA256(secret, "worker" A W)
    asker -> worker   8-byte length, request
    worker -> asker   status byte (0 answer, 1 refusal), 8-byte length, answer or one line that says why not

Port and secret lie in a file that only the owner can read. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lorgnette.common.files import read_json
from lorgnette.federate.deploy.keys import write_private

GREETING = b"LGW1"
HANDSHAKE_SECONDS = 10.0
LOOK_SECONDS = 0.1
MAX_BYTES = 4 * 2**30
CHUNK = 2**20

Answer = Callable[[bytes, threading.Event], bytes]
"""Request -> answer. The event is set when the asker hung up: nobody wants the answer any more."""


class WorkerRefused(ValueError):
    """The worker understood the request and said why it does not answer it."""


class WorkerUnreachable(ValueError):
    """There is no worker, it does not know the secret, or it did not answer in time."""


def ask(endpoint: str | os.PathLike[str], request: bytes, timeout: float) -> bytes:
    """Send a request to the worker and wait for its answer.

    Args:
        endpoint: the file that the worker wrote.
        request: any bytes.
        timeout: seconds that the worker may think.

    Raises:
        WorkerRefused: the worker refused; its reason.
        WorkerUnreachable: no worker there, a stranger at its port, or no answer in time.
    """
    try:
        where = read_json(endpoint)
        secret, port = bytes.fromhex(where["secret"]), int(where["port"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        raise WorkerUnreachable("no worker is running at this site: `lorgnette federate node` starts one") from None
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=HANDSHAKE_SECONDS) as connection:
            worker_nonce = _read(connection, len(GREETING) + 32).removeprefix(GREETING)
            own_nonce = secrets.token_bytes(32)
            connection.sendall(own_nonce + _proof(secret, b"asker", worker_nonce, own_nonce))
            if not hmac.compare_digest(_read(connection, 32), _proof(secret, b"worker", own_nonce, worker_nonce)):
                raise WorkerUnreachable(f"another program listens on port {port} where the worker was")
            connection.settimeout(max(0.001, timeout))
            _send(connection, request)
            refused = _read(connection, 1) != b"\0"
            answer = _read_frame(connection)
    except TimeoutError:
        raise WorkerUnreachable(f"the worker did not answer within {timeout:g} s") from None
    except (OSError, EOFError):
        raise WorkerUnreachable("the worker is gone or broke off") from None
    if refused:
        raise WorkerRefused(answer.decode("utf-8", "replace"))
    return answer


@contextlib.contextmanager
def serving(answer: Answer, endpoint: str | os.PathLike[str]) -> Iterator[int]:
    """Answer requests on a free port of the loopback interface while the block runs; yields the port.

    Requests are answered one at a time, in the order in which they come.

    Args:
        answer: what to do; a ValueError that it raises becomes a refusal with its text (without file names).
        endpoint: file to write port and secret to; it goes away with the worker.
    """
    endpoint, secret = Path(endpoint), secrets.token_bytes(32)
    one_at_a_time, closing = threading.Lock(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        _write_endpoint(endpoint, port, secret)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    if closing.is_set():
                        return
                    time.sleep(LOOK_SECONDS)  # strangers hold all the connections that a process may have
                    continue
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError, EOFError):
                if _asker_knows(secret, connection):
                    request = _read_frame(connection)
                    with one_at_a_time, _watched(connection) as hung_up:
                        if hung_up.is_set():
                            return
                        status, reply = _answer(answer, request, hung_up)
                    connection.sendall(status)
                    _send(connection, reply)

        thread = threading.Thread(target=accept, name="worker", daemon=True)
        thread.start()
        try:
            yield port
        finally:
            endpoint.unlink(missing_ok=True)
            closing.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
    thread.join(timeout=5)


def packed(kind: str, round: int, data: bytes) -> bytes:
    """A request as bytes: a line that says what is asked, then the message."""
    return f"{kind} {round}\n".encode() + data


def unpacked(request: bytes) -> tuple[str, int, bytes]:
    """Kind, round and message of a request.

    Raises:
        ValueError: it is none.
    """
    line, found, data = request.partition(b"\n")
    match = re.fullmatch(rb"(train|greet) (\d{1,9})", line)
    if match is None or not found:
        raise ValueError("it is no request that this program knows")
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


@contextlib.contextmanager
def _watched(connection: socket.socket) -> Iterator[threading.Event]:
    """An event that is set once the asker hangs up; an asker says nothing more after its request."""
    hung_up, answered = threading.Event(), threading.Event()

    def look() -> None:
        while not answered.is_set():
            readable, _, _ = select.select([connection], [], [], LOOK_SECONDS)
            if readable and not answered.is_set():
                hung_up.set()
                return

    if select.select([connection], [], [], 0)[0]:
        hung_up.set()
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield hung_up
    finally:
        answered.set()
        watcher.join()


def _asker_knows(secret: bytes, connection: socket.socket) -> bool:
    connection.settimeout(HANDSHAKE_SECONDS)
    own_nonce = secrets.token_bytes(32)
    connection.sendall(GREETING + own_nonce)
    asker_nonce, proof = _read(connection, 32), _read(connection, 32)
    if not hmac.compare_digest(proof, _proof(secret, b"asker", own_nonce, asker_nonce)):
        return False
    connection.sendall(_proof(secret, b"worker", asker_nonce, own_nonce))
    connection.settimeout(None)
    return True


def _proof(secret: bytes, role: bytes, first: bytes, second: bytes) -> bytes:
    return hmac.digest(secret, role + first + second, "sha256")


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


def _write_endpoint(endpoint: Path, port: int, secret: bytes) -> None:
    beside = endpoint.with_name(f".{endpoint.name}-{os.getpid()}")
    beside.unlink(missing_ok=True)
    write_private(beside, f'{{"port": {port}, "secret": "{secret.hex()}", "pid": {os.getpid()}}}\n'.encode())
    beside.replace(endpoint)
