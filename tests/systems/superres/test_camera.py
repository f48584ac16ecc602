"""The camera's flaws are those it states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorgnette.images.pixels import to_uint8
from lorgnette.images.resize import imresize
from lorgnette.systems.superres.camera import Camera

PERFECT = Camera(scale=1, blur=0, noise=0, quality=100)


def scene(h: int = 64, w: int = 48) -> np.ndarray:
    y, x = np.mgrid[:h, :w] / 12
    wave = np.round(127 + 60 * (np.sin(y) + np.cos(x)))  # grey: JPEG halves the resolution of colours
    return np.repeat(wave[..., None], 3, axis=-1).astype(np.uint8)


def test_without_flaws_the_photo_is_the_scene():
    photo, truth = PERFECT.shoot(scene(), seed=0)
    assert np.array_equal(truth, scene())
    assert np.abs(photo.astype(int) - truth).max() <= 4  # JPEG's own rounding
    assert np.abs(photo.astype(int) - truth).mean() < 1.2


@pytest.mark.parametrize("scale", [2, 3])
def test_sizes_fit_and_the_reduction_is_bicubic(scale: int):
    camera = Camera(scale=scale, blur=0, noise=0, quality=100)
    photo, truth = camera.shoot(scene(65, 50), seed=0)
    assert truth.shape == (65 // scale * scale, 50 // scale * scale, 3)
    assert photo.shape == (65 // scale, 50 // scale, 3)
    assert photo.dtype == truth.dtype == np.uint8
    assert np.array_equal(truth, scene(65, 50)[: truth.shape[0], : truth.shape[1]])
    reduced = to_uint8(imresize(torch.from_numpy(truth).permute(2, 0, 1).float() / 255, 1 / scale).permute(1, 2, 0))
    assert np.abs(photo.astype(int) - reduced).mean() < 1.2


def test_noise_is_seeded_and_of_its_size():
    grey = np.full((128, 128, 3), 128, np.uint8)
    camera = Camera(scale=1, blur=0, noise=8, quality=100)
    first, again, other = (camera.shoot(grey, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    # Of three channels with noise of their own, the brightness has less.
    luma = first.astype(float) @ [0.299, 0.587, 0.114]
    assert luma.std() == pytest.approx(8 * np.sqrt(0.299**2 + 0.587**2 + 0.114**2), rel=0.1)
    assert luma.mean() == pytest.approx(128, abs=0.5)


def test_blur_has_its_width():
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[18:23, 18:23] = 255
    photo, _ = Camera(scale=1, blur=2.0, noise=0, quality=100).shoot(dot, 0)
    profile = photo.astype(float).mean(-1).sum(0)
    x = np.arange(41) - 20
    variance = (profile * x**2).sum() / profile.sum()
    assert variance == pytest.approx(2.0**2 + 2, rel=0.1)  # the square's own: (5^2 - 1) / 12
    assert (profile * x).sum() / profile.sum() == pytest.approx(0, abs=0.1)
    flat, _ = Camera(scale=1, blur=2.0, noise=0, quality=100).shoot(np.full((20, 20, 3), 77, np.uint8), 0)
    assert np.abs(flat.astype(int) - 77).max() <= 1  # the border too keeps its brightness


def test_quality_is_that_of_the_file():
    losses = []
    for quality in (95, 60, 10):
        photo, truth = Camera(scale=1, blur=0, noise=0, quality=quality).shoot(scene(), 0)
        losses.append(float(np.abs(photo.astype(float) - truth).mean()))
    assert losses == sorted(losses)
    assert losses[0] * 2 < losses[2]


def test_it_says_what_it_is():
    camera = Camera(scale=3, blur=1.2, noise=8.0, quality=60)
    assert str(camera) == "x3, Gaussian blur 1.2 px, noise of 8.0 levels, JPEG quality 60"


def test_a_scene_smaller_than_a_sensor_pixel_is_refused():
    with pytest.raises(ValueError, match="cannot crop 1 x 9 pixels to a multiple of 2"):
        Camera(scale=2).shoot(np.zeros((1, 9, 3), np.uint8), 0)
