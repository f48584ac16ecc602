"""`lorgnette federate`: folders, going on after Ctrl-C and after a kill, what is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.pictures import TINY

from lorgnette.cli import main
from lorgnette.federate.rounds import round_report
from lorgnette.federate.rounds.round_events import Answered

SMALL = "--tiny --clients 2 --rounds 3 --local-steps 1 --precision int8 --scheme ffa --server-optimizer adam".split()


def start(folder: Path, *words: str) -> int:
    return main(["federate", "superres", *SMALL, "--out", str(folder), *words])


def state(folder: Path) -> bytes:
    """All that a federation leaves for the next round, and its result."""
    names = ("state.safetensors", "best.safetensors", "adapter/adapter_model.safetensors")
    return b"".join((folder / name).read_bytes() for name in names)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation") / "run"
    assert start(folder, "--json", str(folder.with_suffix(".json"))) == 0
    return folder


def test_what_a_federation_leaves(unbroken: Path, capsys: pytest.CaptureFixture[str]):
    figures = json.loads(unbroken.with_suffix(".json").read_text())
    assert figures["round"] == figures["rounds"] == 3
    assert figures["scheme"] == "ffa"
    assert figures["before"].keys() == figures["after"].keys()
    assert figures["aggregation_error"] == pytest.approx([0, 0, 0], abs=1e-6)
    lines = [json.loads(line) for line in (unbroken / "journal.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    assert figures["bytes_up"] == sum(line["bytes_up"] for line in lines[1:])
    page = (unbroken / "report.html").read_text()
    for title in ("aggregation error", "MB up", "clients that counted", "psnr", "Who took part", "client-2"):
        assert title in page


def test_interrupted_and_resumed_equals_unbroken(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "my run"
    usual = round_report.ProgressLines.__call__

    def interrupting(self: round_report.ProgressLines, event: object) -> None:
        usual(self, event)  # type: ignore[arg-type]
        if isinstance(event, Answered) and event.round == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(round_report.ProgressLines, "__call__", interrupting)
        assert start(folder) == 130
    said = capsys.readouterr().out
    assert f"lorgnette federate superres --resume '{folder}'" in said
    assert "after round 1 of 3" in said
    assert main(["federate", "superres", "--resume", str(folder)]) == 0
    assert state(folder) == state(unbroken)


def killed(folder: Path, after: int, words: list[str]) -> None:
    """Start in a process of its own and kill it some time after this round was kept."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    command = [sys.executable, "-m", "lorgnette", "federate", "superres", *words, "--out", str(folder)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal, until = folder / "journal.jsonl", time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if journal.is_file() and len(journal.read_text().splitlines()) > after:
            break
        time.sleep(0.005)
    process.kill()
    process.wait()


def test_killed_and_resumed_equals_unbroken(unbroken: Path, tmp_path: Path):
    killed(tmp_path / "run", 1, SMALL)
    assert main(["federate", "superres", "--resume", str(tmp_path / "run")]) == 0
    assert state(tmp_path / "run") == state(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["svd", "fedavg", "stack", "residual", "alternating"])
def test_killed_at_every_round(scheme: str, tmp_path: Path):
    words = f"--tiny --clients 3 --rounds 4 --local-steps 3 --precision int8 --scheme {scheme}".split()
    words += ["--server-optimizer", "adam" if scheme in ("fedavg", "alternating") else "momentum"]
    assert main(["federate", "superres", *words, "--out", str(tmp_path / "whole")]) == 0
    for after in range(4):
        folder = tmp_path / str(after)
        killed(folder, after, words)
        assert main(["federate", "superres", "--resume", str(folder)]) == 0
        assert state(folder) == state(tmp_path / "whole")


def test_a_folder_of_images_is_dealt_out(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--clients", "3", "--rounds", "1", "--local-steps", "1", "--out", str(tmp_path / "run")]
    assert main(["federate", "superres", "--data.root", str(photos), *TINY, *words]) == 0
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert sorted(index for part in split["clients"].values() for index in part) == [0, 1, 2]
    said = capsys.readouterr().out
    assert str(tmp_path / "run" / "adapter") in said
    figures = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert {entry["samples"] for entry in figures[1]["clients"].values()} == {1}


def test_wrong_words_are_one_line(photos: Path, tmp_path: Path, unbroken: Path, refused):
    tiny = ["federate", "superres", "--tiny", "--out", tmp_path / "none"]
    assert "did you mean '--rounds'?" in refused(*tiny, "--roundz", 3)
    assert "--rounds: 'x' does not work; a whole number does" in refused(*tiny, "--rounds", "x")
    assert "--scheme: 'flex' does not work" in refused(*tiny, "--scheme", "flex")
    assert "--quorum: 3.0 is outside (0, 1]" in refused(*tiny, "--quorum", 3)
    assert "momentum works with it" in refused(*tiny, "--server-optimizer", "adam")
    assert "enough for 6" in refused(*tiny, "--clients", 30)
    assert "needs labels" in refused(*tiny, "--clients", 2, "--split", "dirichlet")
    assert "--data.root does not go with it" in refused(*tiny, "--data.root", photos)
    assert "--tiny takes no value" in refused(*tiny[:2], "--tiny", "yes")
    assert "a federation needs an adapter" in refused(*tiny, "--clients", 2, "--lora", "null")
    assert "data.root" in refused("federate", "superres")
    assert "--resume" in refused("federate", "superres", *SMALL, "--out", unbroken)
    assert "--rounds cannot change" in refused("federate", "superres", "--resume", unbroken, "--rounds", 9)
    assert "not of restore" in refused("federate", "restore", "--resume", unbroken)
    assert "no such folder" in refused("federate", "superres", "--resume", tmp_path / "none")
    assert "there is no room" in refused("federate", "klip")
    assert not (tmp_path / "none").exists()
