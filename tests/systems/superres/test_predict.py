"""Enlarging pictures: sizes, seams, and everything of a picture that is not its pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from lorgnette.images.file import Image, read_image, write_image
from lorgnette.images.resize import imresize
from lorgnette.systems.superres import enhance, predict
from lorgnette.systems.superres.encoders import EDSR, SwinIR
from lorgnette.systems.superres.model import LMLTE
from lorgnette.systems.superres.predict import MAX_SCALE, output_size
from lorgnette.systems.superres.task import SuperResolution
from lorgnette.tiles.plan import Tile, Tiling


@pytest.fixture(scope="module")
def task() -> SuperResolution:
    """Lively weights: what a tile cannot see, or sees twice, shows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LMLTE(EDSR(2, 8), hidden_dim=16, imnet_dim=4, imnet_depth=2)
        model.requires_grad_(False)
        for parameter in model.parameters():
            fan_in = parameter[0].numel()
            nn.init.normal_(parameter, std=1.2 / math.sqrt(fan_in) if parameter.ndim > 1 else 0.1)
        model.imnet.layers[-1].bias.zero_()
    return SuperResolution(model)


def picture(h: int, w: int, **more) -> Image:
    rng = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(rng.integers(60, 200, (h // 5 + 2, w // 5 + 2, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((w, h), PIL.Image.Resampling.BICUBIC)).astype(np.float32) / 255
    return Image(pixels, **more)


# ------------------------------------------------------------------------------------------------------ tiles


@pytest.mark.parametrize(
    "scale", [1.0, 2.0, 3.3, (2.0, 3.0), (1.7, 4.9), 6.5], ids=["x1", "x2", "x3.3", "x2 x3", "x1.7 x4.9", "x6.5"]
)
def test_tiled_equals_untiled(scale, task: SuperResolution):
    """Everywhere, to far less than one 8-bit level: the halo is as wide as the network sees."""
    image = picture(57, 83)
    seen: list[Tile] = []

    def watch(tiles: list[Tile]) -> Iterable[Tile]:
        seen.extend(tiles)
        return tiles

    whole = enhance(task, image, scale, tile=1000, progress=watch).pixels
    assert len(seen) == 1
    seen.clear()
    tiled = enhance(task, image, scale, tile=24, progress=watch).pixels
    assert len(seen) == 3 * 4
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).max() < 0.1 / 255
    model = task.model
    assert isinstance(model, LMLTE)
    size = whole.shape[0], whole.shape[1]
    inp = torch.from_numpy(image.pixels).permute(2, 0, 1)[None] * 2 - 1
    rendered = (model.render(inp, size) * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    assert np.abs(whole - rendered).max() < 0.1 / 255
    assert whole.std() > 0.05
    assert ((whole > 0) & (whole < 1)).mean() > 0.4  # clipping does not hide everything


@pytest.mark.parametrize("scale", [2.0, 3.3])
def test_a_network_with_windows_is_tiled_at_its_windows(scale: float, monkeypatch: pytest.MonkeyPatch):
    """Of a SwinIR tiles begin where windows do: tiled equals untiled there too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LMLTE(SwinIR(12, (2, 1), num_heads=2, num_feat=6), hidden_dim=8, imnet_dim=4, imnet_depth=2)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.8 / math.sqrt(parameter[0].numel()))
    task, image = SuperResolution(model.requires_grad_(False)), picture(90, 107)
    whole, tiled = (enhance(task, image, scale, tile=tile).pixels for tile in (1000, 28))
    assert np.abs(tiled - whole).max() < 0.1 / 255
    assert whole.std() > 0.05
    monkeypatch.setattr(predict, "Tiling", lambda **usual: Tiling(**usual | {"align": 1}))
    assert np.abs(enhance(task, image, scale, tile=28).pixels - whole).max() > 0.2 / 255


def test_the_halo_is_needed(task: SuperResolution, monkeypatch: pytest.MonkeyPatch):
    """So the test above does see what it should."""
    image = picture(57, 83)
    whole = enhance(task, image, 2.0, tile=1000).pixels
    monkeypatch.setattr(LMLTE, "receptive_radius", 1)
    assert np.abs(enhance(task, image, 2.0, tile=24).pixels - whole).max() > 1 / 255


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 40), (17, 16)])
def test_smallest_pictures(shape: tuple[int, int], task: SuperResolution):
    big = enhance(task, picture(*shape), 2.5, tile=16)
    assert big.pixels.shape == (*(round(2.5 * n) for n in shape), 3)
    assert np.isfinite(big.pixels).all()


def test_bfloat16_is_near_and_another(task: SuperResolution):
    image = picture(20, 20)
    exact, rough = (enhance(task, image, 2.0, precision=precision).pixels for precision in ("fp32", "bf16"))
    assert 0 < np.abs(exact - rough).mean() < 0.02
    assert rough.dtype == np.float32


def test_the_mode_of_the_task_stays(task: SuperResolution):
    for mode in (True, False):
        task.train(mode)
        enhance(task, picture(4, 4), 2.0)
        assert task.training is mode


# ------------------------------------------------------------------------------- what belongs to a picture


def test_everything_but_the_pixels_is_kept(task: SuperResolution):
    image = picture(12, 14, grey=True, bits=16, icc=b"profile", exif=b"Exif")
    before = image.pixels.copy()
    big = enhance(task, image, 2.0)
    assert (big.grey, big.bits, big.icc, big.exif, big.alpha) == (True, 16, b"profile", b"Exif", None)
    assert big.pixels.dtype == np.float32
    assert 0 <= big.pixels.min() <= big.pixels.max() <= 1
    assert np.array_equal(image.pixels, before)
    assert image.pixels.shape == (12, 14, 3)


@pytest.mark.parametrize("scale", [2.0, 3.3])
def test_alpha_is_enlarged_with_it(scale: float, task: SuperResolution):
    alpha = np.zeros((12, 14), np.float32)
    alpha[:, 7:] = 1
    big = enhance(task, picture(12, 14, alpha=alpha), scale)
    assert big.alpha is not None
    assert big.alpha.shape == big.pixels.shape[:2]
    assert 0 <= big.alpha.min() <= big.alpha.max() <= 1  # bicubic overshoots
    half = big.alpha.shape[1] // 2
    assert (big.alpha[:, : half - 7] < 1e-6).all()
    assert (big.alpha[:, half + 7 :] > 1 - 1e-6).all()
    expected = imresize(torch.from_numpy(alpha)[None], size=big.alpha.shape)[0].clamp(0, 1)
    np.testing.assert_allclose(big.alpha, expected.numpy(), atol=1e-6)
    upside = np.ascontiguousarray(alpha.T[::-1]).T  # not contiguous, as a rotated file's
    assert enhance(task, picture(12, 14, alpha=upside), scale).alpha is not None


def test_through_files(task: SuperResolution, tmp_path: Path):
    """An upright 16-bit grey file with alpha; a sideways JPEG with a profile."""
    deep = picture(10, 12, grey=True, bits=16, alpha=np.full((10, 12), 0.25, np.float32))
    deep.pixels[:] = deep.pixels[..., :1]
    write_image(tmp_path / "deep.png", deep)
    write_image(tmp_path / "big.png", enhance(task, read_image(tmp_path / "deep.png"), 2.0))
    big = read_image(tmp_path / "big.png")
    assert (big.pixels.shape, big.grey, big.bits) == ((20, 24, 3), True, 16)
    assert big.alpha is not None
    np.testing.assert_allclose(big.alpha, 0.25, atol=1e-4)

    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010F] = "a maker"
    flat = PIL.Image.new("RGB", (30, 20), (200, 100, 50))
    flat.save(tmp_path / "side.jpg", exif=exif, icc_profile=b"x" * 200)
    write_image(tmp_path / "up.jpg", enhance(task, read_image(tmp_path / "side.jpg"), 1.5))
    with PIL.Image.open(tmp_path / "up.jpg") as up:
        assert up.size == (30, 45)
        assert up.getexif().get(0x0112, 1) == 1
        assert up.getexif()[0x010F] == "a maker"
        assert up.info["icc_profile"] == b"x" * 200


# ------------------------------------------------------------------------------------------------------ sizes


def test_sizes():
    assert output_size((30, 26), 3.3) == (99, 86)
    assert output_size((10, 20), (1.0, 2.5)) == (10, 50)
    assert output_size((10, 20), 2) == (20, 40)
    assert output_size((10, 20), wanted=(10, 640)) == (10, 640)
    assert output_size((10, 20), MAX_SCALE) == (320, 640)
    assert output_size((10, 20), 0.3) == (3, 6)
    assert output_size((10, 20), 0.01) == (1, 1)


def test_what_becomes_smaller_is_antialiased(task: SuperResolution):
    image = picture(20, 30)
    small = enhance(task, image, 0.5)
    expected = imresize(torch.from_numpy(image.pixels).permute(2, 0, 1), size=(10, 15)).clamp(0, 1).permute(1, 2, 0)
    np.testing.assert_array_equal(small.pixels, expected.numpy())
    assert enhance(task, image, size=(7, 8)).pixels.shape == (7, 8, 3)
    both = enhance(task, image, (2.0, 0.5))  # longer by the network, then narrower
    wide = enhance(task, image, (2.0, 1.0)).pixels
    narrow = imresize(torch.from_numpy(wide).permute(2, 0, 1), size=(40, 15)).clamp(0, 1).permute(1, 2, 0)
    np.testing.assert_array_equal(both.pixels, narrow.numpy())


@pytest.mark.parametrize("scale", [0.5, 0.37])
def test_a_pixel_counts_as_much_as_it_is_seen_when_made_smaller(scale: float, task: SuperResolution):
    """On any ground, the small picture looks like the small version of what was seen there."""
    image = picture(40, 40, alpha=np.random.default_rng(1).random((40, 40)).astype(np.float32))
    small = enhance(task, image, scale)
    assert image.alpha is not None
    assert small.alpha is not None
    seen = imresize(torch.from_numpy(image.pixels * image.alpha[..., None]).permute(2, 0, 1), size=small.alpha.shape)
    shown = torch.from_numpy(small.pixels * small.alpha[..., None]).permute(2, 0, 1)
    torch.testing.assert_close(shown, torch.minimum(seen, torch.from_numpy(small.alpha)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf"), 1000, 0.009, 32.01, (2.0, 0.001)])
def test_factors_that_do_not_work(scale, task: SuperResolution):
    with pytest.raises(ValueError, match=r"scale: .* does not work; a number from 0.01 to 32 does") as refusal:
        enhance(task, picture(4, 4), scale)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("size", [(321, 20), (0, 0), (10, -5)])
def test_sizes_that_do_not_work(size: tuple[int, int], task: SuperResolution):
    with pytest.raises(ValueError, match=f"size: {size[1]}x{size[0]} is more than 32 times the image's 20x10"):
        enhance(task, picture(10, 20), size=size)


def test_one_of_scale_and_size(task: SuperResolution):
    with pytest.raises(ValueError, match="either scale or size"):
        enhance(task, picture(4, 4), scale=2.0, size=(8, 8))
    assert enhance(task, picture(4, 6)).pixels.shape == (8, 12, 3)  # neither: x2
    with pytest.raises(ValueError, match="tile: 15 is too small; 16 or more works"):
        enhance(task, picture(4, 4), 2.0, tile=15)
    assert enhance(task, picture(4, 6), size=(9, 31)).pixels.shape == (9, 31, 3)
