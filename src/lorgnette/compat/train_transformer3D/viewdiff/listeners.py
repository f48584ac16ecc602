"""What the original command writes: checkpoints by epoch, a history, and its TensorBoard tags."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

from lorgnette.common.files import atomic_write, make_folder, write_json
from lorgnette.systems.faceview.task import FaceMapping
from lorgnette.train.events import Evaluated, Event, Finished, Started, Stepped
from lorgnette.train.listeners.tensorboard import event_writer

EVERY = 10
"""Epochs between checkpoints."""


class Epochs:
    """Writes `checkpoint_epoch_{N}_enhanced.pth`, `best_model_enhanced.pth` and `enhanced_training_history.json`.

    Args:
        options: the flags; kept with each checkpoint.
        per_epoch: steps of an epoch.
        task: whose weights are written.
    """

    def __init__(self, options: argparse.Namespace, per_epoch: int, task: FaceMapping):
        self.args = {name: value for name, value in vars(options).items() if name != "resume"}
        self.per_epoch, self.task = per_epoch, task
        self.saved, self.logs = make_folder(options.save_dir), make_folder(options.log_dir)
        self.losses: list[float] = []
        self.history: dict[str, list[float]] = {
            "train_loss_history": [], "val_loss_history": [], "val_cosine_sim_history": []
        }  # fmt: skip
        self.metrics: dict[str, float] = {}
        self.best = float("inf")

    def __call__(self, event: Event) -> None:
        match event:
            case Evaluated(step=step, metrics=metrics):
                self.metrics = dict(metrics)
                if step:
                    self.history["val_loss_history"].append(metrics["loss"])
                    self.history["val_cosine_sim_history"].append(metrics["cosine"])
                if step and metrics["loss"] < self.best:  # of those that are trained, as the original
                    self.best = metrics["loss"]
                    self.write("best_model_enhanced.pth", step, {})
            case Stepped():
                self.losses.append(event.losses["loss"])
                epoch, rest = divmod(event.step, self.per_epoch)
                if rest == 0:
                    self.history["train_loss_history"].append(sum(self.losses) / len(self.losses))
                    self.losses = []
                    print(f"epoch {epoch}: loss {self.history['train_loss_history'][-1]:.4f}, held out {self.metrics}")
                    if epoch % EVERY == 0:
                        name = f"checkpoint_epoch_{epoch}_enhanced.pth"
                        self.write(name, event.step, {"snapshot": event.snapshot()})
            case Finished():
                totals = {
                    "total_epochs": event.step // self.per_epoch,
                    "best_val_loss": self.best,
                    "final_val_cosine_sim": self.metrics.get("cosine"),
                }
                write_json(self.logs / "enhanced_training_history.json", self.history | totals)

    def write(self, name: str, step: int, more: dict[str, Any]) -> None:
        """Tensors and plain containers, so that they can be read without running code."""
        content = {
            "epoch": step // self.per_epoch - 1,
            "model_state_dict": self.task.model.state_dict(),
            "best_val_loss": self.best,
            "val_metrics": self.metrics,
            "args": self.args,
            **more,
        }
        with atomic_write(self.saved / name) as temporary:
            torch.save(content, temporary)


class EventFiles:
    """`Train/Loss`, `Train/LearningRate`, `Epoch/TrainLoss`, `Epoch/ValLoss` and `Epoch/ValCosineSim`."""

    def __init__(self, folder: str | os.PathLike[str], per_epoch: int):
        self.folder, self.per_epoch = Path(folder), per_epoch
        self.losses: list[float] = []

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self.writer = event_writer(self.folder, event.step)
            case Stepped():
                self.writer.add_scalar("Train/Loss", event.losses["loss"], event.step)
                self.writer.add_scalar("Train/LearningRate", event.lr, event.step)
                if "prior" in event.losses:
                    self.writer.add_scalar("Train/PriorLoss", event.losses["prior"], event.step)
                self.losses.append(event.losses["loss"])
                if event.step % self.per_epoch == 0:
                    mean = sum(self.losses) / len(self.losses)
                    self.writer.add_scalar("Epoch/TrainLoss", mean, event.step // self.per_epoch)
                    self.losses = []
            case Evaluated():
                epoch = event.step // self.per_epoch
                self.writer.add_scalar("Epoch/ValLoss", event.metrics["loss"], epoch)
                self.writer.add_scalar("Epoch/ValCosineSim", event.metrics["cosine"], epoch)
                self.writer.flush()
            case Finished():
                self.writer.close()
