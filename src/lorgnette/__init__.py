"""Lorgnette: adapt vision models with low-rank updates, and put them to use.

The names below are imported when they are first used, so that `import lorgnette` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lorgnette.version import __version__

if TYPE_CHECKING:
    from lorgnette import lora, systems
    from lorgnette.checkpoint import load, load_recipe, save
    from lorgnette.lora import (
        LoRAConfig,
        LoRAConv2d,
        LoRALinear,
        count_parameters,
        freeze_base_params,
        get_lora_params,
        get_lora_state_dict,
        inject_lora,
        load_adapter,
        load_lora_state_dict,
        merge_lora_weights,
        save_adapter,
    )
    from lorgnette.recipe import TrainConfig, build
    from lorgnette.task import Task
    from lorgnette.train import evaluate, fit

_HOME = {
    "Task": "task",
    "TrainConfig": "recipe",
    "build": "recipe",
    "evaluate": "train",
    "fit": "train",
    "load": "checkpoint",
    "load_recipe": "checkpoint",
    "save": "checkpoint",
    "LoRAConfig": "lora",
    "LoRAConv2d": "lora",
    "LoRALinear": "lora",
    "count_parameters": "lora",
    "freeze_base_params": "lora",
    "get_lora_params": "lora",
    "get_lora_state_dict": "lora",
    "inject_lora": "lora",
    "load_adapter": "lora",
    "load_lora_state_dict": "lora",
    "merge_lora_weights": "lora",
    "save_adapter": "lora",
}
_MODULES = ("lora", "systems")

__all__ = [
    "LoRAConfig",
    "LoRAConv2d",
    "LoRALinear",
    "Task",
    "TrainConfig",
    "__version__",
    "build",
    "count_parameters",
    "evaluate",
    "fit",
    "freeze_base_params",
    "get_lora_params",
    "get_lora_state_dict",
    "inject_lora",
    "load",
    "load_adapter",
    "load_lora_state_dict",
    "load_recipe",
    "lora",
    "merge_lora_weights",
    "save",
    "save_adapter",
    "systems",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
