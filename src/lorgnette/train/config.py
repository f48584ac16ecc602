"""How to train. Imports no torch, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from lorgnette.common.values import check_choices

DEVICES = ("auto", "cpu", "cuda", "mps")


class Trains(Protocol):
    """A recipe, as far as training is concerned."""

    @property
    def train(self) -> TrainConfig: ...


@dataclass(frozen=True)
class TrainConfig:
    """How to train: the same settings in every room."""

    steps: int | None = None
    """Optimiser steps. None: the room chooses from the amount of data."""
    batch_size: int = 8
    """Samples in a batch, for each process."""
    accumulate: int = 1
    """Batches whose gradients are averaged for one step."""
    lr: float = 1e-3
    """Peak learning rate of the adapters (of everything, where nothing is frozen)."""
    base_lr: float | None = None
    """Peak learning rate of trained tensors of the base itself. None: the same as `lr`."""
    lora_plus_ratio: float = 1.0
    """Learning rate of each adapter's B as a multiple of A's (LoRA+, arXiv 2402.12354, which uses 16)."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    """Which torch.optim optimiser."""
    weight_decay: float = 0.0
    """Decoupled for adamw, an L2 penalty for adam and sgd."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of adam and adamw: how long the means of gradients and of their squares remember."""
    schedule: Literal["cosine", "constant", "multistep"] = "cosine"
    """How the learning rate falls after the warm-up."""
    milestones: tuple[int, ...] = ()
    """Of multistep: the steps after which the learning rate is multiplied by gamma."""
    gamma: float = 0.5
    """Of multistep: the factor."""
    warmup_steps: int = 20
    """Steps in which the learning rate rises from zero."""
    final_lr_ratio: float = 0.02
    """Where the cosine ends, as a share of the peak."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm. 0: never."""
    ema_decay: float = 0.0
    """Decay, for each step, of the averaged weights that are evaluated and kept. 0: no averaging."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """What the forward pass computes in (autocast); weights and optimiser stay float32. With fp16 the loss is
    scaled, so that small gradients are not lost."""
    eval_every: int = 0
    """Steps between evaluations on the held-out data. 0: a tenth of the steps."""
    patience: int = 0
    """Stop after this many evaluations in a row without a better one. 0: never."""
    save_every: int = 200
    """Steps between checkpoints."""
    workers: int = 0
    """Processes that load data; the result is the same for any number."""
    seed: int = 0
    """Of the initial adapters, the order of the data and every random choice."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'mps'."""

    def __post_init__(self) -> None:
        check_choices(self, "train.")
        at_least = {
            "batch_size": 1, "accumulate": 1, "warmup_steps": 0, "clip_norm": 0, "weight_decay": 0,
            "eval_every": 0, "patience": 0, "save_every": 1, "workers": 0, "seed": 0,
        }  # fmt: skip
        for name, least in at_least.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"train.{name}: {getattr(self, name)} is too small; at least {least} works")
        if self.steps is not None and self.steps < 0:
            raise ValueError(f"train.steps: {self.steps} is negative; 0 or more works")
        for name in ("lr", "base_lr", "lora_plus_ratio"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                usual = 16 if name == "lora_plus_ratio" else 0.001
                raise ValueError(f"train.{name}: {value} is not a positive number; {usual} is usual")
        if self.device not in DEVICES:
            raise ValueError(f"train.device: {self.device!r} is not known; {', '.join(DEVICES)} are")
        if any(not 0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"train.betas: {self.betas} are not both in [0, 1); 0.9 and 0.999 are usual")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"train.gamma: {self.gamma} is outside (0, 1]; 0.5 is usual")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"train.milestones: {self.milestones} are not rising steps")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"train.ema_decay: {self.ema_decay} is outside [0, 1); 0.999 is usual")
        if not 0 <= self.final_lr_ratio <= 1:
            raise ValueError(f"train.final_lr_ratio: {self.final_lr_ratio} is outside [0, 1]")
