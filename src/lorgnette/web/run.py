"""`lorgnette serve`, until it is told to stop."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from lorgnette.web.api import make_app
from lorgnette.web.guard import Guard
from lorgnette.web.server import Server
from lorgnette.web.settings import Settings

CONNECTIONS = 500
HEAD_BYTES = 2**18
"""Most of a request's address and headers; lists of classes or jobs stand in addresses."""


def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM: the job that runs may end, then nothing is left behind. A second one hurries.

    Args:
        settings: how and where.
        ready: is called with the address once the server listens.

    Raises:
        ValueError: it cannot listen there, in one line.
    """
    with _socket(settings) as listening:  # first, as this is what goes wrong
        server = Server(settings)
        try:
            Listening(server, ready).run([listening])
        finally:
            server.close()


def _socket(settings: Settings) -> socket.socket:
    try:
        family, *_, where = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(where[:2], family=family, backlog=CONNECTIONS)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"cannot listen at {settings.host}:{settings.port}: {reason}; try another --port") from None


class Listening(uvicorn.Server):
    """uvicorn's server, which stops in good order.

    Args:
        server: what its doors lead to.
        ready: as for `serve`.
    """

    def __init__(self, server: Server, ready: Callable[[str], None]):
        app = make_app(server)
        if server.settings.page:
            from lorgnette.web.page.build import add_page

            app = add_page(app, server)
        config = uvicorn.Config(
            Guard(app, server.settings),
            server.settings.host,
            server.settings.port,
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # anybody can write them
            server_header=False,
            ws="none",
            http="h11",  # the other one stops at addresses of 64 kB, and answers in plain text
            limit_concurrency=CONNECTIONS,
            h11_max_incomplete_event_size=HEAD_BYTES,
            timeout_keep_alive=15,
        )
        super().__init__(config)
        self._jobs_of, self._ready = server, ready

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        for listening in self.servers if self.started else ():
            host, port = listening.sockets[0].getsockname()[:2]
            self._ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's own, but that the signals are not raised again: they are dealt with."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sign: signal.signal(sign, self.handle_exit) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        threading.Thread(target=self._wind_up, name="stop", daemon=True).start()

    def _wind_up(self) -> None:
        self._jobs_of.jobs.stop(self._jobs_of.settings.limits.stop_seconds)
        threading.Event().wait(1)  # what waited for a job gets its answer
        self.force_exit = True  # pages that listen would listen for ever
