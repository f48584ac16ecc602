"""The example does what its tutorial says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_any_model(tmp_path: Path):
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path)}
    run = [sys.executable, "-W", "error", str(ROOT / "examples" / "any_model.py")]
    done = subprocess.run(run, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "all 3 adapters reach the output"
    error = {m[1]: float(m[2]) for line in lines if (m := re.match(r"(\w+) +mean squared error ([\d.]+)$", line))}
    assert error["adapted"] < 0.7 * error["base"]
    assert error["merged"] == error["adapted"]
    match = re.fullmatch(r"adapter: (\d+) of (\d+) parameters, (\d+) kB", lines[-1])
    assert match
    assert int(match[1]) < 0.15 * int(match[2])
    assert next(tmp_path.rglob("lorgnette.json")).is_file()
