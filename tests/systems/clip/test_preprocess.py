"""Pictures reach the network as CLIP's own processor gives them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image as Pillow
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lorgnette.images.file import Image
from lorgnette.systems.clip.preprocess import PUBLISHED, levels, random_square, square, unit


def as_clip_takes_it(pixels: np.ndarray, side: int) -> np.ndarray:
    mean, std = (np.array(values, np.float32)[:, None, None] for values in PUBLISHED)
    return (unit(square(pixels, side)) - mean) / std


@pytest.mark.parametrize(("height", "width"), [(224, 224), (300, 400), (401, 299), (90, 640), (640, 90), (50, 31)])
def test_it_is_what_transformers_makes(height: int, width: int):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    theirs = CLIPImageProcessorPil()(Pillow.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    assert np.abs(as_clip_takes_it(pixels, 224) - theirs).max() < 1e-4


@settings(max_examples=15, deadline=None)
@given(st.integers(9, 90), st.integers(9, 90), st.sampled_from([16, 32]))
def test_any_size_is_what_transformers_makes(height: int, width: int, side: int):
    pixels = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    theirs = processor(Pillow.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    assert np.abs(as_clip_takes_it(pixels, side) - theirs).max() < 1e-4


def test_sixteen_bits_become_eight():
    picture = Image(torch.linspace(0, 1, 48).view(4, 4, 3).numpy(), bits=16)
    assert levels(picture).dtype == np.uint8
    assert levels(picture).max() == 255


def test_a_random_cut_keeps_at_least_two_thirds():
    rng = np.random.default_rng(0)
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], 60, 0).repeat(3, -1)  # 60 x 60
    for _ in range(20):
        cut = random_square(ramp, 30, rng, flip=False)
        assert cut.shape == (30, 30, 3)
        seen = int(cut[..., 0].max()) - int(cut[..., 0].min())
        assert seen >= 0.8 * 236  # sqrt(0.7) of the side
    mirrored = {bool(random_square(ramp, 30, rng, flip=True)[0, 0, 0] > 120) for _ in range(20)}
    assert mirrored == {True, False}
