"""report.html of a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lorgnette.common.files import read_json
from lorgnette.common.parts import FILE, Parts
from lorgnette.report.page import write_report
from lorgnette.train.events import Evaluated, Event, Finished, Started, Stepped
from lorgnette.train.listeners.metrics_file import read_metrics
from lorgnette.train.listeners.pictures import before_and_after
from lorgnette.train.listeners.record import in_words, record

ABOUT_FILE = "about.json"
"""What is said of a run beside how it ends: `notes`, a paragraph each, and `panels`, what the parts of each picture
show from left to right."""


class Report:
    """Writes `report.html` into the folder of a run, at the end and now and then on the way.

    It is made of the files of the run (metrics.jsonl, samples, recipe.yaml, about.json), so that a resumed run is shown
    whole; it must come after the listeners that write those.

    Args:
        folder: of the run.
        seconds: least time between two reports on the way.
    """

    def __init__(self, folder: str | os.PathLike[str], seconds: float = 60.0):
        self.folder, self.seconds = Path(folder), seconds
        self._written = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._written, self._total = time.monotonic(), event.total
            case Stepped() | Evaluated() if time.monotonic() - self._written >= self.seconds:
                self._write(f"In training: step {event.step} of {self._total}.")
            case Finished():
                self._write(in_words(record(event)))

    def _write(self, summary: str) -> None:
        about = read_json(self.folder / ABOUT_FILE) if (self.folder / ABOUT_FILE).is_file() else {}
        metrics_file, recipe = self.folder / "metrics.jsonl", self.folder / "recipe.yaml"
        parts = Parts.read(self.folder / FILE)
        metrics = read_metrics(metrics_file) if metrics_file.is_file() else []
        evaluations = [line for line in metrics if line["event"] == "eval"]
        best = [line for line in evaluations if line["is_best"]][-1:]
        shown = [line for line in evaluations[:1] if line not in best] + best
        names = [f"step {line['step']}" if line["step"] else "before training" for line in shown]
        simple = {name: scores for line in evaluations for name, scores in line.get("compared", {}).items()}
        table = [{"model": name, **scores} for name, scores in simple.items()]
        table += [{"model": name, **line["metrics"]} for name, line in zip(names, shown, strict=True)]
        write_report(
            self.folder / "report.html",
            title=f"Training: {self.folder.resolve().name}",
            recipe_text=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
            metrics=metrics,
            table=table,
            pictures=before_and_after(self.folder / "samples", best[0]["step"] if best else 0),
            summary="\n\n".join([summary, *([parts.in_words()] if parts else []), *about.get("notes", [])]),
            panels=about.get("panels", []),
        )
        self._written = time.monotonic()
