"""Flower's command line, spoken to in JSON. Imports neither flwr nor torch."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorgnette.common.files import write_text
from lorgnette.federate.flower.programs import environment

CALL_SECONDS = 120.0


class FlowerCommand:
    """Flower's command line, against our own link."""

    def __init__(self, home: Path, link: subprocess.Popen[bytes], address: str, ca_file: Path | None):
        self.env, self.link = environment(home), link
        self.program = shutil.which("flwr", path=self.env["PATH"]) or "flwr"
        text = f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\n'
        trust = "insecure = true" if ca_file is None else f"root-certificates = {json.dumps(str(ca_file))}"
        write_text(home / "config.toml", f"{text}{trust}\n")

    def register(self, public_key: Path) -> None:
        """Let the owner of a key in; who is in already stays."""
        said = self._call("supernode", "register", str(public_key), "here")
        if not said.get("success") and "already in use" not in said.get("error-message", ""):
            raise ValueError(f"{public_key.name} was not registered ({_line(said)})")

    def start_run(self, app: Path, *options: str) -> str:
        """Start the app's server; gives Flower's number of the run."""
        said = self._call("run", str(app), "here", *options)
        if not said.get("success"):
            raise ValueError(f"the rounds could not be started ({_line(said)})")
        return str(said["run-id"])

    def run(self, run_id: str) -> dict[str, Any]:
        """What Flower knows of a run: `status`, such as 'running' or 'finished:failed', `network-traffic`, ..."""
        return (self._call("list", "here", "--run-id", run_id).get("runs") or [{}])[0]

    def _call(self, *words: str) -> dict[str, Any]:
        try:
            done = subprocess.run(
                [self.program, *words, "--format", "json"],
                env=self.env,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=CALL_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return {"error-message": f"Flower's link did not answer within {CALL_SECONDS:.0f} s"}
        start = done.stdout.find("{")
        try:
            return json.loads(done.stdout[start:]) if start >= 0 else {"error-message": done.stderr}
        except json.JSONDecodeError:
            return {"error-message": done.stdout + done.stderr}


def _line(said: Mapping[str, Any]) -> str:
    return " ".join(str(said.get("error-message", said)).split())[:300]
