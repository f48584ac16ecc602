"""Classification: pictures told apart by CLIP, with few examples, and by several parties together."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lorgnette.systems.clip.recipe import Data, Model, Recipe, adapter_preset

if TYPE_CHECKING:
    from lorgnette.systems.clip.data import default_steps, loaders
    from lorgnette.systems.clip.evaluate import evaluation
    from lorgnette.systems.clip.label import Label, classify
    from lorgnette.systems.clip.miniature import tiny
    from lorgnette.systems.clip.model import CLIPClassifier
    from lorgnette.systems.clip.task import Classification, make_task
    from lorgnette.systems.clip.weights import from_upstream

    Task = Classification

# What needs torch is imported when it is asked for: the settings alone answer `--help`.
_LAZY = {
    "CLIPClassifier": "model",
    "Classification": "task",
    "Label": "label",
    "classify": "label",
    "default_steps": "data",
    "evaluation": "evaluate",
    "from_upstream": "weights",
    "loaders": "data",
    "make_task": "task",
    "tiny": "miniature",
}

__all__ = [
    "CLIPClassifier",
    "Classification",
    "Data",
    "Label",
    "Model",
    "Recipe",
    "Task",
    "adapter_preset",
    "classify",
    "default_steps",
    "evaluation",
    "from_upstream",
    "loaders",
    "make_task",
    "tiny",
]


def __getattr__(name: str) -> Any:
    if name == "Task":
        name = "Classification"
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
