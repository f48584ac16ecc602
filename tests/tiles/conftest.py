"""The image rooms in miniature."""

from __future__ import annotations

import pytest
from tests.video.tasks import tiny_task

from lorgnette.systems import restore
from lorgnette.train.task import Task


@pytest.fixture
def cleaner() -> Task:
    return tiny_task(restore)
