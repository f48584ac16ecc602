"""Check that every adapter reaches the output, by perturbing it and comparing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorgnette.lora.layers.base import LowRank, adapted_layers
from lorgnette.lora.wrappers import unwrapped

Forward = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class VerifyReport:
    """Which adapters have an effect on a batch."""

    checked: tuple[str, ...]
    """Names of all adapted layers."""
    dead_in_train: tuple[str, ...]
    """Those whose adapter does not change the output in training mode."""
    dead_in_eval: tuple[str, ...]
    """Those whose adapter does not change the output in evaluation without gradients."""

    @property
    def ok(self) -> bool:
        """Whether every adapter has an effect in both modes."""
        return not (self.dead_in_train or self.dead_in_eval)

    def __str__(self) -> str:
        if self.ok:
            return f"all {len(self.checked)} adapters reach the output"
        found = [
            f"in {mode} {', '.join(map(repr, dead))}"
            for mode, dead in (("training", self.dead_in_train), ("evaluation", self.dead_in_eval))
            if dead
        ]
        return f"adapters without effect: {'; '.join(found)}"


def verify(model: nn.Module, batch: Any, forward: Forward | None = None) -> VerifyReport:
    """Perturb `lora_B` of each layer in turn and require the output to change, in training and in evaluation.

    Gradients alone would not tell: a fused evaluation path may bypass an adapter that trains well. Afterwards all
    parameters, buffers, modes and random states are as before, even if the model raised.

    Args:
        model: with adapters.
        batch: what the model is called with; a tuple is spread over its arguments.
        forward: calls the model in another way: `forward(model, batch)`.

    Raises:
        ValueError: the model has no adapter, or its output holds no tensor.
    """
    with unwrapped(model) as inner:
        layers = adapted_layers(inner)
    if not layers:
        raise ValueError(f"verify: {type(model).__name__} has no adapter; inject_lora comes first")
    forward = forward or called
    dead = {}
    with restored(model):
        for training in (True, False):
            model.train(training)
            with torch.set_grad_enabled(training):
                before = _output(model, batch, forward)
                dead[training] = tuple(
                    name for name, layer in layers.items() if not _matters(layer, before, model, batch, forward)
                )
    return VerifyReport(tuple(layers), dead[True], dead[False])


def called(model: nn.Module, batch: Any) -> Any:
    """The output of a model; a tuple is spread over its arguments."""
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def _matters(layer: LowRank, before: list[Tensor], model: nn.Module, batch: Any, forward: Forward) -> bool:
    kept = layer.lora_B.detach().clone()
    try:
        with torch.no_grad():
            layer.lora_B.add_(torch.randn_like(layer.lora_B))
        after = _output(model, batch, forward)
    finally:
        with torch.no_grad():
            layer.lora_B.copy_(kept)
    return len(after) != len(before) or not all(map(_same, after, before))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # NaN equals NaN


def _output(model: nn.Module, batch: Any, forward: Forward) -> list[Tensor]:
    torch.manual_seed(0)  # the same dropout each time
    tensors = [tensor.detach().clone() for tensor in _tensors(forward(model, batch))]
    if not tensors:
        raise ValueError(f"verify: the output of {type(model).__name__} holds no tensor")
    return tensors


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value):
        yield from _tensors(vars(value))


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """A context for trying a model out: all adapters are enabled in it.

    Afterwards buffers, modes, what asks for gradients, enabled adapters and random states are as before.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    enabled = [(layer, layer.lora_enabled) for layer in adapted_layers(model).values()]
    try:
        for layer, _ in enabled:
            layer.lora_enabled = True
        with torch.random.fork_rng():
            yield
    finally:
        for layer, was in enabled:
            layer.lora_enabled = was
        for module, was in modes:
            module.training = was
        for parameter, was in asked:
            parameter.requires_grad_(was)
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)
