from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tests.systems.sixth.recipe import Data, Recipe
from torch import nn

from lorgnette.common.modules import with_functions
from lorgnette.common.tensors import read_tensors
from lorgnette.systems.protocol import Program
from lorgnette.train.batches import DrawnBatches, HeldOut
from lorgnette.train.config import TrainConfig
from lorgnette.train.loop import evaluate
from lorgnette.train.task import Task


class Lines(Task):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return {"loss": (self.predict(batch) - batch[..., 4]).square().mean()}

    def predict(self, batch):
        return self.model(batch[..., :4])[..., 0]

    def score(self, prediction, batch):
        return {"error": float((prediction - batch[..., 4]).square().mean())}

    def objective(self, metrics):
        return -metrics["error"]


class Rows(list):
    def __getitem__(self, draw):
        return super().__getitem__(draw.index)


def from_upstream(path_or_state):
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    model.load_state_dict(dict(read_tensors(path_or_state)) if path_or_state else model.state_dict())
    return model


def make_task(recipe: Recipe) -> Lines:
    base = recipe.model.base
    return Lines(from_upstream(base != "none" and Path(base) / "model.safetensors"))


def program(task: Lines) -> Program:
    return Program(
        module=task.model,
        inputs={"points": {0: "n"}},
        output="values",
        example=lambda number: (torch.randn(2 + number, 4, generator=torch.Generator().manual_seed(number)),),
        answering=lambda run: with_functions(task, predict=lambda batch: run(batch[..., :4])[..., 0]),
    )


def loaders(data: Data, train: TrainConfig | None = None) -> tuple[DrawnBatches, HeldOut]:
    if data.root is None:
        raise ValueError("data.root: not set; give a .npy file of five columns")
    table, train = torch.from_numpy(np.load(data.root)).float(), train or TrainConfig()
    held = 0 if data.test else int(data.holdout * len(table))
    test = torch.from_numpy(np.load(data.test)).float() if data.test else table[:held]
    return DrawnBatches(Rows(table[held:]), train.batch_size, train.seed, train.workers), HeldOut([test])


def default_steps(n: int, recipe: Recipe) -> int:
    return 200 + min(800, n)


def evaluation(tasks, folder, progress=iter):
    table = torch.from_numpy(np.load(folder)).float()
    return {name: evaluate(task, progress([table])) for name, task in tasks.items()}


def tiny():
    x = torch.randn(72, 4, generator=torch.Generator().manual_seed(0))
    batches = list(torch.cat([x, x.sum(1, keepdim=True) / 2], 1).split(8))
    return Recipe(train=TrainConfig(steps=60, lr=2e-2, warmup_steps=3, device="cpu")), batches[:8], batches[8:]
