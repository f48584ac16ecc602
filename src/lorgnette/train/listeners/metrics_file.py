"""metrics.jsonl: what happened at each step, for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorgnette.common.files import write_text
from lorgnette.train.events import Evaluated, Event, Started
from lorgnette.train.listeners.record import record


class MetricsFile:
    """Appends a JSON line for each event to `path`.

    A fresh run empties the file. A resumed one takes out what was written beyond the step it resumes from, so
    that in the end there is exactly one line for each step, however often the run was killed.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._evaluated = -1  # last step that has an evaluation line

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._rewind(event.step)
            case Evaluated():
                if event.step <= self._evaluated:  # resumed at a step whose evaluation had been written
                    return
                self._evaluated = event.step
        # Opened each time: nothing stays in a buffer, and no file stays open if training fails.
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record(event), allow_nan=False) + "\n")

    def _rewind(self, step: int) -> None:
        kept = []
        if step > 0 and self.path.is_file():
            kept = [line for line in read_metrics(self.path) if _stays(line, step)]
        self._evaluated = max((line["step"] for line in kept if line["event"] == "eval"), default=-1)
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))


def _stays(line: Mapping[str, Any], resumed_at: int) -> bool:
    """Of a start that led nowhere and of an end that was none, nothing is kept."""
    kind, step = line.get("event"), line.get("step", 0)
    return step < resumed_at if kind == "start" else step <= resumed_at and kind != "finish"


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, without a last one that a kill cut off in the middle.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another line is not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    lines = path.read_bytes().splitlines()
    records = []
    for count, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("not an object")
        except ValueError:  # JSONDecodeError and UnicodeDecodeError are such
            if count == len(lines):
                break
            raise ValueError(f"{path}: line {count} is not a JSON object") from None
        records.append(value)
    return records
