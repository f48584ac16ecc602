"""Federation over Flower on the loopback interface, with TLS and node authentication: whole programs, killed and not.

Every run is compared with the same clients in one process: the network must change no bit of the result.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.federate.processes import (
    SOURCE,
    board_of,
    is_training,
    kill_tree,
    processes_of,
    running,
    start_node,
    started,
    wait_for,
)
from tests.federate.studies import SITES, make_study, own_data

from lorgnette.federate.deploy.folder import read_deployment, with_own_settings
from lorgnette.federate.deploy.keys import make_keys, public_key_pem
from lorgnette.federate.flower.serving import held_out
from lorgnette.federate.flower.site import Site
from lorgnette.federate.rounds.journal import Journal
from lorgnette.federate.rounds.transport import InProcess
from lorgnette.federate.run import FederationFolder, Server, federate
from lorgnette.systems import clip

PATIENCE = 900.0  # seconds for what takes a minute on a machine of its own

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason="needs lorgnette[federated]"),
]


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the programs put temporary files; sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def state(folder: Path) -> bytes:
    """The server's tensors and journal line after the last round."""
    return (folder / "state.safetensors").read_bytes()


def unbroken(study: Path, folder: Path) -> Path:
    """The same federation in this process: what every run over the network must come to."""
    deployment = read_deployment(study)
    clients = {}
    for name in SITES:
        recipe = with_own_settings(deployment, own_data(study, name))
        store = folder / "kept" / name
        store.mkdir(parents=True)
        seed = study / "sites" / name / "run" / "kept" / "noise.key"
        if seed.exists():
            shutil.copyfile(seed, store / "noise.key")
        clients[name] = Site(name, deployment, recipe, store).client
    test = held_out(deployment.recipe)
    server = Server(deployment.recipe, replace(deployment.config, deadline=None), FederationFolder(folder), test)
    server.keep(server.rounds.run(InProcess(clients)))
    return folder


def left_behind(study: Path, port: int, temporary: Path) -> list[str]:
    """What should be gone when everything is stopped; waits a little for it."""
    until = time.monotonic() + 60
    while (left := processes_of(study)) and time.monotonic() < until:
        time.sleep(0.2)
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            left.append(f"port {port}")
    left += [str(path) for path in study.glob("sites/*/run/worker.json")]
    return left + sorted(os.listdir(temporary))


def test_three_sites_over_tls(tmp_path: Path, temporary: Path):
    """Three rounds; a stranger and one with another authority are kept out; the result is that of one process."""
    study = make_study(tmp_path, noise=0.01, clip=1.0)
    port = read_deployment(study).port
    stranger = tmp_path / "stranger" / "east"  # has a key and our ca.crt, but the server was never told of the key
    shutil.copytree(make_keys(tmp_path / "other", ["east"]).sites["east"], stranger)
    shutil.copyfile(study / "server" / "ca.crt", stranger / "ca.crt")
    deceived = tmp_path / "deceived" / "south"  # has our key, but trusts another authority: to it, we are the impostor
    shutil.copytree(study / "sites" / "south", deceived)
    shutil.copyfile(tmp_path / "other" / "server" / "ca.crt", deceived / "ca.crt")
    for folder in (stranger, deceived):
        shutil.copyfile(study / "deployment.yaml", folder / "deployment.yaml")

    with running([started(tmp_path / "serve.log", "serve", str(study), "--json", str(tmp_path / "end.json"))]) as all_:
        server = all_[0]
        wait_for("the server is up", lambda: "listening" in (tmp_path / "serve.log").read_text(), PATIENCE)
        all_ += [start_node(study, "north", stranger), start_node(study, "south", deceived)]
        for folder, says in ((stranger, "Failed to activate SuperNode"), (deceived, "CERTIFICATE_VERIFY_FAILED")):
            logs = [folder / "run" / "node.log", folder / "run" / "node.previous.log"]
            wait_for(
                says,
                lambda logs=logs, says=says: any(says in log.read_text() for log in logs if log.exists()),
                PATIENCE,
            )
        for node in all_[1:]:
            node.terminate()
        assert_strangers_are_kept_out(port, study / "server" / "ca.crt")
        check = started(tmp_path / "check.log", "check", str(study / "sites" / "west"), "--data.root",
                        own_data(study, "west")["data.root"])  # fmt: skip
        assert check.wait(PATIENCE) == 0, (tmp_path / "check.log").read_text()
        all_ += [start_node(study, name) for name in SITES]
        assert_messages_are_not_for_everybody(study / "sites" / "north" / "run" / "node.log")
        assert server.wait(PATIENCE) == 0, (tmp_path / "serve.log").read_text()
    assert left_behind(study, port, temporary) == []

    board = board_of(study)
    assert board is not None
    assert board.phase == "finished"
    assert {name: (line.rounds, line.problem) for name, line in board.sites.items()} == dict.fromkeys(SITES, (3, ""))
    assert json.loads((tmp_path / "end.json").read_text())["round"] == 3
    assert state(unbroken(study, tmp_path / "unbroken")) == state(study / "run")

    counted = sum(line.bytes_down + line.bytes_up for line in board.sites.values())
    assert board.wire_bytes is not None
    assert counted < board.wire_bytes < 1.07 * counted + 40_000  # beside 7 %: the app itself and the greetings
    logs = "".join(path.read_text(errors="replace") for path in (study / "run").glob("*.log"))
    logs += (study / "run" / "board.json").read_text() + (tmp_path / "serve.log").read_text()
    assert "patient-" not in logs
    assert str(tmp_path / "data" / "north") not in logs


