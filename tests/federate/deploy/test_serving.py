"""The server of a federation: how it judges who greets, what it scores with, and the commands around it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.federate.studies import make_study

from lorgnette.cli import main
from lorgnette.common.parts import FILE as PARTS_FILE
from lorgnette.federate.deploy.board import Board
from lorgnette.federate.deploy.deployment import read_deployment
from lorgnette.federate.deploy.serving import held_out, judge, simulated_clients
from lorgnette.federate.rounds.transport import Reply
from lorgnette.federate.run import differences

PATIENCE = 300.0  # seconds for what takes ten on a machine of its own


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("federation"), noise=0.5, clip=1.0)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, ""),
        ({"base": "x"}, "another base model"),
        ({"schema": "x"}, "other layers"),
        ({"samples": 3}, "3 samples; 4 are needed"),
        ({"clock": -500.0}, "its clock is 499 s off"),
        ({"clock": None}, "not in the format of this version"),
        ({"samples": "many"}, "not in the format of this version"),
        ({"samples": float("inf")}, "not in the format of this version"),
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
    assert "not in the format of this version" in judge(Reply("north", b"[" * 10**5), deployment, facts)[0]


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


def test_clients_of_a_simulation_share_data_that_the_run_remembers(study: Path, tmp_path: Path):
    deployment = read_deployment(study)
    names = simulated_clients(deployment, tmp_path)
    assert len(names) == deployment.config.clients == len(set(names))
    written = (tmp_path / PARTS_FILE).read_bytes()
    assert b"patient-0-0.png" in written
    assert simulated_clients(deployment, tmp_path) == names
    assert (tmp_path / PARTS_FILE).read_bytes() == written
