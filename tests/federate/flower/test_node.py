"""How a node looks for requests, answers them, and takes the place of one that was killed."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorgnette.federate.deploy.keys import make_keys

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason="needs lorgnette[federated]"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Flower's own imports
]


def test_a_node_that_just_had_work_looks_often_and_an_idle_one_as_flower_does():
    from lorgnette.federate.flower import node

    assert node.pause(0) == node.POLL_SECONDS
    assert node.pause(10) == 1
    assert node.pause(1000) == 3


class Server:
    """Lets a node in under a new number; not while it is taken for online."""

    def __init__(self) -> None:
        self.number, self.online, self.gone = 0, False, []
        self.reachable = True

    def refused(self, text: str) -> Exception:
        import httpx

        request = httpx.Request("POST", "https://fed.example.org/v1/fleet/activate-node")
        return httpx.HTTPStatusError(text, request=request, response=httpx.Response(412, text=text, request=request))

    def ActivateNode(self, request: Any) -> Any:
        import httpx

        if not self.reachable:
            raise httpx.ConnectError("no server")
        assert request.public_key.startswith(b"-----BEGIN PUBLIC KEY")
        if self.online:
            raise self.refused("it is online")
        self.online, self.number = True, self.number + 1
        return SimpleNamespace(node_id=self.number)

    def DeactivateNode(self, request: Any) -> None:
        if request.node_id != self.number:
            raise self.refused("it is another's")
        self.online = False
        self.gone.append(request.node_id)

    def SendNodeHeartbeat(self, request: Any) -> None:
        assert request.node.node_id == self.number

    def close(self) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = make_keys(tmp_path, ["north"]).sites["north"]
    (folder / "run").mkdir()
    return folder


def link(site: Path, server: Server) -> Any:
    from lorgnette.federate.flower.node import FleetLink

    made: Any = FleetLink(site, "fed.example.org:8000")
    made._client.close()
    made._client = server
    return made


def killed(site: Path, server: Server) -> None:
    """A node came and was killed: it took no leave."""
    made = link(site, server)
    made.__enter__()
    made._closed.set()


def test_a_node_that_was_killed_says_goodbye_for_the_one_before(site: Path):
    server = Server()
    killed(site, server)
    assert server.online
    with link(site, server):
        assert server.gone == [1]
        assert (site / "run" / "node-id").read_text() == "2"
    assert not server.online


def test_a_node_and_its_server_that_were_killed_together(site: Path):
    """What says goodbye for the node before is not lost while nobody listens."""
    import httpx

    server = Server()
    killed(site, server)
    server.reachable = False
    with pytest.raises(httpx.ConnectError):
        link(site, server).__enter__()
    server.reachable = True
    with link(site, server):
        assert server.gone == [1]


@pytest.mark.parametrize("stale", ["", "seven", "7"])
def test_a_number_that_is_not_the_node_s_is_no_reason_to_fail(site: Path, stale: str):
    """The file is damaged, or of a server whose database was lost: why it is shut out is what the log should say."""
    import httpx

    (site / "run" / "node-id").write_text(stale)
    server = Server()
    server.online = True
    with pytest.raises(httpx.HTTPStatusError, match="it is online"):
        link(site, server).__enter__()
    server.online = False
    with link(site, server):
        assert (site / "run" / "node-id").read_text() == "1"


def test_a_node_of_another_folder_cannot_throw_it_out(site: Path, tmp_path: Path):
    import httpx

    server = Server()
    killed(site, server)
    copy = make_keys(tmp_path / "copy", ["north"]).sites["north"]
    (copy / "run").mkdir()
    with pytest.raises(httpx.HTTPStatusError):
        link(copy, server).__enter__()
    assert not server.gone


def test_a_server_that_does_not_let_a_node_in_is_told_once(site: Path, monkeypatch: pytest.MonkeyPatch):
    from lorgnette.federate.flower import node

    server, said, stop = Server(), [], threading.Event()
    server.online = True
    monkeypatch.setattr(node.FleetHttpClient, "from_server_address", lambda *words: server)
    monkeypatch.setattr(stop, "wait", lambda seconds: said.append("waited") or (len(said) > 12 and stop.set()))
    worker: Any = None
    node.take_part(site, "fed.example.org:8000", worker, stop, said.append)
    told = [line for line in said if line != "waited"]
    assert len(told) == 1
    assert "node.pub" in told[0]
    assert said.index(told[0]) == node.REGISTERING


@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        ("train", {"round": 3, "data": b"abc", "seconds": 5.0}, None),
        ("query", {"round": 0, "data": b"", "seconds": 5.0}, "OSError (details are in the site's own log)"),
        ("evaluate", {"round": 3, "data": b"abc", "seconds": 5.0}, "KeyError 'evaluate'"),
        ("train", {"round": 3, "data": b"abc", "seconds": "x"}, "TypeError"),
        ("train", {}, "KeyError"),
        ("train", None, "KeyError"),
    ],
)
def test_a_node_knows_two_requests_and_answers_others_with_a_reason(
    kind: str, content: dict[str, Any] | None, says: str | None, monkeypatch: pytest.MonkeyPatch
):
    """Nothing of what the server sends is executed; a reason names no file."""
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    from lorgnette.federate.flower.node import answer

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)

    class Worker:
        def ask(self, kind: str, round: int, data: bytes, seconds: float) -> bytes:
            if kind == "greet":
                raise OSError("/data/Mary Smith/1.png is gone")
            return data[::-1]

    worker: Any = Worker()
    records = {} if content is None else {"lorgnette": ConfigRecord(content)}
    said, _ = answer(Message(RecordDict(records), 2, kind, group_id="3"), worker)
    if says is None:
        assert said == {"data": b"cba"}
    else:
        assert said["data"] == b""
        assert said["error"].startswith(says)
