"""Federation over Flower on the loopback interface, with TLS and node authentication: whole programs, killed and not.

Every run is compared with the same clients in one process: the network must change no bit of the result.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
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
    PATIENCE,
    SOURCE,
    board_of,
    frozen,
    is_training,
    kill_tree,
    processes_of,
    running,
    start_node,
    started,
    wait_for,
)
from tests.federate.studies import SITES, make_study, own_data

from lorgnette.federate.deploy.data_holder import DataHolder
from lorgnette.federate.deploy.deployment import Deployment, read_deployment, with_own_settings
from lorgnette.federate.deploy.keys import make_keys, public_key_pem
from lorgnette.federate.deploy.serving import held_out
from lorgnette.federate.rounds.round_journal import RoundJournal
from lorgnette.federate.rounds.transport import InProcess
from lorgnette.federate.run import FederationFolder, Server, federate
from lorgnette.systems import clip

pytestmark = [
    pytest.mark.timeout(3600),
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


def unbroken(study: Path, folder: Path, deployment: Deployment | None = None) -> Path:
    """The same federation in this process: what every run over the network must come to."""
    deployment = deployment or read_deployment(study)
    clients = {}
    for name in SITES:
        recipe = with_own_settings(deployment, own_data(study, name))
        store = folder / "kept" / name
        store.mkdir(parents=True)
        seed = study / "sites" / name / "run" / "kept" / "noise.key"
        if seed.exists():
            shutil.copyfile(seed, store / "noise.key")
        clients[name] = DataHolder(name, deployment, recipe, store).client
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
    return left + sorted(os.listdir(temporary))


def test_three_sites_over_tls(tmp_path: Path, temporary: Path):
    """Two rounds; strangers are kept out; nothing stays behind; the result is that of one process."""
    study = make_study(tmp_path, rounds=2, noise=0.01, clip=1.0)
    port = read_deployment(study).port
    with running([started(tmp_path / "serve.log", "serve", str(study), "--json", str(tmp_path / "end.json"))]) as all_:
        all_ += [start_node(study, name) for name in SITES]
        wait_for("the server is up", lambda: "listening" in (tmp_path / "serve.log").read_text(), PATIENCE)
        assert_strangers_are_kept_out(port, study / "server" / "ca.crt")
        wait_for("round 1", lambda: (board := board_of(study)) is not None and board.round > 0, PATIENCE)
        for name in SITES:
            assert listening(study / "sites" / name) == []
        assert all_[0].wait(PATIENCE) == 0, (tmp_path / "serve.log").read_text()
    assert left_behind(study, port, temporary) == []

    board = board_of(study)
    assert board is not None
    assert board.phase == "finished"
    assert {name: (line.rounds, line.problem) for name, line in board.sites.items()} == dict.fromkeys(SITES, (2, ""))
    assert json.loads((tmp_path / "end.json").read_text())["round"] == 2
    assert state(unbroken(study, tmp_path / "unbroken")) == state(study / "run")

    counted = sum(line.bytes_down + line.bytes_up for line in board.sites.values())
    assert board.wire_bytes is not None
    assert counted < board.wire_bytes < 1.07 * counted + 40_000  # beside 7 %: the app itself and the greetings
    logs = "".join(path.read_text(errors="replace") for path in (study / "run").glob("*.log"))
    logs += (study / "run" / "board.json").read_text() + (tmp_path / "serve.log").read_text()
    assert "patient-" not in logs
    assert str(tmp_path / "data" / "north") not in logs


def listening(site: Path) -> list[str]:
    """Addresses on which processes of a site listen: there should be none that others could ask."""
    sockets = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(site).encode() in (process / "cmdline").read_bytes():
                sockets |= {os.readlink(file) for file in (process / "fd").iterdir()}
    tables = [line.split() for table in Path("/proc/net").glob("tcp*") for line in table.read_text().splitlines()[1:]]
    return [row[1] for row in tables if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


@pytest.mark.slow
def test_who_is_not_of_the_federation(tmp_path: Path, temporary: Path):
    """One with a key that the server does not know, one with another authority; a site that tries before it starts."""
    study = make_study(tmp_path)
    port = read_deployment(study).port
    stranger = tmp_path / "stranger" / "east"  # has a key and our ca.crt, but the server was never told of the key
    shutil.copytree(make_keys(tmp_path / "other", ["east"]).sites["east"], stranger)
    shutil.copyfile(study / "server" / "ca.crt", stranger / "ca.crt")
    deceived = tmp_path / "deceived" / "south"  # has our key, but trusts another authority: to it, we are the impostor
    shutil.copytree(study / "sites" / "south", deceived)
    shutil.copyfile(tmp_path / "other" / "server" / "ca.crt", deceived / "ca.crt")
    for folder in (stranger, deceived):
        shutil.copyfile(study / "deployment.yaml", folder / "deployment.yaml")

    with running([started(tmp_path / "serve.log", "serve", str(study))]) as all_:
        wait_for("the server is up", lambda: "listening" in (tmp_path / "serve.log").read_text(), PATIENCE)
        all_ += [start_node(study, "north", stranger), start_node(study, "south", deceived)]
        for folder, says in ((stranger, "does not let this key in"), (deceived, "ca.crt does not vouch for")):
            log = folder / "node-output.log"
            wait_for(says, lambda log=log, says=says: says in log.read_text(), PATIENCE)
        words = ["check", str(study / "sites" / "west"), "--data.root", own_data(study, "west")["data.root"]]
        check = started(tmp_path / "check.log", *words)
        assert check.wait(PATIENCE) == 0, (tmp_path / "check.log").read_text()
        board = board_of(study)
        assert board is None or {line.state for line in board.sites.values()} == {"not yet seen"}
    assert left_behind(study, port, temporary) == []
    assert processes_of(tmp_path) == []


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


def seconds_of_training(study: Path, folder: Path) -> float:
    """How long a site trains for a round, here and now."""
    deployment = read_deployment(study)
    one = replace(deployment, config=replace(deployment.config, rounds=1))
    began = time.monotonic()
    unbroken(study, folder, one)
    return (time.monotonic() - began) / len(SITES)


def answered(study: Path, name: str) -> list[int]:
    """The rounds of the journal that a site's update is in."""
    return [line["round"] for line in RoundJournal(study / "run").lines() if name in line.get("answered", ())]


