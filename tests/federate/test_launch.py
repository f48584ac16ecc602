"""Whoever waits for Flower does not wait for ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorgnette.federate import flower_command, launch
from lorgnette.federate.flower_command import FlowerCommand


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


@pytest.mark.timeout(20)
def test_a_link_that_hangs_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flower_command, "CALL_SECONDS", 0.3)
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
