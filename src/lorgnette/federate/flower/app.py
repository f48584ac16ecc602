"""Flower carries the rounds: the only file that imports flwr (1.41; its inner parts change with each minor version).

    server, client        the two halves of the Flower app, the same in a simulation and on many machines
    GridTransport         `lorgnette.federate.rounds.transport.Transport` over Flower's grid, with our own deadline
    run_program           superlink, supernode or executor:
                          Flower's own programs, ending with the process that started them; the server answers
                          strangers only on the paths that nodes need, a node looks often for messages, and the
                          executor forks the client process of each message from one that has Flower imported

`client` imports no torch: it carries bytes to the warm worker of the site. Only in a simulation, where Flower keeps
its processes, it holds a client itself.
"""

# pyright: reportMissingImports=false
# (flwr is optional)

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from lorgnette.federate.deploy.board import NOT_CONNECTED
from lorgnette.federate.deploy.folder import APP_FILES
from lorgnette.federate.deploy.keys import public_key_pem
from lorgnette.federate.flower.guard import OnlyNodes, only_its_own, own_app_only
from lorgnette.federate.flower.node import HEARTBEAT_SECONDS, POLL_SECONDS, Waits, coming_back
from lorgnette.federate.flower.programs import end_group_with_input
from lorgnette.federate.rounds.transport import Reply

FOLDER = "LORGNETTE_FEDERATION"  # environment: the server's folder, or that of a simulation
WORKER = "LORGNETTE_WORKER"  # environment: the file that says where a site's worker listens
RECORD = "lorgnette"
MARGIN_SECONDS = 5.0
HEARTBEAT, BACKOFF = "HEARTBEAT_DEFAULT_INTERVAL", "initial_backoff"  # settings of Flower's
PATIENCE_SECONDS = 7 * 86400.0  # with a worker, where the rounds have no deadline

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
        return Reply(name, b"", "its answer is not one of Lorgnette's", seconds)
    return Reply(name, content["data"], _line(content.get("error", ""))[:500], seconds)


def _line(text: object) -> str:
    """A stranger's words in one line, without what steers a terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))


# ------------------------------------------------------------------------------------------ at a site


@client.train()
def _train(message: Message, context: Context) -> Message:
    return _answer("train", message, context)


@client.query()
def _greet(message: Message, context: Context) -> Message:
    return _answer("greet", message, context)


def _answer(kind: str, message: Message, context: Context) -> Message:
    content: Any = message.content[RECORD]
    reply: Any = {"data": b""}
    try:
        reply["data"] = _asked(kind, content["round"], content["data"], content["seconds"], context)
    except Exception as error:  # Flower would send its text, with whatever file names are in it
        from lorgnette.federate.flower.worker import without_paths

        name = "" if isinstance(error, ValueError) else f"{type(error).__name__} "
        reply["error"] = f"{name}{without_paths(str(error))}"
    return Message(RecordDict({RECORD: ConfigRecord(reply)}), reply_to=message)


def _asked(kind: str, round: int, data: bytes, seconds: float, context: Context) -> bytes:
    if WORKER in os.environ:
        from lorgnette.federate.flower.worker import ask, packed

        return ask(os.environ[WORKER], packed(kind, round, data), seconds if seconds > 0 else PATIENCE_SECONDS)
    from lorgnette.federate.flower.simulated import answer

    return answer(Path(os.environ[FOLDER]), int(context.node_config["partition-id"]), kind, round, data)


# -------------------------------------------------------------------------------------- at the server


@server.main()
def _main(grid: Grid, context: Context) -> None:
    from lorgnette.federate.flower.serving import run_rounds

    _pull_again_soon()
    run_rounds(Path(os.environ[FOLDER]), partial(GridTransport, grid))


def _pull_again_soon() -> None:
    """A message may be seen before all of it is there; Flower would look again only after a second."""
    from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree, pull_objects

    for pull in (pull_objects, pull_and_inflate_object_from_tree):
        assert BACKOFF in pull.__kwdefaults__, "Flower 1.41 has it"
        pull.__kwdefaults__[BACKOFF] = POLL_SECONDS


def _superlink() -> None:
    """Flower's server link, with strangers kept to the interface of the nodes."""
    command: Any = importlib.import_module("flwr.superlink.cli.flower_superlink")
    assert "get_popen_detach_kwargs" in vars(command), "Flower 1.41 has it"
    command.get_popen_detach_kwargs = dict  # what it starts stays in this group, to end with it
    sites = Path(os.environ[FOLDER]) / "server" / "sites"
    guard_server([public_key_pem(file) for file in sites.glob("*.pub")])
    command.flower_superlink()


