"""What an operator sees of a running federation: sites, round, bytes, errors, time left. Imports no torch.

The process that runs the rounds keeps a `Board`; every change goes into a small JSON file, from which
`lorgnette federate serve` and `lorgnette federate status` draw their table. Reasons that sites give carry no file names
(`lorgnette.federate.deploy.worker.without_paths`), and nothing else of a site's data is in it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lorgnette.common.files import read_json, write_json
from lorgnette.common.text import duration, size, table
from lorgnette.federate.rounds.round_events import (
    Answered,
    NotUsed,
    RoundDone,
    RoundEvent,
    RoundsEnded,
    RoundsStarted,
    RoundStarted,
)

FORMAT_VERSION = 1
WAITING, KEEPING = "waiting for sites", "keeping the adapter"
NOT_CONNECTED = "it is not connected"
State = Literal["not yet seen", "ready", "training", "answered", "late", "refused", "not connected", "not asked"]


@dataclass
class SiteLine:
    """One site."""

    state: State = "not yet seen"
    samples: int | None = None
    rounds: int = 0
    """The number of rounds in which its update was used."""
    seconds: float | None = None
    """From the request to the answer, the last time it answered."""
    bytes_down: int = 0
    bytes_up: int = 0
    problem: str = ""
    """Its last error, and the round it was in."""


@dataclass
class Board:
    """The state of a federation in figures.

    Args:
        path: the file it is kept in; None: nowhere.
        rounds: how many are planned.
        sites: their names.
    """

    path: Path | None
    rounds: int
    sites: dict[str, SiteLine]
    round: int = 0
    phase: str = WAITING
    round_began: float = 0.0
    round_seconds: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    serving: str = ""
    """Which start of the server writes it: a process of an earlier one, killed but not gone yet, may still write."""
    wire_bytes: int | None = None
    """All that travelled both ways since the server was last started, as Flower counts it; known at the end."""

    @classmethod
    def of(cls, path: str | os.PathLike[str] | None, rounds: int, sites: Sequence[str], serving: str = "") -> Board:
        """A new one, with its file written."""
        lines = {name: SiteLine() for name in sorted(sites)}
        board = cls(None if path is None else Path(path), rounds, lines, serving=serving)
        board.keep()
        return board

    def seen(self, site: str, samples: int | None) -> None:
        """A site said that it is there."""
        self.sites[site].state, self.sites[site].samples, self.sites[site].problem = "ready", samples, ""
        self.keep()

    def failed(self, site: str, reason: str, state: State = "refused") -> None:
        """A site's answer is not used."""
        self.sites[site].state = state
        self.sites[site].problem = f"round {self.round}: {reason}" if self.round else reason
        self.keep()

    def __call__(self, event: RoundEvent) -> None:
        """Follow the rounds, as one of their listeners."""
        match event:
            case RoundsStarted():
                self.round, self.phase = event.round, "between rounds"
                self.metrics = _numbers(event.record.get("metrics"))
            case RoundStarted():
                self.round, self.phase, self.round_began = event.round, "training", time.time()
                for name, line in self.sites.items():
                    line.state = "training" if name in event.asked else "not asked"
            case Answered():
                line = self.sites[event.client]
                line.state, line.seconds, line.samples = "answered", event.seconds, event.samples
                line.bytes_up += event.size
                line.rounds += 1
            case NotUsed():
                if event.client in self.sites:
                    away = event.reason == NOT_CONNECTED
                    self.failed(event.client, event.reason, "not connected" if away else "refused")
            case RoundDone():
                self.round_seconds.append(event.record["seconds"])
                self.metrics, self.phase = _numbers(event.record.get("metrics")), "between rounds"
                for name in event.record["missing"]:
                    self.failed(name, "no answer in time", "late")
                for name, client in event.record["clients"].items():
                    self.sites[name].bytes_down += client["bytes_down"]
            case RoundsEnded():
                self.phase = KEEPING
        self.keep()

    def finish(self, phase: str) -> None:
        """No more rounds will come, for this reason."""
        self.phase = phase
        self.keep()

    @property
    def is_over(self) -> bool:
        """Whether no more rounds will come."""
        return self.phase not in (WAITING, "training", "between rounds", KEEPING)

    def problems(self) -> list[str]:
        """For each site whose answer was not used, the last reason, one line each."""
        return [f"{name}: {line.problem}" for name, line in self.sites.items() if line.problem]

    def scores(self) -> list[str]:
        """`accuracy 0.91` for each metric of the last round."""
        return [f"{name} {value:.4g}" for name, value in self.metrics.items()]

    def seconds_left(self, now: float) -> float | None:
        """An estimate from the median of the last rounds; None before the first is over."""
        if not self.round_seconds:
            return None
        usual = statistics.median(self.round_seconds[-5:])
        under_way = self.phase == "training"
        whole = max(0, self.rounds - self.round) * usual
        return whole + (max(0.0, usual - (now - self.round_began)) if under_way else 0.0)

    def keep(self) -> None:
        """Write the file anew."""
        if self.path is not None:
            content = {"format_version": FORMAT_VERSION, "written": time.time()} | asdict(self)
            content.pop("path")
            write_json(self.path, content)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Board:
        """The board in a file.

        Raises:
            FileNotFoundError: there is none (yet).
            ValueError: it is damaged, or of another version.
        """
        content: dict[str, Any] = read_json(path)
        if not isinstance(content, dict) or content.pop("format_version", None) != FORMAT_VERSION:
            raise ValueError(f"{path} is not a board that this version can read")
        content.pop("written", None)
        try:
            sites = {name: SiteLine(**line) for name, line in content.pop("sites").items()}
            return cls(Path(path), sites=sites, **content)
        except (TypeError, KeyError, AttributeError):
            raise ValueError(f"{path} is damaged") from None


def _numbers(metrics: Mapping[str, float | None] | None) -> dict[str, float]:
    return {name: value for name, value in (metrics or {}).items() if value is not None}


def page(board: Board, now: float | None = None) -> str:
    """The operator's table as text: a heading, a line for each site, and what went wrong last."""
    now = time.time() if now is None else now
    heading = [f"round {board.round} of {board.rounds}", board.phase]
    if board.phase == "training":
        heading.append(f"{now - board.round_began:.0f} s")
    left = board.seconds_left(now)
    if left is not None and board.phase in ("training", "between rounds"):
        heading.append(f"about {duration(left)} left")
    heading += board.scores()
    columns = ["site", "state", "samples", "rounds", "seconds", "down", "up"]
    rows = [
        [
            name,
            line.state,
            "-" if line.samples is None else str(line.samples),
            str(line.rounds),
            "-" if line.seconds is None else f"{line.seconds:.1f}",
            size(line.bytes_down),
            size(line.bytes_up),
        ]
        for name, line in board.sites.items()
    ]
    if board.wire_bytes is not None:
        heading.append(f"{size(board.wire_bytes)} on the wire")
    problems = board.problems()
    return "\n".join([", ".join(heading), "", table(columns, rows, left=2), *([""] if problems else []), *problems])