def assert_messages_are_not_for_everybody(node_log: Path) -> None:
    """Somebody else on a site's machine cannot take the node's work: the executor knows a secret."""
    place = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
    wait_for("the node is up", lambda: node_log.exists() and place.search(node_log.read_text()) is not None, PATIENCE)
    address = place.search(node_log.read_text())
    assert address is not None
    for path in ("acquire-task", "pull-messages"):
        asking = urllib.request.Request(
            f"{address[1]}/v1/runtime/{path}", b"", {"Content-Type": "application/protobuf"}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asking, timeout=10)
        with refused.value as answer:
            assert answer.code == 401, answer.read()


def assert_strangers_are_kept_out(port: int, ca_file: Path) -> None:
    """From other machines (as a proxy would name them) only the interface of the nodes can be reached."""
    context = ssl.create_default_context(cafile=str(ca_file))

    def status(path: str, **headers: str) -> int:
        request = urllib.request.Request(f"https://127.0.0.1:{port}{path}", b"", headers)
        try:
            return urllib.request.urlopen(request, timeout=10, context=context).status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    from_afar = {"X-Forwarded-For": "203.0.113.9", "Content-Type": "application/protobuf"}
    assert status("/v1/control/list-nodes", **from_afar) == 403
    assert status("/v1/control/start-run", **from_afar) == 403
    assert status("/v1/runtime/acquire-task", **from_afar) == 403
    assert status("/v1/fleet/pull-messages", **from_afar) == 403
    key = base64.b64encode(public_key_pem(ca_file.parent / "sites" / "north.pub")).decode()
    assert status("/v1/fleet/pull-messages", **from_afar, **{"flwr-public-key": key}) == 401  # it signed nothing
    assert status("/v1/control/start-run", **from_afar, **{"flwr-public-key": key}) == 403


def test_a_node_loses_power(tmp_path: Path, temporary: Path):
    """Killed in a round: the round closes at our deadline; started again, the node is in the next round."""
    deadline = 10.0 if os.getloadavg()[0] < 2 * (os.cpu_count() or 1) else 150.0  # honest sites need a part of it
    study = make_study(tmp_path, rounds=4, deadline=deadline, local_steps=300)
    port = read_deployment(study).port
    with running([started(tmp_path / "serve.log", "serve", str(study))]) as all_:
        wait_for("the server is up", lambda: "listening" in (tmp_path / "serve.log").read_text(), PATIENCE)
        nodes = {name: start_node(study, name) for name in SITES}
        all_ += nodes.values()
        wait_for("round 2", lambda: is_training(study, 2), PATIENCE)
        time.sleep(1.5)  # it trains for longer
        kill_tree(nodes["west"].pid)
        all_.append(start_node(study, "west"))
        wait_for("round 3", lambda: is_training(study, 3), PATIENCE)
        assert all_[0].wait(PATIENCE) == 0, (tmp_path / "serve.log").read_text()
    assert left_behind(study, port, temporary) == []
    lines = {line["round"]: line for line in Journal(study / "run").lines()}
    assert lines[2]["missing"] == ["west"]
    assert lines[2]["answered"] == ["north", "south"]
    assert deadline - 0.5 < lines[2]["seconds"] < deadline + 4
    assert "west" in lines[3]["answered"]


