"""Who listens to a training (`lorgnette.train.loop.fit`): each is called with every event. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from lorgnette.train.events import Listener
from lorgnette.train.listeners.metrics_file import MetricsFile, read_metrics
from lorgnette.train.listeners.pictures import SamplePictures
from lorgnette.train.listeners.progress import ProgressBar
from lorgnette.train.listeners.record import in_words, record
from lorgnette.train.listeners.run_report import Report
from lorgnette.train.listeners.tensorboard import TensorBoard, tensorboard_installed

__all__ = [
    "MetricsFile",
    "ProgressBar",
    "Report",
    "SamplePictures",
    "TensorBoard",
    "in_words",
    "read_metrics",
    "record",
    "run_listeners",
    "tensorboard_installed",
]


def run_listeners(folder: str | os.PathLike[str]) -> list[Listener]:
    """All listeners of a run that lives in `folder`; TensorBoard among them if it is installed.

    The report comes last, since it reads what the others write.
    """
    folder = Path(folder)
    tensorboard = [TensorBoard(folder / "tensorboard")] if tensorboard_installed() else []
    return [
        ProgressBar(),
        MetricsFile(folder / "metrics.jsonl"),
        SamplePictures(folder / "samples"),
        *tensorboard,
        Report(folder),
    ]
