"""`scripts/train_medical.py`: `python -m lorgnette.compat.sam3dmed.train_medical --use_dataset --data_root DIR`."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lorgnette import evaluate, fit
from lorgnette.common.files import atomic_write, write_json
from lorgnette.common.tensors import read_tensors
from lorgnette.compat.sam3dmed.lora import (
    get_lora_state_dict,
    load_lora_state_dict,
    setup_lora_for_medical_finetuning,
)
from lorgnette.systems import mesh
from lorgnette.systems.mesh.weights import load_base
from lorgnette.train.config import TrainConfig
from lorgnette.train.events import Stepped


class MedicalTrainer:
    """Trains adapters, and the output layer if wished, of a mesh decoder.

    Args:
        model: a `SLatMeshDecoder`, without adapters.
        train_loader: gives batches as `data_collate` makes them; one that shuffles does so by `seed` and epoch.
        val_loader: the same, to score on; None: no scores.
        lr: peak learning rate.
        lora_rank: of the adapters.
        lora_alpha: their strength.
        lora_dropout: before them.
        unfreeze_output_layers: train the output layer whole.
        checkpoint_dir: where `save_checkpoint` writes.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        seed: of the order and of dropout.
        settings: the losses; see `mesh.Model`.

    Attributes:
        epoch: how many were trained.
        optimizer: over all parameters that require a gradient. It shows what is trained; each `train` steps one of its
            own, whose state the checkpoints hold.
        history: `train`, the mean losses of each epoch, and `val`, the scores after it.
    """

    def __init__(
        self,
        model: nn.Module,
        train_loader: Iterable[Any],
        val_loader: Iterable[Any] | None = None,
        lr: float = 1e-3,
        lora_rank: int = 4,
        lora_alpha: float = 8.0,
        lora_dropout: float = 0.0,
        unfreeze_output_layers: bool = True,
        checkpoint_dir: str | Path = "checkpoints/medical",
        device: str = "auto",
        seed: int = 0,
        settings: mesh.Model | None = None,
    ):
        if not isinstance(model, mesh.SLatMeshDecoder):
            raise ValueError(f"model: a {type(model).__name__} is not trained here; a SLatMeshDecoder is")
        self.model, self.train_loader, self.val_loader = model, train_loader, val_loader
        self.lora_rank, self.lora_alpha, self.lora_dropout = lora_rank, lora_alpha, lora_dropout
        self.unfreeze_output_layers, self.checkpoint_dir = unfreeze_output_layers, Path(checkpoint_dir)
        self.lr, self.device, self.seed, self.epoch = lr, device, seed, 0
        self.history: dict[str, list[dict[str, float]]] = {"train": [], "val": []}
        self._snapshot: dict[str, Any] | None = None
        self._setup_lora()
        self.task = mesh.MeshDecoding(model, settings or mesh.Model(), mesh.Data(resolution=model.resolution))
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)

    def _setup_lora(self) -> None:
        """Adapters into the model, the rest frozen."""
        setup_lora_for_medical_finetuning(
            self.model, self.lora_rank, self.lora_alpha, self.lora_dropout, self.unfreeze_output_layers
        )

    def train(self, epochs: int, save_every: int = 0) -> dict[str, list[dict[str, float]]]:
        """Train further epochs; writes `final.pt`, `history.json`, and `epoch_N.pt` each `save_every` epochs."""
        for _ in range(epochs):
            self.train_epoch()
            if self.val_loader is not None:
                self.history["val"].append(self.validate())
            if save_every and self.epoch % save_every == 0:
                self.save_checkpoint(f"epoch_{self.epoch}.pt")
        self.save_checkpoint("final.pt")
        write_json(self.checkpoint_dir / "history.json", self.history)
        return self.history

    def train_epoch(self) -> dict[str, float]:
        """Train one epoch; returns its mean losses."""
        steps, losses = sum(1 for _ in self._batches(self.epoch)), []
        config = TrainConfig(
            steps=(self.epoch + 1) * steps, lr=self.lr, schedule="constant", warmup_steps=0, seed=self.seed,
            device=self.device, save_every=steps,
        )  # fmt: skip
        end = fit(
            self.task,
            _Epochs(self, steps),
            config,
            [lambda event: losses.append(event.losses) if isinstance(event, Stepped) else None],
            resume=self._snapshot,
        )
        self._snapshot, self.epoch = end.snapshot(), self.epoch + 1
        means = {name: sum(float(step[name]) for step in losses) / len(losses) for name in losses[0]}
        self.history["train"].append(means)
        return means

    def validate(self) -> dict[str, float]:
        """Mean scores over `val_loader`."""
        return evaluate(self.task, self.val_loader or [])

    def save_checkpoint(self, name: str) -> Path:
        """Write `epoch`, `lora_state_dict` (adapters and unfrozen layers), their settings, and what resuming needs."""
        path = self.checkpoint_dir / name
        content = {
            "epoch": self.epoch,
            "lora_state_dict": {key: tensor.clone() for key, tensor in get_lora_state_dict(self.model).items()},
            "lora": {"rank": self.lora_rank, "alpha": self.lora_alpha, "dropout": self.lora_dropout,
                     "unfreeze_output_layers": self.unfreeze_output_layers},
            "history": json.dumps(self.history),
            "snapshot": self._snapshot,
        }  # fmt: skip
        with atomic_write(path) as temporary:
            torch.save(content, temporary)
        return path

    def load_checkpoint(self, path: str | Path) -> int:
        """Take adapters and unfrozen layers from a file, and go on from its epoch as if nothing had been between.

        Raises:
            FileNotFoundError: no such file.
            ValueError: another kind of file, or one that does not fit this model; one line says where.
        """
        content = read_tensors(path)
        if "lora_state_dict" not in content:
            raise ValueError(f"{path} has no 'lora_state_dict'; it is no checkpoint of an adapter")
        load_lora_state_dict(self.model, content["lora_state_dict"])
        self.epoch, self._snapshot = int(content.get("epoch", 0)), content.get("snapshot")
        self.history = json.loads(content.get("history", '{"train": [], "val": []}'))
        return self.epoch

    def _batches(self, epoch: int) -> Iterator[Any]:
        """Those of one epoch: a loader that shuffles draws its order from PyTorch's generator, which is seeded here."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + epoch)
            source = iter(self.train_loader)
            first = next(source, None)
        return itertools.chain([] if first is None else [first], source)