def guard_server(keys: Sequence[bytes]) -> None:
    """Keep what Flower's server will answer to what nodes with these public keys (PEM) may ask."""
    import flwr.superlink.main
    from flwr.superlink.servicer.fleet import fleet_handlers

    make = flwr.superlink.main.create_app

    def guarded(*args: Any, **kwargs: Any) -> Any:
        app = make(*args, **kwargs)
        app.add_middleware(OnlyNodes, keys=keys)
        return app

    flwr.superlink.main.create_app = guarded
    fleet_handlers.push_messages = only_its_own(fleet_handlers.push_messages)


def _supernode() -> None:
    """Flower's node, which runs no program of the server's but the app that Lorgnette itself writes."""
    from flwr.cli.build import build_fab_from_files
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supercore import heartbeat
    from flwr.supercore.run import RunNotRunningException
    from flwr.supernode import fleet_http_connection, start_client_internal as node
    from flwr.supernode.cli import flower_supernode
    from flwr.supernode.fleet_http_client import FleetHttpClient

    for module in (heartbeat, fleet_http_connection):  # a node that is gone is missed after two of them
        assert HEARTBEAT in vars(module), "Flower 1.41 has it"
        vars(module)[HEARTBEAT] = HEARTBEAT_SECONDS
    FleetHttpClient.ActivateNode = coming_back(  # type: ignore[method-assign]
        FleetHttpClient.ActivateNode,
        lambda client, node_id: client.DeactivateNode(DeactivateNodeRequest(node_id=node_id)),
    )
    assert node.time is time, "Flower 1.41 sleeps with it"
    node.time = Waits()
    _pull_again_soon()

    own, _ = build_fab_from_files({name: text.encode() for name, text in APP_FILES.items()})
    connect = node._init_connection

    @contextlib.contextmanager
    def guarded(*args: Any, **kwargs: Any) -> Iterator[tuple[Any, ...]]:
        with connect(*args, **kwargs) as (node_id, receive, send, get_run, get_fab, *others):
            yield (node_id, receive, send, *own_app_only(get_run, get_fab, own, RunNotRunningException), *others)

    node._init_connection = guarded
    flower_supernode()


def _error_without_paths(code: int, reason: str) -> Any:
    """What Flower tells the server where not even our app could be started: a full disk, say."""
    from flwr.app import Error

    from lorgnette.federate.flower.worker import without_paths

    return Error(code=code, reason=without_paths(reason))


def _executor() -> None:
    """Flower's executor, which starts client processes: forked with Flower imported, not each from nothing."""
    from flwr.supercore.cli import flower_superexec
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor import LaunchResult
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
    from flwr.supernode.runtime import run_clientapp

    assert "Error" in vars(run_clientapp), "Flower 1.41 makes its reasons with it"
    run_clientapp.Error = _error_without_paths
    _pull_again_soon()
    forks = multiprocessing.get_context("fork")  # nothing else runs in this process

    def launch(_: SubprocessExecutor, spec: Any) -> LaunchResult:
        if spec.task_type != TaskType.CLIENT_APP:
            return LaunchResult.failed(f"a node runs client apps, not {spec.task_type}")
        multiprocessing.active_children()  # reaps those that are done
        words = (spec.runtime_api_address, spec.token, spec.insecure, None, spec.parent_pid)
        forks.Process(target=run_clientapp.run_clientapp, args=words, daemon=True).start()
        return LaunchResult.accepted()

    if sys.platform == "linux":  # Apple's libraries do not bear a fork
        SubprocessExecutor.launch = launch
    flower_superexec()


def run_program() -> None:
    """Run the program that the first word of the command line names."""
    program = {"superlink": _superlink, "supernode": _supernode, "executor": _executor}[sys.argv.pop(1)]
    end_group_with_input()
    program()
