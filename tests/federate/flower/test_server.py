"""What Flower's server answers behind our guard: the whole of it, with keys, without a network."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorgnette.federate.deploy.keys import make_keys, public_key_pem

ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason="needs lorgnette[federated]"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Flower's own imports
]


class Server:
    """Flower's, asked from another machine; sites north and south are known to it, east is not."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        import flwr.superlink.main as flower
        from flwr.proto.fleet_pb2 import PushMessagesResponse
        from flwr.superlink.servicer.fleet import fleet_handlers
        from starlette.testclient import TestClient

        from lorgnette.federate.flower.guard import guarded

        made = make_keys(folder, ["north", "south"])
        self.folders = made.sites | make_keys(folder / "other", ["east"]).sites
        self.pushed: list[Any] = []
        keys = {name: public_key_pem(path / "node.pub") for name, path in made.sites.items()}
        monkeypatch.setattr(
            fleet_handlers,
            "push_messages",
            lambda request, state: self.pushed.append(request) or PushMessagesResponse(),
        )
        app = flower.create_app()
        state = app.state.linkstate_factory.state()
        self.nodes = {name: state.create_node("owner", "owner", key, 0) for name, key in keys.items()}
        self.client = TestClient(
            guarded(app, list(keys.values())), client=("203.0.113.9", 5), base_url="https://fed.example.org"
        )

    def post(self, path: str, request: Any, site: str = "", signed: bool = True, **headers: str) -> int:
        """The status of an answer to a request with the key of a site."""
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key
        from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

        content = request.SerializeToString()
        asking = self.client.build_request("POST", path, content=content, headers=headers)
        asking.headers["content-type"] = "application/protobuf"
        if site:
            private: Any = load_ssh_private_key((self.folders[site] / "node.key").read_bytes(), None)
            context: Any = SimpleNamespace(request=asking)
            NodeAuthHttpInterceptor(private, private.public_key()).intercept(context, lambda context: None)  # type: ignore
        if not signed:
            asking.headers["flwr-signature"] = "AAAA"
        return self.client.send(asking).status_code


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(tmp_path, monkeypatch)


def test_each_request_of_a_node_is_signed(server: Server):
    from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
    from flwr.proto.node_pb2 import Node

    asking = PullMessagesRequest(node=Node(node_id=server.nodes["north"]))
    assert server.post("/v1/fleet/pull-messages", asking, "north") == 200
    assert server.post("/v1/fleet/pull-messages", asking, "north", signed=False) == 401
    assert server.post("/v1/fleet/pull-messages", asking) == 403
    assert server.post("/v1/fleet/pull-messages", asking, "east") == 403
    assert server.post("/v1/fleet/pull-messages", asking, "south") == 401  # in the name of north
    assert server.post("/v1/fleet/activate-node", ActivateNodeRequest(heartbeat_interval=30), "south") == 401


@pytest.mark.parametrize(
    "path",
    ["/v1/control/list-nodes", "//v1/control/list-nodes", "/v1/fleet/../control/list-nodes",
     "/v1/fleet/%2e%2e/control/list-nodes", "/v1/fleet/..%2fcontrol/list-nodes", "/v1/fleet%2f..%2fcontrol/list-nodes",
     "/v1/%63ontrol/list-nodes", "/v1/control/list-nodes%0a", "/health/../v1/control/list-nodes", "/docs"],
)  # fmt: skip
def test_a_site_finds_no_way_to_start_runs(server: Server, path: str):
    from flwr.proto.control_pb2 import ListNodesRequest

    near_by = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Prefix": "/v1/control", "X-Original-URL": "/v1/control"}
    assert server.post(path, ListNodesRequest(), "north", **near_by) in (403, 404)


@pytest.mark.parametrize("host", ["x/v1/runtime/pull-object?", "x/v1/runtime/pull-object#", "x/health?"])
def test_no_name_of_a_host_leads_around_the_keys(server: Server, host: str):
    """Flower looks at the address that it was asked under, of which the host is a part."""
    from flwr.proto.message_pb2 import PullObjectRequest

    assert server.post("/v1/fleet/pull-object", PullObjectRequest(), "north", signed=False, host=host) == 401


@pytest.mark.parametrize("claimed", ["north", "south", "server"])
def test_a_site_cannot_act_for_another(server: Server, claimed: str):
    """Flower itself takes it for an answer of south, or for work of the server's."""
    from flwr.proto.fleet_pb2 import PushMessagesRequest
    from flwr.proto.message_pb2 import Message, Metadata
    from flwr.proto.node_pb2 import Node

    source = (server.nodes | {"server": 1})[claimed]
    inside = Message(metadata=Metadata(run_id=5, src_node_id=source, dst_node_id=server.nodes["south"]))
    asking = PushMessagesRequest(node=Node(node_id=server.nodes["north"]), messages_list=[inside])
    assert server.post("/v1/fleet/push-messages", asking, "north") == (200 if claimed == "north" else 403)
    assert len(server.pushed) == (claimed == "north")


