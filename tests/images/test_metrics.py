"""PSNR and SSIM against their definitions and against scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lorgnette.images.metrics import luma, psnr, ssim

generator = torch.Generator().manual_seed(0)


def images(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth picture and a noisy copy."""
    ramp = torch.linspace(0.1, 0.9, shape[-1]).expand(shape) * torch.linspace(0.5, 1, shape[-2])[:, None]
    return ramp, (ramp + 0.05 * torch.randn(shape, generator=generator)).clamp(0, 1)


def test_luma_of_black_white_and_the_primaries():
    colours = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]).view(5, 3, 1, 1)
    expected = [16, 235, 81.481, 144.553, 40.966]
    np.testing.assert_allclose(luma(colours).flatten().numpy() * 255, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="3, H, W"):
        luma(torch.zeros(1, 4, 4))


def test_psnr_by_hand():
    a = torch.zeros(3, 20, 20)
    assert psnr(a, a + 0.1, luma=False) == pytest.approx(20, abs=1e-5)
    assert psnr(a, a + 0.1, grey=True) == pytest.approx(20, abs=1e-5)
    assert psnr(a, a + 0.1) == pytest.approx(20 + 20 * math.log10(255 / 219), abs=1e-5)  # Y spans 219 levels
    assert psnr(a, a) == math.inf
    assert psnr(a + 0.1001, a + 0.1, quantise=True) == math.inf
    assert psnr(a + 1.7, a + 1, quantise=True) == math.inf


def test_shave_leaves_out_the_border():
    a = torch.zeros(3, 20, 20)
    b = a.clone()
    b[:, 4:-4, 4:-4] = 0.1
    assert psnr(a, b, shave=4, luma=False) == pytest.approx(20, abs=1e-5)
    b[:, :4] = 1
    assert psnr(a, b, shave=4, luma=False) == pytest.approx(20, abs=1e-5)
    assert psnr(a, b, shave=3, luma=False) < 20


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_batch_gives_the_mean_over_its_images(metric):
    a, b = images(3, 3, 24, 30)
    b[0] = a[0] + 0.01
    each = [metric(x, y, shave=2) for x, y in zip(a, b, strict=True)]
    assert metric(a, b, shave=2) == pytest.approx(sum(each) / 3)


@pytest.mark.parametrize("shave", [0, 3])
@pytest.mark.parametrize("mode", ["rgb", "luma", "grey"])
def test_ssim_equals_scikit_image(mode: str, shave: int):
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    a, b = images(3, 40, 53)
    if mode == "grey":
        a, b = a[:1].expand(3, -1, -1), b[:1].expand(3, -1, -1)
    x, y = (luma(image.double()) if mode == "luma" else image.double() for image in (a, b))
    inside = slice(shave, -shave or None)
    expected = structural_similarity(
        x[:, inside, inside].numpy(),
        y[:, inside, inside].numpy(),
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=0,
    )
    assert ssim(a, b, shave=shave, luma=mode == "luma", grey=mode == "grey") == pytest.approx(expected, abs=1e-9)
    assert ssim(a, a, luma=mode == "luma") == pytest.approx(1)


def test_errors():
    a = torch.zeros(3, 20, 20)
    with pytest.raises(ValueError, match=r"one shape, got \(3, 20, 20\) and \(3, 20, 19\)"):
        psnr(a, a[..., 1:])
    with pytest.raises(ValueError, match="shave=10 leaves nothing"):
        psnr(a, a, shave=10)
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(a, a, shave=5)
    with pytest.raises(ValueError, match=r"need \(3, H, W\)"):
        psnr(a[:1], a[:1])
