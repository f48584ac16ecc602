"""Accuracy, calibration and the picture of confusions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss

from lorgnette.systems.clip.scores import calibration_error, confusion, confusion_picture, scores


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(1, 60))
def test_figures_are_those_of_scikit_learn(seed: int, k: int, n: int):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=generator)
    labels = torch.randint(k, (n,), generator=generator)
    found = scores(logits, labels)
    predicted = logits.argmax(-1)
    assert found["accuracy"] == pytest.approx((predicted == labels).double().mean().item())
    occurring = set(labels.tolist())
    if set(predicted.tolist()) <= occurring and len(occurring) > 1:  # else scikit-learn warns
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found["nll"] == pytest.approx(log_loss(labels, logits.double().softmax(-1), labels=range(k)), rel=1e-6)
    assert (confusion(logits, labels) == confusion_matrix(labels, predicted, labels=range(k))).all()


def test_calibration_of_a_forecast_that_is_right_as_often_as_it_says():
    share = torch.tensor([[0.75, 0.25]]).log().expand(400, 2)
    labels = torch.arange(400) % 4 == 0  # the second class in a quarter of the cases
    assert calibration_error(share, labels.long()) == pytest.approx(0, abs=1e-7)
    assert calibration_error(share, torch.zeros(400, dtype=torch.long)) == pytest.approx(0.25)
    sure = torch.tensor([[50.0, -50.0]]).expand(400, 2)
    assert calibration_error(sure, labels.long()) == pytest.approx(0.25)


def test_calibration_by_hand():
    logits = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.68, 0.32]]).log()
    labels = torch.tensor([0, 0, 1])  # bins (0.867, 0.933] and (0.667, 0.733]
    assert calibration_error(logits, labels) == pytest.approx((0.1 + abs(1 - 0.7 - 0.68)) / 3)


def test_calibration_has_fifteen_bins():
    """Confidences of one bin of ten that are two bins of fifteen: 0.5 to 0.533 and 0.533 to 0.6."""
    logits = torch.tensor([[0.51, 0.49], [0.59, 0.41]]).log()
    labels = torch.tensor([0, 1])
    assert calibration_error(logits, labels) == pytest.approx((0.49 + 0.59) / 2)


@pytest.mark.parametrize("k", [2, 10, 300])
def test_the_picture_shows_every_class(k: int):
    counts = np.eye(k, dtype=np.int64) * 5
    picture = confusion_picture(counts, [f"class {i}" for i in range(k)])
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert max(picture.shape) < 1600
    assert (picture.reshape(-1, 3) == (0, 120, 100)).all(-1).sum() > k  # full cells on the diagonal
    assert not (picture.reshape(-1, 3) == (200, 60, 30)).all(-1).any()
