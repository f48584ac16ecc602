"""The only file that imports TensorBoard, and only when a training starts."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from lorgnette.train.events import Evaluated, Event, Finished, Started, Stepped

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def tensorboard_installed() -> bool:
    """Whether `TensorBoard` can be used; does not import it."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoard:
    """Losses, learning rate, metrics and the best pictures so far, as TensorBoard events in `folder`.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        if not tensorboard_installed():
            raise ValueError("TensorBoard is not installed: pip install 'lorgnette[tensorboard]'")
        self.folder = Path(folder)

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._writer = event_writer(self.folder, event.step)
            case Stepped():
                for name, value in event.losses.items():
                    self._writer.add_scalar(f"train/{name}", value, event.step)
                self._writer.add_scalar("train/grad_norm", event.grad_norm, event.step)
                self._writer.add_scalar("train/lr", event.lr, event.step)
            case Evaluated():
                for name, value in event.metrics.items():
                    self._writer.add_scalar(f"test/{name}", value, event.step)
                for name, pixels in event.pictures.items() if event.is_best else ():
                    self._writer.add_image(name, pixels, event.step, dataformats="HWC")
                self._writer.flush()
            case Finished():
                self._writer.close()


def event_writer(folder: Path, step: int) -> SummaryWriter:
    """TensorBoard's writer of event files; a run resumed at a step replaces what was written beyond it."""
    with warnings.catch_warnings():  # what its dependencies deprecate is not our users' business
        warnings.simplefilter("ignore")
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(folder), purge_step=step + 1 if step else 0)
