"""Counts in a small part of the depth: the range is found, sums stay, and a spot is not dimmed in silence."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.images.errors import ImageWarning
from lorgnette.images.file import Image
from lorgnette.images.ranges import in_range, used_range
from lorgnette.shipped import Chooser


def counts(seed: int = 0, side: int = 96) -> tuple[Image, np.ndarray, np.ndarray]:
    """Spots of 100 to 1600 counts in 16 bits; the counts, and what was to be counted."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    truth = np.full((side, side), 100.0)
    for _ in range(25):
        cy, cx, wide = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(1.5, 3)
        truth += rng.uniform(100, 1400) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 2 / wide**2)
    counted = rng.poisson(truth)
    pixels = np.repeat((counted / 65535)[..., None], 3, -1).astype(np.float32)
    return Image(pixels, grey=True, bits=16), counted.astype(float), truth


def test_a_range_is_that_of_counts_and_of_nothing_else():
    image, counted, _ = counts()
    low, high = used_range(image) or (1, 1)
    assert low == 0
    assert high * 65535 == pytest.approx(counted.max())
    assert used_range(replace(image, bits=8)) is None
    assert used_range(replace(image, pixels=image.pixels * 10 + 0.1)) is None
    assert used_range(replace(image, pixels=image.pixels * 0)) is None


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.2), st.floats(0.3, 1), st.integers(0, 1000))
def test_work_that_changes_nothing_changes_nothing(low: float, high: float, seed: int):
    pixels = np.random.default_rng(seed).random((20, 24, 3)).astype(np.float32)
    seen = []

    def work(image: Image) -> Image:
        seen.append(image.pixels)
        return image

    same = in_range(Image(pixels, bits=16), low, high, work)
    assert np.abs(same.pixels - pixels).max() < 2e-6
    assert seen[0].min() >= 0
    assert seen[0].max() <= 1


def test_light_that_is_taken_from_a_spot_comes_back_beside_it():
    image, counted, _ = counts()
    dimmed = in_range(image, 0, 0.03, lambda part: replace(part, pixels=part.pixels.clip(0, 0.3)))
    assert dimmed.pixels[..., 0].sum() * 65535 == pytest.approx(counted.sum(), rel=1e-3)
    by_tile = [a.reshape(2, 48, 2, 48).sum((1, 3)) for a in (dimmed.pixels[..., 0] * 65535, counted)]
    assert np.allclose(*by_tile, rtol=0.03)


def test_counts_come_nearer_to_the_truth_than_any_blur_brings_them():
    chooser = Chooser("restore", "cpu")
    for seed in range(2):
        image, counted, truth = counts(seed)
        with pytest.warns(ImageWarning, match=r"^taken for counts: 0 to \d+ of 65535 are black and white$"):
            done, _ = chooser.enhance(image)

        def error(values: np.ndarray, truth: np.ndarray = truth) -> float:
            return float(np.sqrt(((values - truth) ** 2).mean()))

        blurred = min(error(cv2.GaussianBlur(counted, (0, 0), sigma)) for sigma in np.arange(0.3, 3, 0.1))
        made = done.pixels[..., 0] * 65535
        assert error(made) < 0.8 * blurred < error(counted)
        spots = truth > 600
        assert made[spots].sum() == pytest.approx(truth[spots].sum(), rel=0.02), "no dimmer"


def test_a_range_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"range: 0\.5 0\.5"):
        in_range(Image(np.zeros((4, 4, 3), np.float32)), 0.5, 0.5, lambda image: image)
