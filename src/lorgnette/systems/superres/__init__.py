"""Continuous super-resolution: an image enlarged by any factor (LM-LTE on EDSR)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lorgnette.systems.superres.recipe import Data, Model, Recipe

if TYPE_CHECKING:
    from lorgnette.crops import default_steps
    from lorgnette.systems.superres.data import loaders
    from lorgnette.systems.superres.enlarge import enhance
    from lorgnette.systems.superres.evaluate import evaluation
    from lorgnette.systems.superres.miniature import tiny
    from lorgnette.systems.superres.model import LMLTE
    from lorgnette.systems.superres.task import SuperResolution, make_task
    from lorgnette.systems.superres.weights import from_upstream

    Task = SuperResolution

# What needs torch is imported when it is asked for: the settings alone answer `--help`.
_LAZY = {
    "LMLTE": "model",
    "SuperResolution": "task",
    "default_steps": "lorgnette.crops",
    "enhance": "enlarge",
    "evaluation": "evaluate",
    "from_upstream": "weights",
    "loaders": "data",
    "make_task": "task",
    "tiny": "miniature",
}

__all__ = [
    "LMLTE",
    "Data",
    "Model",
    "Recipe",
    "SuperResolution",
    "Task",
    "default_steps",
    "enhance",
    "evaluation",
    "from_upstream",
    "loaders",
    "make_task",
    "tiny",
]


def __getattr__(name: str) -> Any:
    if name == "Task":
        name = "SuperResolution"
    if name in _LAZY:
        home = _LAZY[name]
        return getattr(import_module(home if "." in home else f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