def test_the_server_loses_power(tmp_path: Path, temporary: Path):
    """Killed in round 2 and started again: it goes on with round 2, and no bit of the end is different."""
    study = make_study(tmp_path, rounds=4, local_steps=300, precision="int8", server_optimizer="momentum")
    port = read_deployment(study).port
    with running([started(tmp_path / "serve.log", "serve", str(study))]) as all_:
        wait_for("the server is up", lambda: "listening" in (tmp_path / "serve.log").read_text(), PATIENCE)
        all_ += [start_node(study, name) for name in SITES]
        wait_for("round 2", lambda: is_training(study, 2), PATIENCE)
        time.sleep(1)
        kill_tree(all_[0].pid)
        assert [line["round"] for line in Journal(study / "run").lines()] == [0, 1]
        again = started(tmp_path / "again.log", "serve", str(study))
        all_.append(again)
        assert again.wait(PATIENCE) == 0, (tmp_path / "again.log").read_text()
    assert left_behind(study, port, temporary) == []
    lines = Journal(study / "run").lines()
    assert [line["round"] for line in lines] == [0, 1, 2, 3, 4]
    assert all(line["answered"] == sorted(SITES) for line in lines[1:])
    assert state(unbroken(study, tmp_path / "unbroken")) == state(study / "run")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs lorgnette[simulation]")
def test_a_simulation_equals_one_process(tmp_path: Path, temporary: Path):
    """Eight clients in Flower's simulation, whose processes they share by chance."""
    study = make_study(tmp_path, held_out=60, clients=8, rounds=2, precision="int8", min_size=5)
    server = started(tmp_path / "serve.log", "serve", str(study), "--simulate")
    assert server.wait(PATIENCE) == 0, (tmp_path / "serve.log").read_text()
    assert left_behind(study, 1, temporary) == []
    deployment = read_deployment(study)
    loaded = clip.loaders(deployment.recipe.data, deployment.recipe.train)
    federate(deployment.recipe, deployment.config, tmp_path / "one", loaded)
    assert state(tmp_path / "one") == state(study / "run")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs lorgnette[simulation]")
@pytest.mark.parametrize("stop", ["terminate", "kill"])
def test_a_simulation_is_stopped(tmp_path: Path, temporary: Path, stop: str):
    """In the middle of its rounds, kindly or not: Ray's processes end with it."""
    study = make_study(tmp_path, held_out=60, clients=4, rounds=1000, min_size=5)
    server = started(tmp_path / "serve.log", "serve", str(study), "--simulate")
    wait_for("round 1", lambda: is_training(study, 1), PATIENCE)
    assert any("raylet" in line for line in processes_of(temporary))
    getattr(server, stop)()
    server.wait(PATIENCE)
    until = time.monotonic() + 60
    while (left := processes_of(temporary) + processes_of(study)) and time.monotonic() < until:
        time.sleep(0.2)
    assert left == []


def test_the_client_process_imports_no_torch(tmp_path: Path):
    """Flower starts it anew for every message: as the app names it, with a worker that answers."""
    study = make_study(tmp_path)
    code = f"""
import os, sys, threading
from pathlib import Path
from lorgnette.federate.flower.worker import serving, unpacked
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
sys.path.insert(0, {str(study / "app")!r})
from federation_app import client
def answer(request, hung_up):
    kind, round, data = unpacked(request)
    if kind == "greet":
        raise OSError("/data/Mary Smith/1.png is gone")
    return data[::-1]
os.environ["LORGNETTE_WORKER"] = {str(tmp_path / "worker.json")!r}
context = Context(1, 2, {{}}, RecordDict(), {{}})
def ask(kind):
    content = ConfigRecord({{"round": 3, "data": b"abc", "seconds": 5.0}})
    message = Message(RecordDict({{"lorgnette": content}}), 2, kind, group_id="3")
    return dict(client(message, context).content["lorgnette"])
with serving(answer, Path(os.environ["LORGNETTE_WORKER"])):
    print(ask("train"), ask("query"))
print(ask("train"))
print([name for name in ("torch", "numpy", "transformers") if name in sys.modules])
"""
    env = os.environ | {"PYTHONPATH": str(SOURCE), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(tmp_path / "flower")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()[-3:]
    assert first.startswith("{'data': b'cba'}")
    assert "Mary" not in first
    assert "site's own log" in first
    assert "no worker is running" in second
    assert "torch" not in last
    assert "transformers" not in last
