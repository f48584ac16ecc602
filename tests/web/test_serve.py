"""`lorgnette serve` as a program: it starts, says where, stops in good order and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lorgnette.cli import main

pytest.importorskip("prometheus_client", reason="the server needs the extra 'web'")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[object]:
    """Starts servers, whose temporary folders lie in `tmp_path`; gives the process and its address."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "lorgnette", "serve", "--port", "0", "--no-page", "--device", "cpu", *words]
        env = os.environ | {"TMPDIR": str(tmp_path)} | environment
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"answers at (http://\S+),", line)
        assert match, line
        return process, match[1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def gone(folder: Path, seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while (left := list(folder.glob("lorgnette-serve-*"))) and time.monotonic() < until:
        time.sleep(0.05)
    return not left


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_it_leaves_nothing_behind_however_it_ends(serve, tmp_path: Path, sign: signal.Signals):
    process, address = serve()
    assert httpx.get(f"{address}/health").json()["status"] == "ok"
    assert list(tmp_path.glob("lorgnette-serve-*"))
    process.send_signal(sign)
    assert process.wait(30) == (-9 if sign is signal.SIGKILL else 0)
    assert gone(tmp_path)


def test_where_others_can_reach_it_a_token_is_made(serve):
    process, address = serve("--host", "0.0.0.0")
    line = process.stdout.readline()
    match = re.search(r"\?token=(\S{20,})", line)
    assert match
    token = match[1]
    here = address.replace("0.0.0.0", "127.0.0.1")
    assert httpx.get(f"{here}/api/adapters").status_code == 401
    assert httpx.get(f"{here}/api/adapters", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_a_token_is_taken_from_a_file_or_the_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "token").write_text("short\n")
    assert main(["serve", "--token-file", str(tmp_path / "token")]) == 2
    assert capsys.readouterr().err == (
        "lorgnette: error: token: does not work; 16 to 200 letters, digits and - _ . ~ do\n"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--adapters", "nowhere"], "no such folder of adapters: nowhere"),
        (["--port", "70000"], "--port"),
        (["--upload-mb", "0"], "--upload-mb"),
        (["--host", "256.1.1.1"], "256.1.1.1"),
    ],
)
def test_what_does_not_work_is_said(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]):
    assert main(["serve", "--no-page", "--port", "0", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
