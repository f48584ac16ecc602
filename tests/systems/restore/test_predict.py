"""Pictures restored and scored."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from lorgnette.images.evaluation import image_scores
from lorgnette.images.file import Image, write_image
from lorgnette.systems.restore import Data, MambaIR, Restoration, enhance, evaluation
from lorgnette.systems.restore.data import TestImages
from lorgnette.systems.restore.evaluate import non_local_means


def task(degradation: str = "denoise", loss: str = "l1", **settings: object) -> Restoration:
    torch.manual_seed(0)
    model = MambaIR(**({"embed_dim": 30, "depths": (1,), "d_state": 2, "mlp_ratio": 1.1, "upscale": 1} | settings))
    with torch.no_grad():  # a network that changes little, as a trained one does
        for name, parameter in model.named_parameters():
            if name.startswith("conv_last"):
                parameter.mul_(0.1)
    data = Data(degradation=cast(Any, degradation), loss=cast(Any, loss), scale=model.upscale, grey=model.in_chans == 1)
    return Restoration(model, data).eval()


def picture(h: int = 40, w: int = 52, **settings: object) -> Image:
    y, x = np.mgrid[:h, :w].astype(np.float32)
    pixels = np.stack([y / h, x / w, (y + x) / (h + w)], -1)
    return Image(**({"pixels": pixels, "grey": False, "bits": 8} | settings))  # type: ignore[arg-type]


def test_tiles_leave_no_seam():
    one, image = task(), picture(70, 90)
    whole = enhance(one, image, tile=128).pixels
    tiled = enhance(one, image, tile=32).pixels
    assert whole.shape == image.pixels.shape
    assert np.abs(whole - tiled).max() < 2 / 255
    jumps = np.abs(np.diff(tiled - whole, axis=1)).max()
    assert jumps < 1 / 255


def test_what_a_picture_carries_is_kept():
    image = picture(20, 24, grey=True, bits=16, alpha=np.full((20, 24), 0.5, np.float32), icc=b"profile")
    out = enhance(task(), image)
    assert (out.grey, out.bits, out.icc) == (True, 16, b"profile")
    assert out.alpha is not None
    assert np.array_equal(out.alpha, image.alpha)
    enlarged = enhance(task("sr", upscale=2, upsampler="pixelshuffledirect"), image, scale=2)
    assert enlarged.pixels.shape == (40, 48, 3)
    assert enlarged.alpha is not None
    assert enlarged.alpha.shape == (40, 48)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 3)])
def test_small_and_odd_pictures_work(size: tuple[int, int]):
    assert enhance(task(in_chans=1), picture(*size)).pixels.shape == (*size, 3)


def test_what_does_not_work_is_named():
    one, image = task(), picture()
    for settings, message in (
        ({"scale": 3.3}, "^scale: 3.3 does not work; this network keeps the size"),
        ({"scale": 0.001}, "^scale: 0.001 does not work; this network keeps the size"),
        ({"scale": (1.0, 1.01)}, r"^scale: \(1.0, 1.01\) does not work; this network keeps the size"),
        ({"size": (1, 53)}, "^size: 53x1 does not work; this network makes 52x40"),
        ({"size": (0, 52)}, "^size: 52x0 does not work; this network makes 52x40"),
        ({"scale": 0.5, "size": (9, 9)}, "^give either scale or size"),
        ({"tile": 4}, "^tile: 4 is too small"),
        ({"precision": "int8"}, "^precision: 'int8' is not known"),
    ):
        with pytest.raises(ValueError, match=message):
            enhance(one, image, **settings)  # type: ignore[arg-type]
    broken = picture()
    broken.pixels[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"^image: holds values that are not finite"):
        enhance(one, broken)


SETTINGS = {
    "denoise": ({}, 0, False),
    "jpeg": ({}, 0, True),
    "sr": ({"scale": 2}, 2, True),
    "denoise as told": ({"crop_border": 3, "test_y_channel": True}, 3, True),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_follow_the_tables_of_each_kind(name: str, tmp_path: Path):
    settings, shave, luma = SETTINGS[name]
    write_image(tmp_path / "a.png", picture(40, 40))
    data = Data(**({"degradation": name.split()[0]} | settings))
    item = TestImages([(None, tmp_path / "a.png")], data)[0]
    truth = item["gt"][0].permute(1, 2, 0).double().numpy()
    off = item["gt"].clone()
    off[:, 0] = (off[:, 0] + 25 / 255).clamp(0, 1)
    off[..., 0, 0] = 0  # a corner that counts only if nothing is cut off
    wrong = (off[0].permute(1, 2, 0).double().numpy() * 255).round() / 255
    if luma:
        truth, wrong = (image @ (np.array([65.481, 128.553, 24.966]) / 255) for image in (truth, wrong))
    inside = (slice(shave, 40 - shave),) * 2
    wanted = -10 * math.log10(np.square(truth[inside] - wrong[inside]).mean())
    scores = image_scores(off, item)
    assert scores["psnr"] == pytest.approx(wanted, abs=1e-3)
    assert scores[f"psnr_{item['label']}"] == scores["psnr"]


def test_noise_on_a_grey_file_is_scored_in_all_its_colours(tmp_path: Path):
    """A colour network's tables take such a file for RGB; the mean of three noises would look 4.8 dB better."""
    write_image(tmp_path / "a.png", picture(64, 64, grey=True, pixels=np.full((64, 64, 3), 0.5, np.float32)))
    rows = evaluation({"model": task()}, tmp_path, levels=(25,))
    assert rows["input"]["psnr_sigma25"] == pytest.approx(-20 * math.log10(25 / 255), abs=0.1)
    alone = evaluation({"model": task(in_chans=1)}, tmp_path, levels=(25,))
    assert alone["input"]["psnr_sigma25"] == pytest.approx(-20 * math.log10(25 / 255), abs=0.2)
    jpeg = TestImages([(None, tmp_path / "a.png")], Data(degradation="jpeg"))[0]
    assert (jpeg["grey"], jpeg["luma"]) == (True, True)


