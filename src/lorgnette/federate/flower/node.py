"""A site's node: its connection to Flower's server, over which it is asked and answers. Imports no torch.

Flower's own node downloads the program of every run and executes it. This one speaks the same protocol but knows two
requests only, a greeting and a training, and hands their bytes to the site's worker: nothing that the server sends is
ever executed.
"""

# pyright: reportMissingImports=false
# (flwr is optional)

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree, push_objects
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from lorgnette.common.files import write_text
from lorgnette.federate.deploy.keys import read_node_key
from lorgnette.federate.deploy.reach import reachable
from lorgnette.federate.deploy.worker import Worker, without_paths
from lorgnette.federate.flower.app import RECORD
from lorgnette.federate.flower.replaced import POLL_SECONDS

HEARTBEAT_SECONDS = 10.0  # what the server is told: who is not heard for twice as long is gone
BEAT_SECONDS = HEARTBEAT_SECONDS / 3
IDLE_SECONDS = 3.0
WAITS = (0.5, 1.0, 2.0, 2.0, 2.0, 5.0)  # before the server is called again
REGISTERING = 4  # refusals that are not told: a server that has just started still registers its sites
PATIENCE_SECONDS = 7 * 86400.0  # with the worker, where the rounds have no deadline
PULL_SECONDS = 600.0  # for all parts of a message to arrive at the server
KINDS = {"train": "train", "query": "greet"}  # Flower's name of a request: ours

_log = logging.getLogger(__name__)

NOT_LET_IN = (
    "the server does not let this key in: is node.pub in its server/sites, and was it served since? Does a node with "
    "this key run elsewhere?"
)


def take_part(folder: Path, address: str, worker: Worker, stop: threading.Event, show: Callable[[str], None]) -> None:
    """Answer the server until told to stop; where it cannot be reached, or ends, call it again.

    Args:
        folder: the site's, with its key.
        address: HOST:PORT.
        worker: does what is asked.
        stop: ends it.
        show: called with a line whenever there is another reason why the server does not answer.
    """
    told, failures = "", 0
    while not stop.is_set():
        try:
            with FleetLink(folder, address) as link:
                told, failures = "", 0
                _answer_requests(link, worker, stop)
            return
        except httpx.HTTPError as error:
            refused = isinstance(error, httpx.HTTPStatusError)
            reason = NOT_LET_IN if refused else _why(folder, address, error)
            if reason != told and not (refused and failures < REGISTERING):
                _log.info("%s: %s", error, error.response.text[:500] if refused else "")
                show(f"{reason} It is tried again until it answers")
                told = reason
        stop.wait(WAITS[min(failures, len(WAITS) - 1)])
        failures += 1


def pause(idle: float) -> float:
    """Seconds until the next look for a request, from the seconds since the last one.

    The site that a round waited for is the first to see the next round, and idle nodes are no burden to the server.
    """
    return min(IDLE_SECONDS, max(POLL_SECONDS, idle / 10))