class Grid:
    """Flower's grid with two nodes, of which one is taken away as it is sent a message; the other answers in red."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def get_nodes(self) -> list[Any]:
        return [SimpleNamespace(node_id=number, name=name) for number, name in ((7, "north"), (8, "south"))]

    def push_messages(self, messages: list[Any]) -> list[str | None]:
        self.sent = messages
        return ["first", None]

    def pull_messages(self, ids: list[str]) -> list[Any]:
        assert ids == ["first"]
        said = {"lorgnette": self.config({"data": b"", "error": "\x1b[31mboth\nlines\x1b]0;title\x07"})}
        metadata = SimpleNamespace(reply_to_message_id="first")
        return [SimpleNamespace(has_error=lambda: False, content=said, metadata=metadata)]

    def config(self, content: dict[str, Any]) -> Any:
        from flwr.app import ConfigRecord

        return ConfigRecord(content)


def test_what_a_site_says_steers_no_terminal_and_a_node_that_is_gone_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
):
    from flwr.supercore.task_identity import TaskIdentity

    from lorgnette.federate.flower.app import GridTransport

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    grid: Any = Grid()
    network = GridTransport(grid, ["north", "south"], lambda node: node.name)
    (reply,) = network.ask(1, {"north": b"work", "south": b"work"}, None)
    assert reply.client == "north"
    assert reply.error == " [31mboth lines ]0;title "


class Runtime:
    """Flower's server as its grid asks it: an answer of one part, which arrives a moment after it was announced."""

    def __init__(self, content: bytes, object_id: str):
        from flwr.proto.message_pb2 import ObjectTree

        self.content, self.tree, self.looks = content, ObjectTree(object_id=object_id), 0

    def PullMessages(self, request: Any) -> Any:
        from flwr.proto.message_pb2 import Message, Metadata
        from flwr.proto.runtime_pb2 import PullAppMessagesResponse

        announced = Message(metadata=Metadata(message_id=self.tree.object_id))
        return PullAppMessagesResponse(messages_list=[announced], message_object_trees=[self.tree])

    def PullObject(self, request: Any) -> Any:
        from flwr.proto.message_pb2 import PullObjectResponse

        self.looks += 1
        there = self.looks > 1
        return PullObjectResponse(object_found=True, object_available=there, object_content=self.content)

    def ConfirmMessageReceived(self, request: Any) -> Any:
        from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse

        return ConfirmMessageReceivedResponse()


def test_an_answer_that_is_on_its_way_is_looked_for_again_soon(monkeypatch: pytest.MonkeyPatch):
    """Flower's grid itself waits a second, which no setting changes."""
    from flwr.app import Error, Message, RecordDict
    from flwr.supercore.inflatable import inflatable_utils
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.grid import http_grid

    from lorgnette.federate.flower.replaced import POLL_SECONDS, REPLACED, replace

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    waited: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            return False

    stand_in = SimpleNamespace(Event=Event, Lock=threading.Lock)
    monkeypatch.setattr(inflatable_utils, "threading", stand_in)
    for one in REPLACED:
        monkeypatch.setattr(http_grid, one.name, getattr(http_grid, one.name))  # to be put back
    asked = Message(RecordDict(), 2, "train")
    answer = Message(Error(1, "an answer"), reply_to=asked)
    pauses = []
    for replaced in (False, True):
        if replaced:
            replace()
        runtime: Any = Runtime(answer.deflate(), answer.object_id)
        grid: Any = http_grid.HttpGrid(token="token")
        grid._run, grid._client = SimpleNamespace(run_id=1), runtime
        waited.clear()
        (found,) = grid.pull_messages(["asked"])
        assert found.error.reason == "an answer"
        assert runtime.looks == 2
        pauses += waited
    assert pauses[0] == pytest.approx(1, rel=0.21)
    assert pauses[1] == pytest.approx(POLL_SECONDS, rel=0.21)


def test_the_table_of_what_is_replaced_names_tests_that_exist():
    from lorgnette.federate.flower.replaced import REPLACED

    for one in REPLACED:
        file, _, name = one.test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(), one.test
        assert one.buys


@pytest.mark.parametrize("gone", ["module", "name", "parameter"])
def test_flower_that_has_changed_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, gone: str):
    from lorgnette.federate.flower import replaced

    (one, *_) = replaced.REPLACED
    other = {
        "module": one._replace(module="flwr.superlink.grid.moved"),
        "name": one._replace(name="pull_everything"),
        "parameter": one._replace(name="iterate_object_tree"),
    }
    monkeypatch.setattr(replaced, "REPLACED", (other[gone],))
    with pytest.raises(ValueError, match=r"Flower has no flwr\.superlink.* pip install") as told:
        replaced.replace()
    assert "\n" not in str(told.value)


def test_another_flower_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch):
    from lorgnette.federate.flower import command

    assert command.require_flower().startswith("1.41.")
    monkeypatch.setattr(command, "version", lambda name: "1.42.0")
    with pytest.raises(ValueError, match=r"Flower 1\.42\.0 is installed; 1\.41 works"):
        command.require_flower()