def test_a_grey_network_takes_each_colour_for_a_picture_and_keeps_its_depth():
    one, image = task(in_chans=1), picture(bits=16)
    colours = enhance(one, image).pixels
    for channel in range(3):
        alone = replace(image, pixels=image.pixels[..., [channel] * 3].copy(), grey=True)
        np.testing.assert_allclose(enhance(one, alone).pixels[..., 0], colours[..., channel], rtol=0, atol=1e-5)
    assert np.abs(colours - image.pixels).max() < 0.2
    with torch.no_grad():
        for parameter in one.model.get_submodule("conv_last").parameters():
            parameter.zero_()  # now it gives what it gets
    np.testing.assert_allclose(enhance(one, image).pixels, image.pixels, rtol=0, atol=1e-6)


def test_the_losses_are_what_they_are_called():
    one, two = task(loss="l1"), task(loss="charbonnier")
    x = torch.rand(1, 3, 8, 8)
    item = {"lq": x, "gt": x + 0.1}
    difference = one.model(x) - item["gt"]
    assert one(item)["loss"].item() == pytest.approx(difference.abs().mean().item(), rel=1e-6)
    assert two(item)["loss"].item() == pytest.approx((difference.square() + 1e-12).sqrt().mean().item(), rel=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_non_local_means_takes_noise_away(channels: int):
    clean = torch.from_numpy(picture(64, 64).pixels).permute(2, 0, 1)[None, :channels].contiguous()
    noisy = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * (25 / 255)
    cleaned = non_local_means(noisy, 25)
    assert cleaned.shape == clean.shape
    assert (cleaned - clean).square().mean() < 0.4 * (noisy - clean).square().mean()


def test_a_folder_is_scored_beside_what_needs_no_network(tmp_path: Path):
    write_image(tmp_path / "a.png", picture(40, 40))
    rows = evaluation({"model": task()}, tmp_path, levels=(15, 50))
    assert list(rows) == ["input", "non-local means", "model"]
    assert list(rows["model"]) == ["psnr_sigma15", "ssim_sigma15", "psnr_sigma50", "ssim_sigma50"]
    assert rows["input"]["psnr_sigma15"] == pytest.approx(24.9, abs=0.1)
    assert rows["non-local means"]["psnr_sigma50"] > rows["input"]["psnr_sigma50"] + 3
    jpeg = evaluation({"model": task("jpeg")}, tmp_path, levels=(10,))
    assert list(jpeg) == ["input", "model"]
    enlarging = task("sr", upscale=2, upsampler="pixelshuffledirect")
    assert list(evaluation({"model": enlarging}, tmp_path)["input"]) == ["psnr_x2", "ssim_x2"]
    with pytest.raises(ValueError, match=r"^levels: "):
        evaluation({"model": enlarging}, tmp_path, levels=(2,))


def test_what_is_to_be_smaller_is_restored_first_and_then_reduced():
    from lorgnette.images.resize import imresize

    for upscale, more in ((1, {}), (2, {"upsampler": "pixelshuffledirect"})):
        network = task("sr" if upscale > 1 else "denoise", upscale=upscale, **more)
        image = picture(20, 24)
        whole = torch.from_numpy(enhance(network, image).pixels).permute(2, 0, 1)
        for size, how in (((10, 12), {"scale": 0.5}), ((10, 24), {"scale": (0.5, 1.0)}), ((7, 9), {"size": (7, 9)})):
            small = enhance(network, image, **how)
            expected = imresize(whole, size=size).clamp(0, 1).permute(1, 2, 0)
            np.testing.assert_allclose(small.pixels, expected.numpy(), rtol=0, atol=1e-6)
