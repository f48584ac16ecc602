"""Flower's programs and its command line, which answers in JSON. Imports neither flwr nor torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lorgnette.common.files import make_folder, write_text
from lorgnette.federate.deploy.reach import LOCAL

FLOWER = "1.41"  # its inner parts, which are used here, change with each minor version
CALL_SECONDS = 120.0


def require_flower() -> str:
    """The version of Flower; a one-line ValueError where it is not installed, or another than this works with."""
    try:
        found = version("flwr")
    except PackageNotFoundError:
        raise ValueError("this needs Flower: pip install 'lorgnette[federated]'") from None
    if not found.startswith(f"{FLOWER}."):
        raise ValueError(f"Flower {found} is installed; {FLOWER} works: pip install 'lorgnette[federated]'")
    return found


def environment(flower_home: Path) -> dict[str, str]:
    """What Flower's programs are started with: no reports home, its files in `flower_home`.

    Settings of Flower's own are left out, since some open more ports, and so is whom its server believes about where
    a request came from (`lorgnette.federate.flower.guard` relies on that). A proxy is not asked for what stays on this
    machine.
    """
    make_folder(flower_home)
    others = {k: v for k, v in os.environ.items() if not k.startswith("FLWR_") and k != "FORWARDED_ALLOW_IPS"}
    own = {
        "FLWR_HOME": str(flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return others | own | around_proxies() | {"PATH": path}  # its programs find each other by name


def around_proxies() -> dict[str, str]:
    """Environment variables that keep what stays on this machine away from proxies."""
    direct = ",".join([os.environ.get("no_proxy") or os.environ.get("NO_PROXY", ""), *LOCAL]).strip(",")
    return {"no_proxy": direct, "NO_PROXY": direct}


def flower_words(*words: str) -> list[str]:
    """A command line for one of Flower's own programs, as `lorgnette.federate.flower.link` starts them."""
    return [sys.executable, "-c", "from lorgnette.federate.flower.link import run_program; run_program()", *words]


class FlowerCommand:
    """Flower's command line, against our own link."""

    def __init__(self, home: Path, link: subprocess.Popen[bytes], address: str, ca_file: Path | None):
        self.env, self.link = environment(home), link
        self.program = shutil.which("flwr", path=self.env["PATH"]) or "flwr"
        text = f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\n'
        trust = "insecure = true" if ca_file is None else f"root-certificates = {json.dumps(str(ca_file))}"
        write_text(home / "config.toml", f"{text}{trust}\n")

    def register(self, public_key: Path) -> None:
        """Register the owner of a key; one that is registered already stays so."""
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
