"""The network in the package does what its card says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorgnette import build
from lorgnette.images.file import Image
from lorgnette.images.metrics import psnr
from lorgnette.systems import restore
from lorgnette.systems.restore.degradations import noisy_for_tables
from lorgnette.systems.restore.evaluate import non_local_means
from lorgnette.systems.restore.weights import SHIPPED

data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def shipped() -> restore.Restoration:
    return build(restore.Recipe(lora=None))  # type: ignore[return-value]


@pytest.mark.parametrize("sigma", [15, 25, 50])
@torch.no_grad()
def test_noise_goes_a_decibel_beyond_non_local_means(shipped: restore.Restoration, sigma: int):
    clean = torch.from_numpy(data.astronaut()[40:200, 150:310].copy()).permute(2, 0, 1).float() / 255
    noisy = noisy_for_tables(clean, sigma)[None]
    restored = shipped.predict({"lq": noisy})
    how = {"luma": False, "quantise": True}
    assert psnr(restored, clean[None], **how) > psnr(non_local_means(noisy, sigma), clean[None], **how) + 1


def test_a_clean_picture_stays_as_it_is(shipped: restore.Restoration):
    clean = data.astronaut()[:120, :120].astype(np.float32) / 255
    out = restore.enhance(shipped, Image(clean, grey=False, bits=8))
    assert -10 * np.log10(np.square(out.pixels - clean).mean()) > 33


def test_tiles_change_little(shipped: restore.Restoration):
    clean = data.astronaut()[:160, :200].astype(np.float32) / 255
    noisy = clean + np.random.default_rng(0).normal(0, 25 / 255, clean.shape).astype(np.float32)
    whole, tiled = (restore.enhance(shipped, Image(noisy, grey=False, bits=8), tile=t).pixels for t in (256, 64))
    assert np.sqrt(np.square(whole - tiled).mean()) < 1.5 / 255


def test_the_file_is_small():
    assert (SHIPPED / "model.safetensors").stat().st_size < 4_000_000
