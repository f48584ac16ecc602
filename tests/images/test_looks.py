"""What a picture looks like: each measure follows what it is named after."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.images.damage import jpeg
from lorgnette.images.looks import MEASURES, looks
from lorgnette.images.scenes import drawn

LEARNT_FROM = {
    "lines": [
        -2.996,
        -2.996,
        -2.996,
        0,
        0,
        0.412,
        3.59,
        -1.97,
        -1,
        1.846,
        0.667,
        4.45,
        1.139,
        0,
        1.513,
        0.431,
        5.302,
        2.466,
        2.252,
        0,
        0.021,
    ],
    "specimen": [
        1.654,
        2.064,
        1.245,
        1.148,
        0.947,
        0.143,
        0,
        2.926,
        -0.588,
        0.552,
        -1.054,
        3.686,
        2.56,
        0,
        0.929,
        0.545,
        2.963,
        1.161,
        1.739,
        -0.02,
        0.003,
    ],
}


def test_the_measures_are_those_that_the_judges_learnt_from():
    specimen = drawn("specimen", 2, (80, 80)) + 0.03 * np.random.default_rng(0).standard_normal((80, 80, 3))
    pictures = {"lines": drawn("lines", 1, (96, 96)), "specimen": specimen.clip(0, 1).astype(np.float32)}
    for name, pixels in pictures.items():
        assert looks(pixels) == pytest.approx(LEARNT_FROM[name], abs=5e-3), name


def photo(side: int = 192) -> np.ndarray:
    """Smooth shapes and fine texture, in levels of 255."""
    y, x = np.mgrid[:side, :side] / side
    planes = [0.5 + 0.25 * np.sin(7 * x + k) * np.cos(5 * y) + 0.15 * np.sin(40 * x * y + k) for k in range(3)]
    return (np.stack(planes, -1) * 255).round().astype(np.float32) / np.float32(255)


def seen(pixels: np.ndarray) -> dict[str, float]:
    return {str(name): float(value) for name, value in zip(MEASURES, looks(pixels), strict=True)}


def noisy(sigma: float) -> np.ndarray:
    image = photo()
    return (image + np.random.default_rng(0).normal(0, sigma / 255, image.shape)).clip(0, 1).astype(np.float32)


def test_noise_rises_with_noise_and_its_grain_with_smoothing():
    measures = [seen(noisy(sigma)) for sigma in (2, 8, 25)]
    for name in ("noise", "noise in colours", "noise where it is flat"):
        values = [measure[name] for measure in measures]
        assert values == sorted(values)
        assert values[-1] - values[0] > 1.5
    fine = noisy(20)
    coarse = (fine + np.roll(fine, 1, 0) + np.roll(fine, 1, 1) + np.roll(fine, (1, 1), (0, 1))) / 4
    assert seen(coarse)["its grain"] > seen(fine)["its grain"] + 0.3


@pytest.mark.parametrize("start", [0, 3])
def test_blocks_are_seen_wherever_they_start(start: int):
    made = jpeg(noisy(6), 15)[start:, start:]
    assert seen(made)["blocks"] > seen(noisy(6)[start:, start:])["blocks"] + 0.5


def test_drawn_pictures_have_equal_neighbours_and_few_colours():
    art, scenery = seen(drawn("sprites", 2, (160, 160))), seen(noisy(3))
    assert art["equal neighbours"] > 2 > 0.5 > scenery["equal neighbours"]
    assert art["colours"] < scenery["colours"] - 2


def test_greyness_and_brightness():
    grey = np.repeat(photo().mean(-1, keepdims=True), 3, -1)
    assert seen(grey)["grey"] == 1
    assert seen(photo())["grey"] == 0
    assert seen(photo() * 0.3)["bright"] < seen(photo())["bright"]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["flat", "noise", "black", "white"]))
def test_any_picture_gives_finite_numbers(h: int, w: int, kind: str):
    noise = np.random.default_rng(0).random((h, w, 3))
    pixels = {"flat": np.full((h, w, 3), 0.3), "noise": noise, "black": noise * 0, "white": noise * 0 + 1}[kind]
    found = looks(pixels)
    assert found.shape == (len(MEASURES),)
    assert np.isfinite(found).all()
    grain = [MEASURES.index(name) for name in ("its grain", "its grain in colours")]
    assert np.abs(np.delete(found, grain)).max() < 40
    assert (found[grain] >= 0).all()
    assert (found[grain] <= 2550).all()


def test_a_large_picture_takes_no_longer_than_its_windows():
    small, large = photo(384), np.tile(photo(384), (6, 6, 1))
    looks(small)

    def seconds(pixels: np.ndarray) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            looks(pixels)
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(large) < 3 * seconds(small)


@pytest.mark.parametrize(("h", "w"), [(3, 60), (60, 3), (5, 5), (9, 70)])
def test_strips_are_looked_at(h: int, w: int):
    assert np.isfinite(looks(np.random.default_rng(0).random((h, w, 3), dtype=np.float32))).all()


def test_a_border_and_blank_paper_tell_nothing_of_a_picture():
    photo = drawn("specimen", 3, (128, 128))
    wide = np.ones((700, 700, 3), np.float32)
    wide[277:405, 283:411] = photo
    np.testing.assert_allclose(looks(wide), looks(photo[3:123, 5:125]), atol=1e-5)  # the blocks within
    bars = np.ones((420, 128, 3), np.float32)
    bars[160:288] = photo
    np.testing.assert_allclose(looks(bars), looks(photo[8:120]), atol=1e-5)
    bars[:160] -= np.random.default_rng(0).integers(0, 3, (160, 128, 3)) / 255  # what JPEG leaves
    np.testing.assert_allclose(looks(bars), looks(photo[8:120]), atol=1e-5)
    apart = np.zeros((700, 700, 3), np.float32)
    apart[:, :130], apart[:, 568:] = 1, 0.5  # a white border, then black and grey paper
    apart[280:408, 352:480] = photo  # the middle window of nine; the others are flat
    np.testing.assert_allclose(looks(apart), looks(photo), atol=1e-5)
    assert np.isfinite(looks(np.ones((700, 700, 3), np.float32))).all()
