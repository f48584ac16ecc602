"""`imresize` is MATLAB's."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lorgnette.images.file import read_image
from lorgnette.images.folders import find_images
from lorgnette.images.metrics import psnr
from lorgnette.images.pixels import crop_to_multiple, to_uint8
from lorgnette.images.resize import imresize

DATA = Path(os.environ.get("LORGNETTE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "images"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the images in {DATA} (set LORGNETTE_DATA)")


def test_hand_computed_weights():
    """An impulse shows the cubic kernel (a = -1/2), sampled at odd quarters of a pixel when doubling."""
    impulse = torch.zeros(1, 9, dtype=torch.float64)
    impulse[0, 4] = 1
    double = imresize(impulse, (1, 2))[0]
    near, far = [0.8671875, 0.2265625], [-0.0703125, -0.0234375]  # at 1/4, 3/4, 5/4, 7/4
    expected = torch.zeros(18, dtype=torch.float64)
    expected[8:10] = near[0]
    expected[[7, 10]] = near[1]
    expected[[6, 11]] = far[0]
    expected[[5, 12]] = far[1]
    torch.testing.assert_close(double, expected)
    # Halved, the kernel is twice as wide and half as high: eight pixels at 1/2, 3/2, 5/2, 7/2 on either side.
    squares = torch.arange(12, dtype=torch.float64).square()
    weights = torch.tensor([*reversed(far), *reversed(near), *near, *far], dtype=torch.float64) / 2
    torch.testing.assert_close(imresize(squares[None], (1, 0.5))[0, 2], (weights * squares[1:9]).sum())


def test_borders_are_mirrored_with_the_edge_repeated():
    x = torch.tensor([[10.0, 20.0, 40.0]], dtype=torch.float64)
    padded = torch.tensor([[20.0, 10.0, 10.0, 20.0, 40.0, 40.0, 20.0]], dtype=torch.float64)
    torch.testing.assert_close(imresize(x, (1, 2)), imresize(padded, (1, 2))[:, 4:10])


@pytest.mark.parametrize("scale", [0.25, 0.3, 0.5, 1, 1.7, 3, (0.5, 2.0)])
def test_constants_stay_and_ramps_stay_straight_inside(scale):
    flat = torch.full((2, 3, 21, 33), 0.3)
    torch.testing.assert_close(imresize(flat, scale), torch.full_like(imresize(flat, scale), 0.3))
    ramp = imresize(torch.arange(600, dtype=torch.float64).expand(40, -1), scale)[20 if scale == 1 else 5]
    steps = ramp.diff()[20:-20]
    x_scale = scale[1] if isinstance(scale, tuple) else scale
    torch.testing.assert_close(steps.mean().item(), 1 / x_scale, atol=0.02, rtol=0)


def test_sizes():
    x = torch.zeros(3, 10, 15)
    assert imresize(x, 1.1).shape == (3, 11, 17)  # ceil of 16.5
    assert imresize(torch.zeros(100, 20), 1.1).shape == (110, 22)  # 100 * 1.1 is a hair above 110
    assert imresize(torch.zeros(20, 100), 1.1).shape == (22, 110)
    assert imresize(x, 1 / 3).shape == (3, 4, 5)
    assert imresize(x, (2, 0.5)).shape == (3, 20, 8)
    assert imresize(x, size=(7, 700)).shape == (3, 7, 700)
    torch.testing.assert_close(imresize(x + 1, size=(10, 15)), x + 1)


def test_blocks_agree_with_one_matrix():
    """Long axes are resized in blocks; the middle of one equals that of a shorter cut."""
    x = torch.rand(1, 2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for scale in (0.25, 1.5):
        whole, part = imresize(x, (1, scale)), imresize(x[:, 400:600], (1, scale))
        start = round(400 * scale)
        torch.testing.assert_close(whole[:, start + 20 : start + part.shape[1] - 20], part[:, 20:-20])


def test_types_and_gradients():
    assert imresize(torch.ones(4, 4, dtype=torch.bfloat16), 2).dtype == torch.bfloat16
    x = torch.rand(2, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: imresize(x, (0.5, 1.6)), x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either scale or size"),
        ({"scale": 2, "size": (3, 3)}, "either scale or size"),
        *[
            ({"scale": bad}, "scale=.* must be a positive number")
            for bad in (0, -1, math.nan, math.inf, (2, 0), (1, 2, 3))
        ],
        ({"size": (0, 3)}, "size=.* whole numbers >= 1"),
        ({"size": (2.5, 3)}, "size=.* whole numbers >= 1"),
    ],
)
def test_wrong_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        imresize(torch.zeros(4, 4), **settings)


def test_integers_are_refused():
    with pytest.raises(ValueError, match=r"floating-point.*torch\.uint8"):
        imresize(torch.zeros(4, 4, dtype=torch.uint8), 2)


@needs_data
@pytest.mark.parametrize("scale", [0.25, 1 / 3, 0.77, 2, 3.3])
def test_agrees_with_the_reference(scale: float):
    spec = importlib.util.spec_from_file_location("mlresize", DATA / "mlresize.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    image = np.random.default_rng(0).random((61, 83, 3))
    ours = imresize(torch.from_numpy(image).permute(2, 0, 1), scale).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours, reference.imresize(image, scale), atol=1e-12)


@needs_data
@pytest.mark.parametrize(("scale", "published"), [(2, 33.66), (3, 30.39), (4, 28.42)])
def test_set5_bicubic_row(scale: int, published: float):
    values = []
    for path in find_images(DATA / "Set5" / "HR"):
        hr = crop_to_multiple(torch.from_numpy(read_image(path).pixels).permute(2, 0, 1), scale)
        lr = torch.from_numpy(to_uint8(imresize(hr, 1 / scale))).float() / 255
        values.append(psnr(hr, imresize(lr, scale), shave=scale, quantise=True))
    assert len(values) == 5
    assert sum(values) / 5 == pytest.approx(published, abs=0.05)
