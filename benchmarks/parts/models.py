"""The same model with Lorgnette's adapters and with PEFT's."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from lorgnette.lora import LoRAConfig, inject_lora

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies, at import
    import peft

__all__ = ["peft", "with_ours", "with_peft"]


def with_peft(base: nn.Module, targets: list[str], rank: int, dropout: float) -> nn.Module:
    """A copy of the base with PEFT's adapters, otherwise at its defaults."""
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=targets)
    return _shaken(peft.get_peft_model(copy.deepcopy(base), config))  # type: ignore[arg-type]


def with_ours(base: nn.Module, targets: list[str], rank: int, dropout: float) -> nn.Module:
    """A copy of the base with Lorgnette's adapters."""
    config = LoRAConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=targets)
    return _shaken(inject_lora(copy.deepcopy(base), config))


def _shaken(model: nn.Module) -> nn.Module:
    """Random second factors, the same for both."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            values = torch.randn(parameter.shape, generator=generator) * 0.02
            parameter.data.copy_(values.view(parameter.shape))
    return model.train()
