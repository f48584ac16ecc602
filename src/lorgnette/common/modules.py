"""Modules and batches: a mode for a while, other parts in a copy, and where tensors lie."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
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


def narrow(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Make convolutions and products as narrow as their tensors in a state dict, as pruning leaves them.

    Nothing is made wider, nothing is loaded, and what other layers have in the state dict is not looked at.
    """
    for name, layer in module.named_modules():
        weight = state.get(f"{name}.weight")
        if not isinstance(layer, nn.Conv2d | nn.Linear) or weight is None or weight.ndim != layer.weight.ndim:
            continue
        if weight.shape == layer.weight.shape or any(
            n > m for n, m in zip(weight.shape, layer.weight.shape, strict=True)
        ):
            continue
        layer.weight = nn.Parameter(layer.weight.new_zeros(weight.shape), layer.weight.requires_grad)
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.new_zeros(len(weight)), layer.bias.requires_grad)
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = weight.shape
        else:
            layer.out_channels, layer.in_channels = weight.shape[0], weight.shape[1] * layer.groups


def check_fits(module: nn.Module, inputs: tuple[Any, ...], source: str) -> None:
    """A one-line ValueError unless its layers fit each other, so that it takes these inputs."""
    try:
        with evaluating(module), torch.no_grad():
            module(*inputs)
    except RuntimeError as error:
        raise ValueError(f"{source}: its layers do not fit each other ({str(error).splitlines()[0]})") from None
