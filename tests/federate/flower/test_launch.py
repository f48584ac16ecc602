"""Whoever waits for Flower does not wait for ever."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.federate.studies import make_study

from lorgnette.cli import main
from lorgnette.common.files import take_lock
from lorgnette.federate.deploy.board import Board
from lorgnette.federate.deploy.deployment import read_deployment
from lorgnette.federate.flower import command, launch
from lorgnette.federate.flower.command import FlowerCommand


class Hanging:
    """Flower's link, up, with a run that is never begun."""

    link: Any = type("Link", (), {"poll": lambda self: None})()

    def run(self, run_id: str) -> dict[str, Any]:
        return {"status": "pending"}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("old", [None, '{"format_version": 0}', "half a li"])
def test_a_run_that_never_begins_ends_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str | None):
    """Also beside a board that another version or a full disk left behind."""
    monkeypatch.setattr(launch, "BEGIN_SECONDS", 0.2)
    monkeypatch.setattr(launch, "LOOK_SECONDS", 0.05)
    file = tmp_path / "board.json"
    if old is not None:
        file.write_text(old)
    hanging: Any = Hanging()
    with pytest.raises(ValueError, match="did not begin"):
        launch._watch(hanging, "1", (file, "this start"), lambda board: None)


def test_only_the_board_of_this_start_counts(tmp_path: Path):
    Board.of(tmp_path / "board.json", 3, ["north"], serving="this start")
    board = launch._board(tmp_path / "board.json", "this start")
    assert board is not None
    assert board.serving == "this start"
    assert launch._board(tmp_path / "board.json", "one before") is None


@pytest.mark.timeout(20)
def test_a_link_that_hangs_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(command, "CALL_SECONDS", 0.3)
    link: Any = subprocess.Popen([sys.executable, "-c", ""])
    link.wait()
    flower = FlowerCommand(tmp_path / "flower", link, "127.0.0.1:9", None)
    hanging = tmp_path / "flwr"
    hanging.write_text("#!/bin/sh\nexec sleep 1000\n")
    hanging.chmod(0o700)
    flower.program = str(hanging)
    with pytest.raises(ValueError, match=r"could not be started .*did not answer"):
        flower.start_run(tmp_path)
    assert flower.run("1") == {}


def test_a_taken_port_is_told_from_a_server_that_runs_already(tmp_path: Path):
    study = make_study(tmp_path)
    deployment = read_deployment(study)
    (study / "run").mkdir()
    with socket.create_server(("127.0.0.1", deployment.port)), (study / "run" / "lock").open("w") as lock:
        for said in "stop what listens there, or change the port", "running already":
            with pytest.raises(ValueError, match=said), launch._superlink(study, deployment, ""):
                pass
            assert take_lock(lock)


def test_status_says_whether_a_server_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    run.mkdir()
    board = Board.of(run / "board.json", 3, ["north"])
    with (run / "lock").open("w") as lock:
        assert take_lock(lock)
        assert main(["federate", "status", str(tmp_path)]) == 0
        assert "no server is running" not in capsys.readouterr().out
    assert main(["federate", "status", str(tmp_path)]) == 0
    assert "no server is running: `lorgnette federate serve" in capsys.readouterr().out
    board.finish("finished")
    assert main(["federate", "status", str(tmp_path)]) == 0
    assert "no server" not in capsys.readouterr().out


def test_a_node_s_key_is_its_owner_s_alone(tmp_path: Path):
    site = make_study(tmp_path) / "sites" / "north"
    (site / "node.key").chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        launch.run_node(site, {})


class Ending(Hanging):
    """A run that Flower says is pending, and then over, while the rounds go on or not."""

    def __init__(self, file: Path, finishes: bool):
        self.file, self.finishes, self.asked = file, finishes, 0

    def run(self, run_id: str) -> dict[str, Any]:
        self.asked += 1
        if self.asked < 4:
            return {"status": "pending"}
        board = Board.read(self.file)
        if self.finishes and not board.is_over:
            board.phase = "finished"
            board.keep()
        return {"status": "finished:completed", "network-traffic": {"total-bytes": 7}}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("finishes", [True, False])
def test_rounds_that_flower_ends_are_told_and_those_it_leaves_alone_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finishes: bool
):
    monkeypatch.setattr(launch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(launch, "ASK_FLOWER_SECONDS", 0.02)
    file = tmp_path / "board.json"
    Board.of(file, 3, ["north"], serving="this start").keep()
    flower: Any = Ending(file, finishes)
    if finishes:
        board = launch._watch(flower, "1", (file, "this start"), lambda board: None)
        assert board.wire_bytes == 7
    else:
        with pytest.raises(ValueError, match=r"Flower ended the rounds \(finished:completed\)"):
            launch._watch(flower, "1", (file, "this start"), lambda board: None)
    assert flower.asked >= 4
