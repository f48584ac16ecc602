"""How `lorgnette serve` serves. Imports neither torch nor FastAPI."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, fields
from pathlib import Path

LEAST_TOKEN = 16
KEPT = "adapters"
"""Folder in the server's temporary one, of adapters that were trained on it."""


@dataclass(frozen=True)
class Limits:
    """What a server takes at the most, so that one client cannot take it from the others."""

    upload_bytes: int = 100_000_000
    """Of one upload."""
    pixels: int = 25_000_000
    """Of a picture as given."""
    result_pixels: int = 100_000_000
    """Of a result, all its pages together."""
    voxels: int = 200_000_000
    """Of a mask."""
    photographs: int = 100
    """Of one training."""
    minutes: float = 30
    """Of one training."""
    waiting: int = 200
    """Jobs that wait, of all clients together."""
    waiting_each: int = 100
    """Jobs of one client that wait."""
    kept: int = 500
    """Finished jobs whose results are kept; the oldest go first."""
    kept_seconds: float = 3600
    """How long a result is kept."""
    stored_bytes: int = 4_000_000_000
    """Uploads and results on the disk, together. Where an upload finds no room, old results go first."""
    job_seconds: float = 3600
    """How long a job may run; a training gets its own minutes beside."""
    stalled_seconds: float = 30
    """How long an upload may stand still."""
    worker_bytes: int = 6_000_000_000
    """Memory of a worker after which another takes its place, once it is done with a job."""
    stop_seconds: float = 20
    """How long the jobs that run may go on when the server is told to stop."""

    def __post_init__(self) -> None:
        for one in fields(self):
            if not getattr(self, one.name) > 0:
                raise ValueError(f"limits.{one.name}: {getattr(self, one.name)} does not work; more than 0 does")


@dataclass(frozen=True)
class Settings:
    """How and where the server listens, and what it offers."""

    host: str = "127.0.0.1"
    """Address to listen at: this machine alone, unless it is another."""
    port: int = 7860
    """Port to listen at. 0: a free one."""
    token: str | None = None
    """What clients have to know. Needed where others than this machine can reach the server."""
    device: str = "auto"
    """As for `lorgnette.common.devices.to_device`."""
    adapters: Path | None = None
    """A folder of adapters that are offered beside those that ship, each by the name of its folder."""
    page: bool = True
    """Whether there is a page beside the API."""
    limits: Limits = field(default_factory=Limits)
    """What is taken at the most."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port: {self.port} does not work; 0 to 65535 does")
        if self.token is None and not is_loopback(self.host):
            raise ValueError(f"token: not set; {self.host} can be reached by others, and they would need one")
        if self.token is not None and not re.fullmatch(rf"[\w.~-]{{{LEAST_TOKEN},200}}", self.token, re.ASCII):
            raise ValueError(f"token: does not work; {LEAST_TOKEN} to 200 letters, digits and - _ . ~ do")
        if self.adapters is not None and not self.adapters.is_dir():
            raise FileNotFoundError(f"no such folder of adapters: {self.adapters}")

    def folders(self, home: Path) -> list[Path]:
        """Whose folders of adapters are offered; `home` is the server's temporary folder."""
        return [*([] if self.adapters is None else [self.adapters.absolute()]), home / KEPT]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
