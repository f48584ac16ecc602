"""Adapters at another strength than they were trained for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

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
    usual = [layer.lora_alpha for layer in adapted]
    with disabled(model) if strength == 0 and adapted else nullcontext():
        try:
            for layer, alpha in zip(adapted, usual, strict=True):
                layer.lora_alpha = alpha if strength == 1 else alpha * strength
            yield
        finally:  # the very numbers, so that the model is known as the one it was
            for layer, alpha in zip(adapted, usual, strict=True):
                layer.lora_alpha = alpha