def is_held_up_by(study: Path, name: str) -> bool:
    """Whether a round is under way in which all others have answered."""
    board = board_of(study)
    states = {} if board is None else {site: line.state for site, line in board.sites.items()}
    return states.pop(name, "") == "training" and set(states.values()) == {"answered"}


@pytest.mark.slow
def test_a_node_loses_power(tmp_path: Path, temporary: Path):
    """Killed in a round: the round closes at our deadline; started again, the node is in a later round."""
    deadline = 15 + 5 * seconds_of_training(make_study(tmp_path / "timing"), tmp_path / "one")
    study = make_study(tmp_path, rounds=1000, deadline=deadline)
    with running([started(tmp_path / "serve.log", "serve", str(study))]) as all_:
        nodes = {name: start_node(study, name) for name in SITES}
        all_ += nodes.values()
        wait_for("a round with west", lambda: bool(answered(study, "west")), PATIENCE)
        with frozen("lorgnette.federate.deploy.data_holder", str(study / "sites" / "west")):
            wait_for("west holds a round up", lambda: is_held_up_by(study, "west"), PATIENCE)
            kill_tree(nodes["west"].pid)
        last = answered(study, "west")[-1]
        all_.append(start_node(study, "west"))
        wait_for("the round closes", lambda: answered(study, "north")[-1] > last, PATIENCE)
        wait_for("west is back", lambda: answered(study, "west")[-1] > last, PATIENCE)
    assert left_behind(study, read_deployment(study).port, temporary) == []
    line = RoundJournal(study / "run").lines()[last + 1]
    assert line["answered"] == ["north", "south"]
    if line["missing"]:  # else Flower missed it before our deadline was over
        assert line["seconds"] > deadline - 0.5


@pytest.mark.slow
def test_the_server_loses_power(tmp_path: Path, temporary: Path):
    """Killed in a round and started again: it goes on with that round, and no bit of the end is different."""
    study = make_study(tmp_path, rounds=6, precision="int8", server_optimizer="momentum")
    port = read_deployment(study).port
    with running([started(tmp_path / "serve.log", "serve", str(study))]) as all_:
        all_ += [start_node(study, name) for name in SITES]
        wait_for("round 1", lambda: is_training(study, 1), PATIENCE)
        with frozen("lorgnette.federate.deploy.data_holder", str(study / "sites" / "south")):
            wait_for("south holds a round up", lambda: is_held_up_by(study, "south"), PATIENCE)
            kill_tree(all_[0].pid)
        before = RoundJournal(study / "run").lines()
        assert len(before) < 7
        again = started(tmp_path / "again.log", "serve", str(study))
        all_.append(again)
        assert again.wait(PATIENCE) == 0, (tmp_path / "again.log").read_text()
    assert left_behind(study, port, temporary) == []
    lines = RoundJournal(study / "run").lines()
    assert [line["round"] for line in lines] == [0, 1, 2, 3, 4, 5, 6]
    assert lines[: len(before)] == before
    assert all(line["answered"] == sorted(SITES) for line in lines[1:])
    assert state(unbroken(study, tmp_path / "unbroken")) == state(study / "run")


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_the_node_s_own_process_imports_no_torch(tmp_path: Path):
    code = "import sys, lorgnette.federate.flower.node; print('torch' in sys.modules, 'transformers' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == "False False\n"
