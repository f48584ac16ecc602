"""What learns from the whole network learns that, and only that."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.systems.sixth.recipe import Recipe

from lorgnette.prune import distilled
from lorgnette.recipe import build
from lorgnette.systems import ROOMS, room
from lorgnette.train.loop import evaluate, fit


@pytest.fixture(autouse=True)
def one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROOMS, "sixth", "tests.systems.sixth")


def test_the_teacher_is_matched_and_stays_as_it_is():
    recipe, batches, test = room("sixth").tiny()
    assert isinstance(recipe, Recipe)
    task = build(recipe)
    whole = copy.deepcopy(task.model)
    student = distilled(task, whole, share=1.0)
    assert student(batches[0])["loss"].item() == 0
    assert student.score.__func__ is task.score.__func__
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    before = copy.deepcopy(whole.state_dict())
    first = student(batches[0])
    assert first["loss"] == first["teacher"] > 0
    mixed = distilled(task, whole, share=0.25)(batches[0])
    torch.testing.assert_close(mixed["loss"], 0.75 * mixed["own"] + 0.25 * mixed["teacher"])
    torch.testing.assert_close(mixed["own"], task(batches[0])["loss"])
    fit(student, batches, recipe.train)
    assert student(batches[0])["teacher"].item() < 0.5 * first["teacher"].item()
    assert all(torch.equal(before[name], tensor) for name, tensor in whole.state_dict().items())
    assert evaluate(student, test) == evaluate(task, test)  # one network
    assert not any(name.startswith("teacher") for name, _ in student.named_parameters())
