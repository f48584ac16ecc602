"""Files are there whole or as they were, whatever happens while they are written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lorgnette.common.files import atomic_write, write_json, write_text

KILLED = """
import os, signal, sys
from lorgnette.common.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half of what was to be wri")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_is_written_is_on_the_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    happened: list[tuple[str, object]] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (happened.append(("fsync", os.fstat(handle).st_ino)), fsync(handle))
    )
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (happened.append(("replace", self.stat().st_ino)), replace(self, to))[1]
    )
    target = tmp_path / "settings.json"
    target.write_text("old")
    write_json(target, {"new": 1})
    number = target.stat().st_ino  # a copy would be another file, and could be seen half written
    assert happened == [("fsync", number), ("replace", number)]


def test_a_kill_leaves_the_old_file(tmp_path: Path):
    target = tmp_path / "note.txt"
    write_text(target, "as it was")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(target)], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert target.read_text() == "as it was"


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path):
    target = tmp_path / "note.txt"
    write_text(target, "as it was")
    with pytest.raises(ZeroDivisionError), atomic_write(target) as temporary:
        temporary.write_bytes(bytes(1 // 0))
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]
    assert target.read_text() == "as it was"
