"""Drawn scenes: a function of the seed, the same at every density, in few colours where it is pixel art."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.images import typefaces
from lorgnette.images.scenes import SCENES, drawn

NAMES = sorted(SCENES)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1.7, 3.0]), st.booleans())
def test_each_is_a_function_of_the_seed_in_the_size_asked_for(name: str, seed: int, unit: float, subpixels: bool):
    pixels = (round(24 * unit), round(40 * unit))
    made = drawn(name, seed, (24, 40), pixels, subpixels)
    assert made.shape == (*pixels, 3)
    assert made.dtype == np.float32
    assert made.min() >= 0
    assert made.max() <= 1
    assert np.array_equal(made, drawn(name, seed, (24, 40), pixels, subpixels))


@pytest.mark.parametrize("name", NAMES)
def test_scenes_differ_from_seed_to_seed_and_are_not_empty(name: str):
    made = [drawn(name, seed, (64, 64)) for seed in range(6)]
    assert all(not np.array_equal(a, b) for i, a in enumerate(made) for b in made[:i])
    assert sum(float(image.std()) > 0.02 for image in made) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_a_scene_at_three_times_the_density_is_the_same_scene(name: str):
    """Small and large agree far better than scenes of other seeds do."""
    errors, others = [], []
    for seed in range(8):
        small, large = drawn(name, seed, (48, 48)), drawn(name, seed, (48, 48), (144, 144))
        reduced = large.reshape(48, 3, 48, 3, 3).mean((1, 3))
        errors.append(float(((reduced - small) ** 2).mean()))
        others.append(float(((drawn(name, seed + 100, (48, 48)) - small) ** 2).mean()))
    assert np.mean(errors) < 0.25 * np.mean(others)


@pytest.mark.parametrize(
    ("name", "brightness", "contrast"),
    [("lines", 0.5945, 0.3616), ("screen", 0.6889, 0.3567), ("specimen", 0.1047, 0.0694), ("sprites", 0.4888, 0.3083)],
)
def test_what_shipped_adapters_learnt_from_is_drawn_again(name: str, brightness: float, contrast: float):
    made = np.stack([drawn(name, seed, (48, 48)) for seed in range(12)])
    assert (made.mean(), made.std()) == pytest.approx((brightness, contrast), abs=2e-4)


def test_each_pixel_of_pixel_art_is_one_square_at_every_density():
    small, large = drawn("sprites", 3, (20, 30)), drawn("sprites", 3, (20, 30), (60, 90))
    assert np.array_equal(large, small.repeat(3, 0).repeat(3, 1))
    assert len(np.unique(small.reshape(-1, 3), axis=0)) <= 17


def test_specimens_are_grey_and_colours_of_subpixels_only_lie_at_letters():
    specimen = drawn("specimen", 1, (40, 40))
    assert np.array_equal(specimen[..., 0], specimen[..., 2])
    plain, thirds = drawn("screen", 0, (56, 56)), drawn("screen", 0, (56, 56), subpixels=True)
    coloured = (
        np.abs(thirds - thirds.mean(-1, keepdims=True)).max() - np.abs(plain - plain.mean(-1, keepdims=True)).max()
    )
    assert coloured > 0.05
    assert np.abs(plain.mean() - thirds.mean()) < 0.02, "as much ink"


def test_a_typeface_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(typefaces, "find_spec", lambda name: None)
    typefaces.face.cache_clear()
    with pytest.raises(ValueError, match=r"lorgnette\[drawn\]"):
        typefaces.face("serif", 12.5)
    typefaces.face.cache_clear()
