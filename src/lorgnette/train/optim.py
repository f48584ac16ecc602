"""What the loop moves: the optimiser, its learning rate by step, statistics at rest, averaged weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.train.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """An optimiser over what requires gradients: adapters at `config.lr`, trained base tensors at `config.base_lr`.

    Raises:
        ValueError: nothing requires gradients.
    """
    adapters = {id(p) for p in lora.get_lora_params(model)} if lora.is_adapted(model) else set()
    trained = [p for p in model.parameters() if p.requires_grad]
    base_lr = config.lr if config.base_lr is None else config.base_lr
    groups = [
        {"params": [p for p in trained if id(p) in adapters], "peak_lr": config.lr},
        {"params": [p for p in trained if id(p) not in adapters], "peak_lr": base_lr if adapters else config.lr},
    ]
    if config.lora_plus_ratio != 1:
        ups = {id(adapter.lora_B) for adapter in lora.adapted_layers(model).values()}
        faster = [p for p in groups[0]["params"] if id(p) in ups]
        groups[0]["params"] = [p for p in groups[0]["params"] if id(p) not in ups]
        groups.insert(1, {"params": faster, "peak_lr": config.lr * config.lora_plus_ratio})
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("there is nothing to train: no parameter of the model requires gradients")
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas)
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas)
        case "sgd":
            return torch.optim.SGD(groups, lr=config.lr, weight_decay=config.weight_decay, momentum=0.9)


def lr_factor(step: int, total: int, config: TrainConfig) -> float:
    """The learning rate of step `step` (from 0) of `total`, as a share of its peak."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "multistep":
        return config.gamma ** sum(step >= milestone for milestone in config.milestones)
    progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    floor = config.final_lr_ratio
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Averaged:
    """An exponential moving average of named tensors (kept in float32), to swap in for evaluation."""

    def __init__(self, tensors: Mapping[str, Tensor], decay: float):
        self.tensors, self.decay = dict(tensors), decay
        self.mean = {name: t.detach().float().clone() for name, t in tensors.items()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the tensors after step `step` (from 1). Early on the decay is smaller, so the start is forgotten."""
        if self.mean:
            decay = min(self.decay, (1 + step) / (10 + step))
            for name, mean in self.mean.items():
                mean.lerp_(self.tensors[name].float(), 1 - decay)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The tensors hold their average inside the block, and get their own values back bit for bit."""
        own = {name: self.tensors[name].detach().clone() for name in self.mean}
        copy_into(self.tensors, self.mean)
        try:
            yield
        finally:
            copy_into(self.tensors, own)


@torch.no_grad()
def copy_into(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy each of `values` into the tensor of the same name."""
    for name, value in values.items():
        tensors[name].copy_(value)


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached copies on the CPU."""
    return {name: t.detach().cpu().clone() for name, t in tensors.items()}
