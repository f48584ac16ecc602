"""Modules and batches: a mode for a while, other parts in a copy, and where tensors lie."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within this context a module is in eval mode."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def moved(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device: a tensor, or a mapping or sequence of batches; all else stays."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {name: moved(value, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(moved(value, device) for value in batch)
    return batch


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def with_functions(module: ModuleT, **functions: Callable[..., Any]) -> ModuleT:
    """A shallow copy with functions in place of methods: the same tensors, other answers."""
    other = copy.copy(module)
    vars(other).update(functions)
    return other


def with_module(module: ModuleT, name: str, part: nn.Module) -> ModuleT:
    """A shallow copy with another part of that name."""
    other = copy.copy(module)
    other._modules = {**module._modules, name: part}
    return other
