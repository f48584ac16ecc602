"""A site: its worker's program, its dry run, and how a server judges it."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.federate.processes import SOURCE, wait_for
from tests.federate.studies import free_port, make_pictures, make_study, own_data

from lorgnette.cli import main
from lorgnette.federate.deploy.board import Board
from lorgnette.federate.deploy.folder import read_deployment, write_deployment
from lorgnette.federate.deploy.reach import reachable
from lorgnette.federate.deploy.site import open_site
from lorgnette.federate.deploy.worker import WorkerLost, WorkerRefused, site_worker, unpacked
from lorgnette.federate.flower.check import check_site
from lorgnette.federate.flower.serving import differences, held_out, judge
from lorgnette.federate.rounds.transport import Reply
from lorgnette.federate.wire.codec import peek
from lorgnette.federate.wire.messages import Local, encode_work
from lorgnette.recipe import build

PATIENCE = 300.0  # seconds for what takes ten on a machine of its own


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("federation"), noise=0.5, clip=1.0)


def work_of(study: Path) -> bytes:
    """What a server sends in round 1."""
    from lorgnette.federate.aggregation.adapter_state import Adapter

    deployment = read_deployment(study)
    adapter = Adapter(build(deployment.recipe).model)
    local = Local(steps=1, clip=1.0, noise=0.5)
    return encode_work(1, "svd", "fp32", None, local, adapter.base, adapter.read(), {})


def test_a_site_greets_and_trains(study: Path):
    site = open_site(study / "sites" / "north", own_data(study, "north"))
    deployment = read_deployment(study)
    said = json.loads(site.answer("greet", 0, b""))
    assert (said["base"], said["schema"], said["samples"]) == (deployment.base, deployment.schema, 12)
    update = site.answer("train", 1, work_of(study))
    assert peek(update)["samples"] == 12
    again = open_site(study / "sites" / "north", own_data(study, "north"))
    assert again.answer("train", 1, work_of(study)) == update  # noise and all: a round that is asked again is the same


def test_the_noise_of_a_site_is_not_the_server_s_to_know(study: Path):
    """Sites that differ in their secret alone send different updates, whatever seed the server names."""
    updates = []
    for _ in range(2):
        shutil.rmtree(study / "sites" / "south" / "run", ignore_errors=True)
        site = open_site(study / "sites" / "south", own_data(study, "south"))
        updates.append(site.answer("train", 1, work_of(study)))
    assert updates[0] != updates[1]


def test_the_worker_is_a_program_that_ends_with_who_started_it(study: Path, monkeypatch: pytest.MonkeyPatch):
    folder, log = study / "sites" / "west", study / "worker-output.log"
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with site_worker(folder, own_data(study, "west"), log) as (process, worker):
        said = worker.ask("greet", 0, b"", PATIENCE)
        assert json.loads(said)["samples"] == 18
        with pytest.raises(WorkerRefused, match="no message"):
            worker.ask("train", 1, b"xyz", PATIENCE)
        with pytest.raises(WorkerRefused, match="no request"):
            worker.ask("delete", 1, b"", PATIENCE)
        assert process.stdin is not None
        process.stdin.close()  # what the system does when the node is killed
        wait_for("the worker ended", lambda: process.poll() is not None, PATIENCE)
        with pytest.raises(WorkerLost):
            worker.ask("greet", 0, b"", PATIENCE)
    assert "ready" in log.read_text()
    assert "Refused" in (folder / "run" / "worker.log").read_text()


def test_requests():
    assert unpacked(b"train 12\na\nb\0") == ("train", 12, b"a\nb\0")
    for request in (b"", b"train 1", b"train -1\n", b"train 1 2\n", b"rm 1\n", b"greet x\n"):
        with pytest.raises(ValueError, match="no request"):
            unpacked(request)


@contextlib.contextmanager
def https_server(study: Path, ahead: float = 0.0) -> Iterator[int]:
    """Answers as Flower's link does to a question for its health, with its clock `ahead` seconds."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(time.time() + ahead)

        def log_message(self, format: str, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(study / "server" / "server.crt", study / "server" / "server.key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def tried(folder: Path, given: dict[str, str]) -> dict[str, str]:
    """What the dry run finds wrong, by what was tried."""
    return {finding.what: finding.says for finding in check_site(folder, given) if not finding.good}


def test_a_dry_run_finds_what_is_wrong(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lorgnette.federate.flower.command.version", lambda name: "1.41.0")
    site = tmp_path / "north"
    shutil.copytree(study / "sites" / "north", site)
    own = own_data(study, "north")
    with https_server(study) as port:
        deployment = replace(read_deployment(study), address=f"127.0.0.1:{port}")
        write_deployment(deployment, site)
        assert tried(site, own) == {}
        assert abs(reachable(deployment.address, site / "ca.crt")) < 3

        (site / "node.key").chmod(0o644)
        make_pictures(tmp_path / "few", 1, 9)
        write_deployment(replace(deployment, base="0" * 32), site)
        found = tried(site, {"data.root": str(tmp_path / "few")})
        assert "chmod 600" in found["own key"]
        assert "1 samples; 4 are needed" in found["data"]
        assert "the server has 0000" in found["base model"]
        assert found.keys() == {"own key", "data", "base model"}

        (site / "node.key").chmod(0o600)
        shutil.copyfile(study / "sites" / "south" / "node.pub", site / "node.pub")
        assert "not one pair" in tried(site, own)["own key"]
        assert "no such folder" in tried(site, {"data.root": str(tmp_path / "nowhere")})["data and model"].lower()

        other = make_study(tmp_path / "other")
        shutil.copyfile(other / "server" / "ca.crt", site / "ca.crt")
        assert "certificate" in tried(site, own)["server"]
    with https_server(study, ahead=120) as port:
        write_deployment(replace(deployment, address=f"127.0.0.1:{port}"), site)
        shutil.copyfile(study / "server" / "ca.crt", site / "ca.crt")
        assert "clock is +1" in tried(site, own)["server"]
    write_deployment(replace(deployment, address=f"127.0.0.1:{free_port()}"), site)
    assert "cannot be reached" in tried(site, own)["server"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, ""),
        ({"base": "x"}, "another base model"),
        ({"schema": "x"}, "other layers"),
        ({"samples": 3}, "3 samples; 4 are needed"),
        ({"clock": -500.0}, "its clock is 499 s off"),
        ({"clock": None}, "not one of this version"),
        ({"samples": "many"}, "not one of this version"),
        ({"samples": float("inf")}, "not one of this version"),
    ],
)
def test_a_server_judges_who_greets(study: Path, changed: dict[str, object], says: str):
    deployment = read_deployment(study)
    facts = {"base": deployment.base, "schema": deployment.schema}
    said: dict[str, object] = {**facts, "samples": 12, "clock": 0.0, **changed}
    if isinstance(said["clock"], float):
        said["clock"] += time.time()
    problem, _ = judge(Reply("north", json.dumps(said).encode(), seconds=1.0), deployment, facts)
    assert says in problem
    assert bool(problem) == bool(says)
    assert judge(Reply("north", b"", "not there"), deployment, facts)[0] == "not there"
    assert "not one of this version" in judge(Reply("north", b"[" * 10**5), deployment, facts)[0]


def test_the_commands_that_need_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = str(tmp_path / "study")
    settings = "--data.preset glyphs --data.samples 40 --data.image_size 16 --model.base none --model.architecture tiny"
    assert (
        main(
            [
                "federate",
                "init",
                folder,
                "clip",
                "--host",
                "localhost",
                "--rounds",
                "4",
                "--local-steps",
                "7",
                *settings.split(),
            ]
        )
        == 0
    )
    assert (read_deployment(folder).config.rounds, read_deployment(folder).config.local_steps) == (4, 7)
    assert read_deployment(folder).listen == "127.0.0.1"
    assert main(["federate", "keys", folder, "--sites", "2"]) == 0
    assert "site-2" in capsys.readouterr().out
    assert (tmp_path / "study" / "sites" / "site-1" / "deployment.yaml").is_file()
    assert main(["federate", "status", folder]) == 2
    assert "was not started yet" in capsys.readouterr().err
    Board.of(tmp_path / "study" / "run" / "board.json", 4, ["site-1"])
    assert main(["federate", "status", folder]) == 0
    assert "round 0 of 4, waiting for sites" in capsys.readouterr().out
    assert main(["federate", "node", f"{folder}/sites/site-1", "--train.lr", "3"]) == 2
    assert "the same at every site" in capsys.readouterr().err
    assert main(["federate", "init", str(tmp_path / "x"), "clip", "--host", "fed.example.org"]) == 2
    assert "--data.classes" in capsys.readouterr().err


def test_the_server_scores_with_all_its_pictures_where_none_are_dealt_out(study: Path):
    recipe = read_deployment(study).recipe
    assert [len(batch["label"]) for batch in held_out(recipe)] == [12]
    assert [len(batch["label"]) for batch in held_out(recipe, dealt_out=True)] == [3]


def test_settings_that_changed_are_named(study: Path):
    deployment = read_deployment(study)
    recipe, config = deployment.recipe, deployment.config
    other = replace(recipe, train=replace(recipe.train, lr=0.5)), replace(config, rounds=9)
    assert differences((recipe, config), (recipe, config)) == []
    assert differences((recipe, config), other) == [f"train.lr {recipe.train.lr} -> 0.5", "rounds 3 -> 9"]
