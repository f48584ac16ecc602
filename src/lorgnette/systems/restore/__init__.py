"""Restoration: noise, compression and blur taken off an image, or a fixed enlargement (MambaIR)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lorgnette.systems.restore.recipe import Data, Model, Recipe

if TYPE_CHECKING:
    from lorgnette.crops import default_steps
    from lorgnette.systems.restore.basicsr import read_options, read_test_options
    from lorgnette.systems.restore.clean import enhance
    from lorgnette.systems.restore.data import loaders
    from lorgnette.systems.restore.evaluate import evaluation
    from lorgnette.systems.restore.miniature import tiny
    from lorgnette.systems.restore.model import MambaIR
    from lorgnette.systems.restore.task import Restoration, make_task
    from lorgnette.systems.restore.weights import from_upstream

    Task = Restoration

# What needs torch is imported when it is asked for: the settings alone answer `--help`.
_LAZY = {
    "MambaIR": "model",
    "Restoration": "task",
    "default_steps": "lorgnette.crops",
    "enhance": "clean",
    "evaluation": "evaluate",
    "from_upstream": "weights",
    "loaders": "data",
    "make_task": "task",
    "read_options": "basicsr",
    "read_test_options": "basicsr",
    "tiny": "miniature",
}

__all__ = [
    "Data",
    "MambaIR",
    "Model",
    "Recipe",
    "Restoration",
    "Task",
    "default_steps",
    "enhance",
    "evaluation",
    "from_upstream",
    "loaders",
    "make_task",
    "read_options",
    "read_test_options",
    "tiny",
]


def __getattr__(name: str) -> Any:
    if name == "Task":
        name = "Restoration"
    if name in _LAZY:
        home = _LAZY[name]
        return getattr(import_module(home if "." in home else f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
