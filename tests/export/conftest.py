"""Miniatures of the rooms, trained and exported once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lorgnette.export import Report, export
from lorgnette.recipe import build
from lorgnette.systems import room
from lorgnette.train.loop import evaluate, fit
from lorgnette.train.task import Task

for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed)


class Written(NamedTuple):
    file: Path
    report: Report
    task: Task
    recipe: Any


@pytest.fixture(scope="session")
def trained() -> Callable[[str], tuple[Task, Any, list[Any]]]:
    """The room's miniature: task with its adapter, recipe and held-out batches."""
    found: dict[str, tuple[Task, Any, list[Any]]] = {}

    def get(name: str) -> tuple[Task, Any, list[Any]]:
        if name not in found:
            recipe, batches, test = room(name).tiny()
            task = build(recipe)
            fit(task, batches, recipe.train)
            found[name] = (task, recipe, list(test))
        return found[name]

    return get


@pytest.fixture(scope="session")
def written(
    trained: Callable[[str], tuple[Task, Any, list[Any]]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Written]:
    """The file of a room's miniature, by room and suffix."""
    found: dict[tuple[str, str], Written] = {}
    folder = tmp_path_factory.mktemp("exported")

    def get(name: str, suffix: str) -> Written:
        if (name, suffix) not in found:
            task, recipe, test = trained(name)
            report = export(
                task,
                recipe,
                folder / f"{name}{suffix}",
                score=lambda tasks: {row: evaluate(each, test) for row, each in tasks.items()},
            )
            found[name, suffix] = Written(folder / f"{name}{suffix}", report, task, recipe)
        return found[name, suffix]

    return get
