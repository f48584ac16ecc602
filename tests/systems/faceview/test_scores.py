"""Scores against their definitions, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.systems.faceview.curves import COLOURS, Axes, histogram_picture, roc_picture, similarity_picture
from lorgnette.systems.faceview.scores import (
    BUCKETS,
    Trials,
    bucket_name,
    calibrated,
    equal_error_rate,
    false_acceptance,
    fused,
    interval,
    log_loss,
    rank_one,
    scores,
    tar_at,
    threshold_at,
    trials,
)


def random_trials(seed: int = 0, people: int = 30, views: int = 8, signal: float = 3.0) -> Trials:
    rng = np.random.default_rng(seed)
    gallery = rng.normal(size=(people, 16))
    person = np.repeat(np.arange(people), views)
    probe = signal * gallery[person] + 4 * rng.normal(size=(len(person), 16))
    return trials(probe, gallery, person, rng.uniform(-90, 90, len(person)))


@given(st.integers(0, 1000), st.sampled_from([0.3, 0.1, 1e-2, 1e-3]))
@settings(max_examples=30, deadline=None)
def test_thresholds_keep_what_they_promise(seed: int, far: float):
    found = random_trials(seed)
    limit = threshold_at(found.impostor, far)
    accepted = (found.impostor >= limit).sum()
    assert accepted <= far * found.impostor.size
    lower = np.sort(found.impostor[found.impostor < limit].ravel())[-1]
    assert (found.impostor >= lower).sum() > far * found.impostor.size - 1
    assert tar_at(found, far) == (found.genuine >= limit).mean()


def test_two_persons_by_hand():
    found = Trials(np.array([[0.9, 0.1], [0.4, 0.5], [0.2, 0.3]]), np.array([0, 0, 1]), np.array([0.0, 50, -70]))
    assert found.genuine.tolist() == [0.9, 0.4, 0.3]
    assert found.impostor.ravel().tolist() == [0.1, 0.5, 0.2]
    assert rank_one(found) == pytest.approx(2 / 3)
    assert tar_at(found, 1e-3) == pytest.approx(1 / 3)
    assert tar_at(found, 0.4) == pytest.approx(1)  # one impostor of three may pass: the limit is above 0.2
    assert equal_error_rate(found) == pytest.approx(1 / 3)
    margins = np.array([0.8, -0.1, 0.1]) / 0.07
    assert log_loss(found) == pytest.approx(np.log(1 + np.exp(-margins)).mean())


def test_perfect_and_hopeless():
    people = np.eye(4)
    perfect = trials(people, people, np.arange(4), np.zeros(4))
    assert (rank_one(perfect), equal_error_rate(perfect), tar_at(perfect, 1e-4)) == (1, 0, 1)
    hopeless = trials(people, people[::-1], np.arange(4), np.zeros(4))
    assert rank_one(hopeless) == 0
    assert equal_error_rate(hopeless) > 0.4
    with pytest.raises(ValueError, match="1 persons are nothing to tell apart"):
        trials(people, people[:1], np.zeros(4, int), np.zeros(4))


def test_each_range_has_its_own_figures():
    found = random_trials()
    table = scores(found)
    for low, high in BUCKETS:
        part = found.turned(low, high)
        label = bucket_name(low, high)
        assert table[f"cosine {label}"] == pytest.approx(part.genuine.mean())
        assert table[f"tar@1e-3 {label}"] == tar_at(part, 1e-3)
    assert sum(len(found.turned(*bucket).person) for bucket in BUCKETS) == len(found.person)
    assert "tar@1e-3 65-75" not in scores(found.turned(0, 45))


def test_one_threshold_lets_profiles_of_strangers_in():
    """And a threshold for each range does not: false acceptance is then what was asked for, in all of them."""
    rng = np.random.default_rng(1)
    yaw = rng.uniform(-90, 90, 4000)
    shared = np.abs(np.sin(np.deg2rad(yaw)))[:, None]  # profiles are all alike a little
    gallery = rng.normal(size=(60, 24)) + 0.5 * np.ones(24)
    person = rng.integers(60, size=4000)
    probe = gallery[person] + rng.normal(size=(4000, 24)) + 2 * shared
    found = trials(probe, gallery, person, yaw)
    half = rng.random(4000) < 0.5
    calibration = calibrated(found.rows(half), 0.01)
    one = false_acceptance(found.rows(~half), calibration.overall)
    each = false_acceptance(found.rows(~half), calibration)
    assert max(one.values()) > 0.015
    assert all(0.007 < rate < 0.013 for rate in each.values())
    assert calibration.of(np.array([0.0, -70, 180])).tolist() == [
        calibration.thresholds["0-25"], calibration.thresholds["65-75"], calibration.thresholds["75-"]
    ]  # fmt: skip
    with pytest.raises(ValueError, match="far: 0 is not in"):
        calibrated(found, 0)


def test_intervals_are_over_persons():
    found = random_trials(people=40)
    low, high = interval(found, rank_one)
    assert low <= rank_one(found) <= high
    assert 0 < high - low < 0.5
    assert interval(found, rank_one) == (low, high)
    repeated = Trials(np.tile(found.cosine, (4, 1)), np.tile(found.person, 4), np.tile(found.yaw, 4))
    again = interval(repeated, rank_one)
    assert high - low == pytest.approx(again[1] - again[0], abs=0.03)  # more copies of a view are no more evidence


def test_templates():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(20, 64))
    group = np.repeat(np.arange(20), 5)
    views = truth[group] + 2 * rng.normal(size=(100, 64))
    template = fused(views, group)
    assert np.allclose(np.linalg.norm(template, axis=1), 1)
    single = trials(views, truth, group, np.zeros(100)).genuine.mean()
    assert trials(template, truth, np.arange(20), np.zeros(20)).genuine.mean() > single + 0.15
    chosen = np.zeros(100)
    chosen[::5] = 1
    first = views[::5] / np.linalg.norm(views[::5], axis=1, keepdims=True)
    assert np.allclose(fused(views, group, chosen), first)


def test_pictures():
    rows = {"as they are": random_trials(), "mapped": random_trials(signal=6)}
    for picture in (similarity_picture(rows), roc_picture(rows), histogram_picture(rows["mapped"])):
        assert picture.shape == (320, 480, 3)
        assert picture.dtype == np.uint8
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    assert (similarity_picture(rows) != similarity_picture({"as they are": rows["as they are"]})).any()
    assert similarity_picture({"one": random_trials().turned(0, 25)}).any()


def lined(picture: np.ndarray, axes: Axes, x: float, y: float, row: int = 0) -> bool:
    """Whether a curve of that row goes through a point, give or take a pixel."""
    across, down = axes.at(x, y)
    near = picture[down - 1 : down + 2, across - 1 : across + 2].reshape(-1, 3).astype(int)
    return bool((np.abs(near - COLOURS[row]).max(-1) < 40).any())


def by_hand(genuine: list[float], impostor: float, yaw: float) -> Trials:
    """Each person once, alike to itself as said, and to all others the same."""
    cosine = np.full((len(genuine), len(genuine)), impostor)
    np.fill_diagonal(cosine, genuine)
    return Trials(cosine, np.arange(len(genuine)), np.full(len(genuine), yaw))


def test_the_roc_goes_through_the_shares_that_are_accepted():
    """Strangers at 0.2; three of four right persons above, one below them."""
    found = by_hand([0.9, 0.8, 0.7, 0.1], impostor=0.2, yaw=0)
    axes = Axes("", (-4, 0), (0, 1), "")
    picture = roc_picture({"one": found, "other": by_hand([0.9] * 4, 0.2, 0)})
    for far in (-3.9, -2, -0.5):
        assert lined(picture, axes, far, 0.75)
        assert not lined(picture, axes, far, 0.5)
        assert lined(picture, axes, far, 1.0, row=1)


def test_the_histogram_peaks_where_the_cosines_are():
    picture = histogram_picture(by_hand([0.9, 0.9, 0.62, 0.62], impostor=0.22, yaw=0))
    axes = Axes("", (-0.4, 1), (0, 0.5), "")
    assert lined(picture, axes, 0.9, 0.48, row=1)
    assert lined(picture, axes, 0.62, 0.48, row=1)
    assert lined(picture, axes, 0.22, 0.48, row=0)
    assert not lined(picture, axes, 0.22, 0.48, row=1)
    assert not lined(picture, axes, 0.4, 0.25, row=0)


def test_similarity_stands_over_the_range_of_the_yaw():
    near, far = by_hand([0.8] * 4, 0.1, yaw=-10), by_hand([0.4] * 4, 0.1, yaw=70)
    both = Trials(
        np.concatenate([near.cosine, far.cosine]), np.tile(np.arange(4), 2), np.concatenate([near.yaw, far.yaw])
    )
    picture = similarity_picture({"one": both})
    axes = Axes("", (0, 90), (-0.2, 1), "")
    assert lined(picture, axes, 12.5, 0.8)
    assert lined(picture, axes, 70, 0.4)
    assert lined(picture, axes, (12.5 + 70) / 2, 0.6), "a straight line between them"
    assert not lined(picture, axes, 12.5, 0.4)