class _Epochs:
    """What `fit` draws from: epoch after epoch of a trainer's loader."""

    def __init__(self, trainer: MedicalTrainer, steps: int):
        self.trainer, self.steps = trainer, steps

    def starting_at(self, step: int, rank: int = 0, processes: int = 1) -> Iterator[Any]:
        epoch, done = divmod(step, self.steps)
        while True:
            yield from itertools.islice(self.trainer._batches(epoch), done, None)
            epoch, done = epoch + 1, 0


def create_model(size: str = "small", base: str = "shipped", resolution: int = 16) -> mesh.SLatMeshDecoder:
    """A decoder; see `mesh.Model` for sizes and base weights."""
    settings: Any = {"size": size, "base": base}
    return load_base(mesh.Model(**settings), resolution)


def arguments() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(prog="train_medical", description="Adapt a mesh decoder to organs of volumes.")
    add = parser.add_argument
    add("--use_dataset", action="store_true", help="train on --data_root; without: on generated ellipsoids, as a check")
    add("--data_root", help="a folder of cases as TotalSegmentator has it")
    add("--split", default="", help="the cases of meta.csv's split that are learnt from; unset: all")
    add("--val_split", help="the split that is scored; unset: none")
    add("--organs", nargs="*", default=(), help="which organs; unset: all")
    add("--resolution", type=int, default=16, help="active voxels along an axis")
    add("--features", choices=("scan", "mask"), default="scan")
    add("--size", default="small", help="tiny, small, medium or trellis")
    add("--base", default="shipped", help="shipped, none, or a checkpoint")
    add("--batch_size", type=int, default=1)
    add("--epochs", type=int, default=20)
    add("--lr", type=float, default=1e-3)
    add("--lora_rank", type=int, default=4)
    add("--lora_alpha", type=float, default=8.0)
    add("--lora_dropout", type=float, default=0.0)
    add("--freeze_output_layers", action="store_true", help="train adapters alone")
    add("--num_workers", type=int, default=0)
    add("--device", default="auto")
    add("--checkpoint_dir", default="checkpoints/medical")
    add("--save_every", type=int, default=0)
    add("--resume", help="a checkpoint to go on from")
    return parser


def loader(words: argparse.Namespace, split: str, shuffle: bool) -> Iterable[Any]:
    """Batches of a split of `--data_root`."""
    if not words.data_root:
        raise ValueError("--data_root: not set; --use_dataset needs a folder of cases")
    settings = {"resolution": words.resolution, "features": words.features}
    dataset = mesh.TS_SAM3D_Dataset(words.data_root, split, words.organs, **settings)
    return torch.utils.data.DataLoader(
        dataset, words.batch_size, shuffle, collate_fn=mesh.data_collate, num_workers=words.num_workers
    )


def main(argv: list[str] | None = None) -> MedicalTrainer:
    """Train as the flags say."""
    words = arguments().parse_args(argv)
    if words.use_dataset:
        batches: Iterable[Any] = loader(words, words.split, shuffle=True)
        held_out = loader(words, words.val_split, shuffle=False) if words.val_split is not None else None
        model = create_model(words.size, words.base, words.resolution)
    else:
        recipe, batches, held_out = mesh.tiny()
        model = create_model(recipe.model.size, "none", recipe.data.resolution)
    trainer = MedicalTrainer(
        model, batches, held_out, words.lr, words.lora_rank, words.lora_alpha, words.lora_dropout,
        not words.freeze_output_layers, words.checkpoint_dir, words.device,
    )  # fmt: skip
    if words.resume:
        trainer.load_checkpoint(words.resume)
    trainer.train(words.epochs, words.save_every)
    for epoch, losses in enumerate(trainer.history["train"], start=1):
        print(f"epoch {epoch}: " + ", ".join(f"{name} {value:.4f}" for name, value in losses.items()))
    print(f"kept in {trainer.checkpoint_dir / 'final.pt'}")
    return trainer


if __name__ == "__main__":
    main()
