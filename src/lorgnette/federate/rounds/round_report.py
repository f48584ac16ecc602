"""What a person sees of a federation: lines on the way, and report.html with plots. Imports no torch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lorgnette.common.parts import FILE, Parts
from lorgnette.common.text import duration, number, size
from lorgnette.federate.rounds.round_events import (
    Answered,
    NotUsed,
    RoundDone,
    RoundEvent,
    RoundsEnded,
    RoundsStarted,
    RoundStarted,
)
from lorgnette.federate.wire.accounting import DELTA, epsilon
from lorgnette.report.page import write_report
from lorgnette.settings import read_yaml
from lorgnette.train.listeners.metrics_file import read_metrics
from lorgnette.train.listeners.record import change

COUNTED, REFUSED, MISSING, IDLE = (47, 127, 123), (196, 62, 48), (233, 168, 64), (236, 238, 240)
"""Colours of the picture of who took part."""
CELL = 14  # pixels of a side, of that picture


class ProgressLines:
    """A bar over the clients of a round on a terminal, and a line for each round and each update that is not used.

    Args:
        stream: where to write; None for stderr.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream
        self._bar: tqdm | None = None
        self._first: Mapping[str, float | None] = {}
        self._total = 0

    def __call__(self, event: RoundEvent) -> None:
        match event:
            case RoundsStarted():
                self._out = self._stream or sys.stderr
                self._total, self._first = event.total, event.record.get("metrics") or {}
                self._began, self._from = time.monotonic(), event.round
                after = f", going on after round {event.round}" if event.round else ""
                self._write(f"{len(event.clients)} clients, {event.total} rounds{after}.")
                if self._first and not event.round:
                    self._write(f"{self._title(0)}{_figures(self._first)}")
            case RoundStarted() if self._out.isatty():
                self._bar = tqdm(
                    total=len(event.asked), file=self._out, unit="client", desc=f"round {event.round}", leave=False
                )
            case Answered() if self._bar is not None:
                self._bar.update()
            case NotUsed():
                if self._bar is not None:
                    self._bar.update()
                self._write(f"{self._title(event.round)}{event.client} is not used: {event.reason}")
            case RoundDone():
                self._close()
                self._write(self._title(event.round) + self._line(event.record))
            case RoundsEnded():
                self._close()
                self._write(in_words(event))

    def _line(self, record: Mapping[str, Any]) -> str:
        metrics = record["metrics"]
        cells = [_figures(metrics, self._first)] if metrics else []
        if record["counted"]:
            cells.append(f"aggregation error {100 * record['aggregation_error']:.2g} %")
        else:
            cells.append("no quorum, nothing changed")
        cells.append(f"{len(record['answered'])}/{len(record['asked'])} clients")
        cells.append(f"{size(record['bytes_up'])} up, {size(record['bytes_down'])} down")
        left = (time.monotonic() - self._began) / (record["round"] - self._from) * (self._total - record["round"])
        cells.append(f"{duration(left)} left")
        return "   ".join(cells)

    def _title(self, round: int) -> str:
        return f"round {round:>{len(str(self._total))}}   "

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _write(self, line: str) -> None:
        tqdm.write(line, file=self._out)
        self._out.flush()


class RoundReport:
    """Writes report.html into the folder of a federation, at the end and now and then on the way.

    It is made of the files of the folder, so that one that was resumed is shown whole.

    Args:
        folder: of the federation.
        seconds: least time between two reports on the way.
    """

    def __init__(self, folder: str | os.PathLike[str], seconds: float = 20.0):
        self.folder, self.seconds = Path(folder), seconds
        self._written = time.monotonic()

    def __call__(self, event: RoundEvent) -> None:
        match event:
            case RoundDone() if time.monotonic() - self._written >= self.seconds:
                write_federation_report(self.folder, f"Under way: round {event.round} is done.")
                self._written = time.monotonic()
            case RoundsEnded():
                write_federation_report(self.folder, in_words(event))


def in_words(event: RoundsEnded) -> str:
    """How the rounds ended, for a person."""
    opening = {"failed": "Ended by an error"}.get(event.reason, event.reason.capitalize())
    text = f"{opening} after round {event.round}."
    if event.best:
        name, value = next(iter(event.best.items()))
        text += f" Best after round {event.best_round}: {name} {number(value)}."
    return text


