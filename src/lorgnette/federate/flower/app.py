"""The app that Flower carries: the server's half, which runs the rounds over Flower's grid, and a simulated client.

    server, client        what `APP_FILES` of a federation's folder names
    GridTransport         `lorgnette.federate.rounds.transport.Transport` over Flower's grid, with our own deadline

On several machines no client app runs: `lorgnette.federate.flower.node` answers for a site.
"""

# pyright: reportMissingImports=false
# (flwr is optional)

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from lorgnette.federate.deploy.board import NOT_CONNECTED
from lorgnette.federate.flower.replaced import POLL_SECONDS, replace
from lorgnette.federate.rounds.transport import Reply

FOLDER = "LORGNETTE_FEDERATION"  # environment: the folder of the federation
RECORD = "lorgnette"
MARGIN_SECONDS = 5.0

server, client = ServerApp(), ClientApp()


class GridTransport:
    """Rounds over Flower's grid.

    Args:
        grid: Flower's.
        names: all clients; who is asked, and at which rank, must not depend on who happens to be connected.
        name_of: the client that a node speaks for, from what Flower knows of it; None for strangers.
        quorum: share of those asked without which a round is not begun.
        gather: seconds to wait for so many.
    """

    def __init__(
        self,
        grid: Grid,
        names: Sequence[str],
        name_of: Callable[[Any], str | None],
        quorum: float = 0.0,
        gather: float = 0.0,
    ):
        self.grid, self.names, self.name_of, self.quorum, self.gather = grid, sorted(names), name_of, quorum, gather

    def clients(self) -> list[str]:
        """See `lorgnette.federate.rounds.transport.Transport`."""
        return self.names

    def connected(self) -> list[str]:
        """Names of the clients that are connected now."""
        return sorted(self._nodes())

    def ask(self, round: int, work: Mapping[str, bytes], deadline: float | None) -> Iterator[Reply]:
        """See `lorgnette.federate.rounds.transport.Transport`; a client that is absent gives an error at once."""
        until = time.monotonic() + self.gather
        while len(work.keys() & self._nodes().keys()) < self.quorum * len(work) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return self._ask("train", round, work, deadline)

    def greet(self, names: Sequence[str], seconds: float) -> Iterator[Reply]:
        """Ask clients who they are; each answers with a line of JSON."""
        return self._ask("query", 0, dict.fromkeys(names, b""), seconds)

    def _ask(self, kind: str, round: int, work: Mapping[str, bytes], deadline: float | None) -> Iterator[Reply]:
        started = time.monotonic()
        nodes = self._nodes()
        for name in work.keys() - nodes.keys():
            yield Reply(name, b"", NOT_CONNECTED)
        there = [name for name in work if name in nodes]
        messages = [_message(kind, round, work[name], nodes[name], deadline) for name in there]
        sent = zip(self.grid.push_messages(messages), there, strict=True)
        waiting = {id: name for id, name in sent if id is not None}  # None: the node has just been taken away
        while waiting and (deadline is None or time.monotonic() - started < deadline):
            for reply in self.grid.pull_messages(list(waiting)):
                name = waiting.pop(reply.metadata.reply_to_message_id, None)
                if name is not None:
                    yield _reply(name, reply, time.monotonic() - started)
            time.sleep(POLL_SECONDS)

    def _nodes(self) -> dict[str, int]:
        named = ((self.name_of(node), node.node_id) for node in self.grid.get_nodes())
        return {name: node_id for name, node_id in named if name is not None}


def _message(kind: str, round: int, data: bytes, node_id: int, deadline: float | None) -> Message:
    content = ConfigRecord({"round": round, "data": data, "seconds": -1.0 if deadline is None else deadline})
    # Soon after the deadline Flower drops what was not fetched: a node that comes back is not held up by old work.
    ttl = None if deadline is None else deadline + MARGIN_SECONDS
    return Message(RecordDict({RECORD: content}), node_id, kind, ttl=ttl, group_id=str(round))


def _reply(name: str, reply: Message, seconds: float) -> Reply:
    if reply.has_error():
        return Reply(name, b"", f"Flower: {_line(reply.error.reason)[:200]}", seconds)
    record = reply.content.get(RECORD)
    content: dict[str, Any] = dict(record) if isinstance(record, ConfigRecord) else {}
    if not isinstance(content.get("data"), bytes):
        return Reply(name, b"", "its answer is not in Lorgnette's format", seconds)
    return Reply(name, content["data"], _line(content.get("error", ""))[:500], seconds)


def _line(text: object) -> str:
    """Untrusted text in one line, without terminal control characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))


@client.train()
def _train(message: Message, context: Context) -> Message:
    return _answer("train", message, context)


@client.query()
def _greet(message: Message, context: Context) -> Message:
    return _answer("greet", message, context)


def _answer(kind: str, message: Message, context: Context) -> Message:
    from lorgnette.federate.flower.simulated import answer

    content: Any = message.content[RECORD]
    reply: Any
    try:
        number = int(context.node_config["partition-id"])
        reply = {"data": answer(Path(os.environ[FOLDER]), number, kind, content["round"], content["data"])}
    except ValueError as error:  # a refusal; of anything else Flower tells
        reply = {"data": b"", "error": str(error)}
    return Message(RecordDict({RECORD: ConfigRecord(reply)}), reply_to=message)


@server.main()
def _main(grid: Grid, context: Context) -> None:
    from lorgnette.federate.deploy.serving import run_rounds

    replace()
    run_rounds(Path(os.environ[FOLDER]), partial(GridTransport, grid))
