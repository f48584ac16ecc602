"""Who listens to a training (`lorgnette.train.loop.fit`): each is called with every event. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from lorgnette.train.events import Listener
from lorgnette.train.listeners.metrics_file import MetricsFile as MetricsFile, read_metrics as read_metrics
from lorgnette.train.listeners.pictures import SamplePictures as SamplePictures
from lorgnette.train.listeners.progress import ProgressBar as ProgressBar
from lorgnette.train.listeners.record import in_words as in_words, record as record
from lorgnette.train.listeners.run_report import Report as Report
from lorgnette.train.listeners.tensorboard import (
    TensorBoard as TensorBoard,
    tensorboard_installed as tensorboard_installed,
)


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