class FleetLink:
    """The connection of one node: signed requests over TLS, and a heartbeat while it is open.

    Args:
        folder: the site's: `ca.crt`, `node.key`, and `run/node-id` for the number that the server knows it by.
        address: HOST:PORT.

    Raises:
        httpx.HTTPError: in all methods: the server cannot be reached, or refuses.
    """

    def __init__(self, folder: Path, address: str):
        key, self._public = read_node_key(folder / "node.key")
        signed: Any = NodeAuthHttpInterceptor(key, key.public_key())
        version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
        ca_file = (folder / "ca.crt").read_bytes()
        self._client = FleetHttpClient.from_server_address(address, False, ca_file, [version, signed])
        self._number_file = folder / "run" / "node-id"
        self._closed = threading.Event()
        self._node = Node()

    def __enter__(self) -> Self:
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS)
        try:
            try:
                number = self._client.ActivateNode(request).node_id
            except httpx.HTTPStatusError:
                self._take_leave_for_the_one_before()
                number = self._client.ActivateNode(request).node_id
        except BaseException:
            self._client.close()
            raise
        write_text(self._number_file, str(number))
        self._node = Node(node_id=number)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        with contextlib.suppress(httpx.HTTPError, RuntimeError):
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        self._client.close()

    def _take_leave_for_the_one_before(self) -> None:
        """Make the server take the node that ran here before for gone.

        It takes a key for online, and lets nobody in with it, until two heartbeats are missed. Of the node before this
        one it is known that it is gone: a site's folder is locked by one node at a time.
        """
        with contextlib.suppress(httpx.HTTPError, OSError, ValueError):  # no number, or another's: activation says so
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=int(self._number_file.read_text())))

    def _beat(self) -> None:
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        while not self._closed.wait(BEAT_SECONDS):
            with contextlib.suppress(httpx.HTTPError, RuntimeError):  # who looks for requests finds out, too
                self._client.SendNodeHeartbeat(request)

    def receive(self) -> Message | None:
        """The next request for this node, if there is one."""
        found = self._client.PullMessages(PullMessagesRequest(node=self._node))
        if not found.messages_list:
            return None
        run_id, tree = found.messages_list[0].metadata.run_id, found.message_object_trees[0]
        message = pull_and_inflate_object_from_tree(
            tree,
            make_pull_object_fn_protobuf(self._client.PullObject, self._node, run_id),
            make_confirm_message_received_fn_protobuf(self._client.ConfirmMessageReceived, self._node, run_id),
            return_type=Message,
            max_time=PULL_SECONDS,
            initial_backoff=POLL_SECONDS,
        )
        message.metadata.__dict__["_message_id"] = tree.object_id  # it is not part of what is sent
        return message

    def reply(self, message: Message, content: dict[str, Any], seconds: float) -> None:
        """Answer a request.

        Args:
            message: the request.
            content: the answer.
            seconds: how long it took.
        """
        reply = Message(RecordDict({RECORD: ConfigRecord(content)}), reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run_id = message.metadata.run_id
        with no_object_id_recompute():
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[seconds],
            )
            wanted = self._client.PushMessages(request)
            push = make_push_object_fn_protobuf(self._client.PushObject, self._node, run_id, wanted.session_id)
            push_objects(get_all_nested_objects(reply), push, object_ids_to_push=set(wanted.objects_to_push))


def _answer_requests(link: FleetLink, worker: Worker, stop: threading.Event) -> None:
    last = time.monotonic()
    while not stop.wait(pause(time.monotonic() - last)):
        try:
            message = link.receive()
        except httpx.HTTPError:
            raise
        except Exception as error:  # a message that is damaged or was taken back: the next one may be good
            _log.info("a request was dropped: %r", error)
            continue
        if message is None:
            continue
        began = time.monotonic()
        content, until = answer(message, worker)
        while True:
            try:
                link.reply(message, content, time.monotonic() - began)
                break
            except httpx.TransportError:  # an answer that took long is worth some patience
                if time.monotonic() > until or stop.wait(WAITS[0]):
                    raise
            except httpx.HTTPStatusError as error:  # its run is over, say
                _log.info("an answer was not taken: %s: %s", error, error.response.text[:500])
                break
        last = time.monotonic()


def answer(message: Message, worker: Worker) -> tuple[dict[str, Any], float]:
    """The worker's answer to a request, or why there is none, and until when the server waits for it."""
    until = time.monotonic()
    try:
        asked: Any = message.content[RECORD]
        seconds = asked["seconds"] if asked["seconds"] > 0 else PATIENCE_SECONDS
        until += seconds
        return {"data": worker.ask(KINDS[message.metadata.message_type], asked["round"], asked["data"], seconds)}, until
    except Exception as error:
        name = "" if isinstance(error, ValueError) else f"{type(error).__name__} "
        return {"data": b"", "error": f"{name}{without_paths(str(error))}"}, until


def _why(folder: Path, address: str, error: httpx.HTTPError) -> str:
    try:
        reachable(address, folder / "ca.crt")
    except ValueError as reason:
        return str(reason)
    return f"the server broke off ({type(error).__name__})."
