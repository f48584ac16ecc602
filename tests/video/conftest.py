"""The image rooms in miniature."""

from __future__ import annotations

from types import ModuleType

import pytest
from tests.video.tasks import ROOMS, tiny_task

from lorgnette.systems import restore
from lorgnette.train.task import Task


@pytest.fixture(scope="module", params=list(ROOMS))
def room(request: pytest.FixtureRequest) -> ModuleType:
    return ROOMS[request.param]


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {module.__name__: tiny_task(module) for module in ROOMS.values()}


@pytest.fixture(scope="module")
def task(room: ModuleType, tasks: dict[str, Task]) -> Task:
    return tasks[room.__name__]


@pytest.fixture(scope="module")
def cleaner(tasks: dict[str, Task]) -> Task:
    return tasks[restore.__name__]
