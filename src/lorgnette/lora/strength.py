"""Adapters at another strength than they were trained for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from lorgnette.lora.layers.base import LowRank
from lorgnette.lora.surgery import disabled


@contextmanager
def at_strength(model: nn.Module, strength: float) -> Iterator[None]:
    """Within this context, what all adapters of a model add counts `strength` times; at 0 the model is its base.

    Args:
        model: with adapters, or without: then nothing changes.
        strength: 1 as trained.
    """
    adapted = [module for module in model.modules() if isinstance(module, LowRank)]
    with ExitStack() as stack:
        if strength == 0 and adapted:
            stack.enter_context(disabled(model))
        usual = [layer.scaling for layer in adapted]
        try:
            for layer, scaling in zip(adapted, usual, strict=True):
                layer.scaling = scaling * strength
            yield
        finally:
            for layer, scaling in zip(adapted, usual, strict=True):
                layer.scaling = scaling
