"""Damage, crops and held-out images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lorgnette.images.file import Image, read_image, write_image
from lorgnette.systems.restore import Data, Model, Recipe, default_steps, loaders
from lorgnette.systems.restore.data import ImageFolder, PairedFolders, TestImages
from lorgnette.systems.restore.degradations import as_grey, compressed, noisy, noisy_for_tables, shrunk
from lorgnette.train.batches import Draw
from lorgnette.train.config import TrainConfig


def picture(path: Path, h: int = 40, w: int = 52, seed: int = 0, grey: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.random((5, 6, 3)).astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    write_image(path, Image(smooth.mean(2, keepdims=True).repeat(3, 2) if grey else smooth, grey=grey, bits=8))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        picture(tmp_path / f"{i}.png", seed=i)
    return tmp_path


def test_noise_has_the_deviation_it_is_named_after():
    clean = torch.full((3, 200, 200), 0.5)
    for sigma in (0.0, 15.0, 50.0):
        noise = (noisy(clean, sigma, np.random.default_rng(0)) - clean) * 255
        assert abs(float(noise.std()) - sigma) <= 0.02 * sigma
        assert abs(float(noise.mean())) <= 0.3


def test_noise_of_the_tables_is_basicsr_s():
    """Seed 0 before each image, float64, (H, W, BGR)."""
    clean = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0))
    np.random.seed(0)
    bgr = clean.permute(1, 2, 0).numpy()[..., ::-1].astype(np.float64)
    wanted = bgr + np.random.normal(0, 25 / 255.0, bgr.shape)
    mine = noisy_for_tables(clean, 25).permute(1, 2, 0).numpy()[..., ::-1]
    assert noisy_for_tables(clean[:1], 25).shape == (1, 7, 9)
    np.testing.assert_allclose(mine, wanted, rtol=0, atol=1e-6)
    assert torch.equal(noisy_for_tables(clean, 25), noisy_for_tables(clean, 25))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_worse_at_a_lower_quality_and_keeps_colours_in_place(channels: int):
    clean = torch.nn.functional.interpolate(torch.rand(1, channels, 5, 5), (40, 48), mode="bicubic")[0].clamp(0, 1)
    errors = [float((compressed(clean, quality) - clean).abs().mean()) for quality in (95, 40, 10)]
    assert errors == sorted(errors)
    assert errors[0] < 0.02
    assert compressed(clean, 10).shape == clean.shape
    assert torch.equal((compressed(clean, 30) * 255).round() / 255, compressed(clean, 30))


def test_grey_is_opencv_s():
    levels = (np.random.default_rng(0).random((6, 7, 3)) * 255).round().astype(np.uint8)
    wanted = cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)
    mine = as_grey(torch.from_numpy(levels).permute(2, 0, 1).float() / 255) * 255
    assert np.abs(mine[0].numpy() - wanted).max() <= 1


@pytest.mark.parametrize(
    "settings", [{}, {"degradation": "jpeg"}, {"degradation": "sr", "scale": 3}, {"grey": True}], ids=str
)
def test_a_sample_is_a_function_of_its_draw(folder: Path, settings: dict[str, Any]):
    data = Data(root=str(folder), patch=12, **settings)
    files = sorted(folder.glob("*.png"))
    a, b = (ImageFolder(files, data)[Draw(0, 5, 2, 1)] for _ in range(2))
    other = ImageFolder(files, data)[Draw(0, 6, 2, 1)]
    channels, side = (1 if data.grey else 3), 12 * data.scale
    assert a["lq"].shape == (channels, 12, 12)
    assert a["gt"].shape == (channels, side, side)
    assert torch.equal(a["lq"], b["lq"])
    assert torch.equal(a["gt"], b["gt"])
    assert not torch.equal(a["lq"], other["lq"])
    assert not torch.equal(a["lq"], a["gt"])


def test_blind_noise_is_drawn_over_the_whole_range(folder: Path):
    dataset = ImageFolder(sorted(folder.glob("*.png")), Data(root=str(folder), patch=24, sigmas=(10, 50)))
    samples = [dataset[Draw(0, step, 0, 0)] for step in range(60)]
    deviations = [float((s["lq"] - s["gt"]).std() * 255) for s in samples]
    assert 8 < min(deviations) < 20
    assert 40 < max(deviations) < 54


def test_pairs_stay_together_whatever_turns_them(folder: Path, tmp_path: Path):
    lq = tmp_path / "lq"
    gt = tmp_path / "gt"
    for i in range(3):
        picture(gt / f"{i}.png", 48, 60, seed=i)
        clean = torch.from_numpy(read_image(gt / f"{i}.png").pixels).permute(2, 0, 1)
        write_image(lq / f"{i}.png", Image(shrunk(clean, 2).permute(1, 2, 0).numpy(), grey=False, bits=8))
    data = Data(lq=str(lq), gt=str(gt), degradation="sr", scale=2, patch=10, holdout=0.3)
    batches, test = loaders(data, TrainConfig(batch_size=4))
    for step in range(4):
        batch = next(batches.starting_at(step))
        again = torch.stack([shrunk(image, 2) for image in batch["gt"]])
        assert (again - batch["lq"])[..., 2:-2, 2:-2].abs().mean() < 0.01  # a wrong turn is ten times as far
    assert len(test) == 1
    assert test[0]["label"] == "pairs"
    picture(lq / "0.png", 47, 60)
    with pytest.raises(ValueError, match="the first must be 2 times as large"):
        PairedFolders([(lq / "0.png", gt / "0.png")], data)[Draw(0, 0, 0, 0)]


def test_blocks_of_compression_lie_anywhere_in_a_crop(tmp_path: Path):
    """A crop of a file that was compressed as a whole starts within a block, and so do ours."""
    columns = np.linspace(0.2, 0.8, 60, dtype=np.float32)  # of which a low quality makes steps of 8
    write_image(tmp_path / "a.png", Image(np.broadcast_to(columns[None, :, None], (50, 60, 3)).copy()))
    data = Data(root=str(tmp_path), degradation="jpeg", qualities=(2, 2), patch=24, augment=False)
    starts = set()
    for step in range(60):
        sample = ImageFolder([tmp_path / "a.png"], data)[Draw(0, step, 0, 0)]
        assert sample["lq"].shape == sample["gt"].shape == (3, 24, 24)
        jumps = sample["lq"].diff(dim=-1)[0, 0]
        starts |= {int(at) % 8 for at in jumps.nonzero().flatten()}
    assert starts == set(range(8))
    fine = ImageFolder([picture(tmp_path / "b.png")], replace(data, qualities=(95, 95)))
    samples = [fine[Draw(0, step, 0, 0)] for step in range(8)]
    assert max(float((s["lq"] - s["gt"]).abs().mean()) for s in samples) < 0.02  # both are cut at the same place
    assert min(float((s["lq"][:, 1:] - s["gt"][:, :-1]).abs().mean()) for s in samples) > 0.02


def test_folders_in_lists_and_names_by_template(folder: Path, tmp_path: Path):
    for number in (1, 2):
        for i in range(2):
            picture(tmp_path / f"gt{number}" / f"{i}.png", seed=i)
            picture(tmp_path / f"lq{number}" / f"{i}_dirty.png", seed=i)
    both = {name: [str(tmp_path / f"{name}{number}") for number in (1, 2)] for name in ("lq", "gt")}
    data = Data(**both, filename_tmpl="{}_dirty", test=both["gt"], test_lq=both["lq"], patch=12)
    batches, test = loaders(data)
    assert len(batches.dataset) == len(test) == 4
    assert [lq.name for lq, _ in batches.dataset.files] == ["0_dirty.png", "1_dirty.png"] * 2
    assert all(batch["label"] == "pairs" for batch in test)
    with pytest.raises(FileNotFoundError, match=r"^data.filename_tmpl: '\{\}_clean' makes 0_clean of .*0\.png; "):
        loaders(replace(data, filename_tmpl="{}_clean"))
    with pytest.raises(ValueError, match="no partner"):
        loaders(replace(data, filename_tmpl=None))


def test_held_out_images_come_once_for_each_level(folder: Path):
    data = Data(root=str(folder), test=str(folder), test_sigmas=(15, 50), test_crop=20)
    _, test = loaders(data, TrainConfig())
    assert [(batch["name"], batch["label"]) for batch in test][:3] == [
        ("0", "sigma15"),
        ("0", "sigma50"),
        ("1", "sigma15"),
    ]
    assert test[0]["gt"].shape == (1, 3, 20, 20)
    whole = TestImages([(None, folder / "0.png")], replace(data, degradation="sr", scale=3))[0]
    assert whole["gt"].shape == (1, 3, 39, 51)
    assert whole["lq"].shape == (1, 3, 13, 17)


def test_several_folders_are_one(folder: Path, tmp_path: Path):
    more = tmp_path / "more"
    picture(more / "x.png")
    batches, _ = loaders(Data(root=[str(folder), str(more)], holdout=0.1), TrainConfig())
    assert len(batches.dataset) == 5  # the second lies in the first as well: 5 + 1 - 1 held out
    assert default_steps(5, Recipe()) == 200


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigmas": (30, 10)}, "^data.sigmas: 30, 10 must be two rising"),
        ({"qualities": (0, 40)}, "^data.qualities"),
        ({"test_qualities": (101,)}, "^data.test_qualities"),
        ({"lq": "a"}, "^data.lq and data.gt belong together"),
        ({"root": "a", "lq": "a", "gt": "b"}, "exclude each other"),
        ({"test_lq": "a"}, "^data.test_lq: needs data.test"),
        ({"patch": 4}, "^data: patch must be at least 8"),
        ({"crop_border": -1}, "crop_border at least 0"),
        ({"filename_tmpl": "x4"}, "^data.filename_tmpl: 'x4' must hold {} once"),
        ({"lq": ["a", "b"], "gt": "c"}, "^data.lq: 2 folders for 1 in data.gt: give as many"),
        ({"root": "a", "scale": 2}, "^data.scale: 'denoise' keeps the size"),
        ({"scale": 9}, "^data.scale: 9 is not a factor from 1 to 8"),
    ],
)
def test_settings_that_do_not_work_are_named(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Data(**settings)


def test_network_and_data_have_to_agree():
    with pytest.raises(ValueError, match=r"^data.scale: 1 is not model.upscale, 2"):
        Recipe(model=Model(upscale=2, upsampler="pixelshuffle"))
    with pytest.raises(ValueError, match=r"^data.grey: False does not go with model.in_chans 1"):
        Recipe(model=Model(in_chans=1))


@pytest.mark.parametrize(("damage", "scale"), [("scan", 1), ("web", 1), ("sharpened", 2)])
def test_named_damage_keeps_its_place(tmp_path: Path, damage: Any, scale: int):
    y, x = np.mgrid[:90, :110].astype(np.float32) / 110
    write_image(tmp_path / "ramp.png", Image(np.stack([y, x, 0.5 + 0 * x], -1), bits=8))
    data = Data(damage=damage, scale=scale, patch=24, augment=False, grey=damage == "web")
    folder, corners = ImageFolder([tmp_path / "ramp.png"], data), set()
    for step in range(8):
        draw = Draw(seed=1, step=step, slot=0, index=0)
        sample, again = folder[draw], folder[draw]
        assert torch.equal(sample["lq"], again["lq"])
        channels = 1 if data.grey else 3
        assert sample["lq"].shape == (channels, 24, 24)
        assert sample["gt"].shape == (channels, 24 * scale, 24 * scale)
        small = sample["gt"].unfold(1, scale, scale).unfold(2, scale, scale).mean((-1, -2))
        assert (sample["lq"] - small).mean().abs() < 0.02
        rise = [image[0].mean(0)[-8:].mean() - image[0].mean(0)[:8].mean() for image in (sample["lq"], small)]
        assert abs(float(rise[0] - rise[1])) < 0.05
        corners.add(tuple(small.mean((1, 2)).tolist()))
    assert len(corners) == 8


def test_an_adapter_is_scored_on_the_damage_it_learnt(folder: Path):
    data = Data(root=str(folder), test=str(folder), damage="camera", test_crop=0)
    held_out = loaders(data)[1]
    assert len(held_out) == 3 * 4
    assert {batch["label"] for batch in held_out} == {"camera"}
    assert not any(batch["luma"] for batch in held_out)
    first = [batch["lq"] for batch in held_out]
    assert all(torch.equal(a, batch["lq"]) for a, batch in zip(first, loaders(data)[1], strict=True))
    assert not torch.equal(first[0], first[1])  # three draws of each
    with pytest.raises(ValueError, match=r"data.damage: is made of clean images"):
        Data(lq="a", gt="b", damage="camera")