def write_federation_report(folder: str | os.PathLike[str], summary: str) -> None:
    """report.html of a federation's folder: scores, aggregation error, bytes, who took part, each client's figures."""
    folder = Path(folder).resolve()
    lines_file, recipe, config = (folder / name for name in ("journal.jsonl", "recipe.yaml", "federation.yaml"))
    rounds = read_metrics(lines_file) if lines_file.is_file() else []
    texts = [path.read_text(encoding="utf-8") for path in (config, recipe) if path.is_file()]
    noise = float(read_yaml(config).get("noise", 0.0)) if config.is_file() else 0.0
    picture, parts = participation(rounds), Parts.read(folder / FILE)
    caption = "Who took part (a row is a client, a column a round): green counted, orange missing, red refused"
    write_report(
        folder / "report.html",
        title=f"Federation: {folder.parent.name if folder.name == 'run' else folder.name}",
        recipe_text="\n".join(texts),
        metrics=curves(rounds),
        table=client_table(rounds, noise),
        pictures=[(caption, picture)] if picture.size else [],
        summary=summary if parts is None else f"{summary}\n\n{parts.in_words()}",
    )


def curves(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a journal as lines of metrics.jsonl, of which a report draws its charts."""
    found: list[dict[str, Any]] = []
    for line in rounds:
        step = line["round"]
        if line.get("metrics"):
            found.append(
                {"event": "eval", "step": step, "metrics": line["metrics"], "is_best": line.get("is_best", False)}
            )
        if step:
            losses = [c["loss"] for c in line["clients"].values() if c["loss"] is not None]
            values = {
                "loss of the clients": sum(losses) / len(losses) if losses else None,
                "aggregation error": line.get("aggregation_error"),
                "MB up": float(f"{line['bytes_up'] / 1e6:.3g}"),  # headers differ by some bytes from round to round
                "MB down": float(f"{line['bytes_down'] / 1e6:.3g}"),
                "clients that counted": len(line["answered"]),
            }
            found.append({"event": "step", "step": step} | {k: v for k, v in values.items() if v is not None})
    return found


def client_table(rounds: Sequence[Mapping[str, Any]], noise: float = 0.0) -> list[dict[str, Any]]:
    """A row for each client: what it has, how often it counted, its last figures, its bytes, what its noise buys."""
    names = sorted({name for line in rounds for name in line.get("asked", ())})
    rows = []
    for name in names:
        own = [line["clients"][name] for line in rounds if name in line.get("clients", {})]
        last = own[-1] if own else {}
        asked = sum(name in line.get("asked", ()) for line in rounds)
        rows.append(
            {
                "client": name,
                "samples": last.get("samples"),
                "asked": asked,
                "counted": len(own),
                "refused": len(_refusals(rounds, name)),
                "missing": sum(name in line.get("missing", ()) for line in rounds),
                **({"last refusal": refusals[-1]} if (refusals := _refusals(rounds, name)) else {}),
                **({"skipped steps": skipped} if (skipped := sum(entry.get("skipped", 0) for entry in own)) else {}),
                "last training": last.get("loss"),
                "last update": last.get("update_norm"),
                "bytes up": sum(entry["bytes_up"] for entry in own),
                "bytes down": sum(entry["bytes_down"] for entry in own),
                **({f"epsilon (delta {DELTA:g})": epsilon(noise, asked)} if noise else {}),
                **{f"last {metric}": value for metric, value in last.get("metrics", {}).items()},
            }
        )
    return rows


def _refusals(rounds: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return [line["refused"][name] for line in rounds if name in line.get("refused", {})]


def participation(rounds: Sequence[Mapping[str, Any]]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with a row for each client and a column for each round; empty without rounds."""
    done = [line for line in rounds if line["round"]]
    names = sorted({name for line in done for name in line["asked"]})
    cells = np.full((len(names), len(done), 3), IDLE, np.uint8)
    for column, line in enumerate(done):
        for row, name in enumerate(names):
            if name in line["answered"]:
                cells[row, column] = COUNTED
            elif name in line["refused"]:
                cells[row, column] = REFUSED
            elif name in line["asked"]:
                cells[row, column] = MISSING
    picture = cells.repeat(CELL, 0).repeat(CELL, 1)
    if picture.size:
        picture[CELL - 1 :: CELL] = picture[:, CELL - 1 :: CELL] = 255
    return picture


def _figures(
    metrics: Mapping[str, float | None], first: Mapping[str, float | None] | None = None, most: int = 3
) -> str:
    """The first few; behind the main one, which stands first, what has been gained."""
    cells = [f"{name} {number(value)}" for name, value in list(metrics.items())[:most]]
    name, value = next(iter(metrics.items()))
    gain = change(value, (first or {}).get(name))
    if gain:
        cells[0] += f" ({gain})"
    return "   ".join(cells)
