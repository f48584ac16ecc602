"""What a classifier says of its own training."""

from __future__ import annotations

import math

import pytest

from lorgnette import build
from lorgnette.systems import clip
from lorgnette.systems.clip.task import Classification


@pytest.fixture(scope="module")
def task() -> Classification:
    made = build(clip.tiny()[0])
    assert isinstance(made, Classification)
    return made


def evaluations(*nll: float) -> dict[int, dict[str, float]]:
    return {10 * place: {"accuracy": 0.5, "nll": value, "ece": value / 10} for place, value in enumerate(nll)}


def test_a_classifier_that_grew_too_sure_says_so_and_from_when_on(task: Classification):
    (remark,) = task.remarks(evaluations(2.0, 0.3, 0.25, 0.4, 0.6), kept=40)
    assert "nll 0.600 at step 40" in remark
    assert "0.250 at step 20 (ece 0.060 and 0.025)" in remark
    assert "--train.steps 20" in remark
    assert "nll 3.000 at step 20" in task.remarks(evaluations(2.0, 2.5, 3.0), kept=20)[0]  # worse than zero-shot


@pytest.mark.parametrize(
    ("nll", "kept"),
    [((2.0, 0.3, 0.25, 0.26), 30), ((2.0, 0.3, 0.9), 10), ((), 0), ((0.001, 0.009), 10), ((1.1, 0.7, 0.2), 10)],
)
def test_nothing_is_said_where_what_is_kept_is_about_the_best(nll: tuple[float, ...], kept: int, task: Classification):
    assert task.remarks(evaluations(*nll), kept) == []


def test_of_weights_that_are_right_equally_often_the_surer_ones_are_better(task: Classification):
    ranked = [
        (0.5, 9.0),
        (0.5, 1.0),
        (0.5, 0.9),
        (0.500002, 99.0),
        (1.0, math.inf),
        (1.0, 0.7),
        (1.0, 0.001),
        (1.0, 0.0),
    ]
    values = [task.objective({"accuracy": accuracy, "nll": nll}) for accuracy, nll in ranked]
    assert values == sorted(values)
    assert len(set(values)) == len(values)
    assert math.isnan(task.objective({"accuracy": 1.0, "nll": math.nan}))  # a broken network is no best one
