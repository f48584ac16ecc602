"""Training crops and held-out images: a pure function of the draw, and every point where it belongs."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lorgnette.images.file import Image, write_image
from lorgnette.images.patches import at_least, shrink, split
from lorgnette.images.resize import imresize
from lorgnette.systems.superres import Data, Recipe, default_steps, loaders
from lorgnette.systems.superres.data import ImageFolder, PairedFolders, TestImages
from lorgnette.train.batches import Draw
from lorgnette.train.config import TrainConfig


def ramp(h: int, w: int) -> np.ndarray:
    """(h, w, 3): red rises with y and green with x, from edge to edge; blue is neither."""
    y, x = ((np.arange(n) + 0.5) / n for n in (h, w))
    planes = np.broadcast_arrays(y[:, None], x[None, :], 0.3)
    return np.stack(planes, -1).astype(np.float32)


def write(path: Path, pixels: np.ndarray, bits: int = 16, grey: bool = False) -> Path:
    write_image(path, Image(pixels, grey=grey, bits=bits))
    return path


def noise(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((h, w, 3), dtype=np.float32)


def draws(n: int, index: int = 0) -> list[Draw]:
    return [Draw(seed=1, step=step, slot=step % 3, index=index) for step in range(n)]


def fit_planes(lr: Tensor) -> tuple[Tensor, Tensor]:
    """(3, 2) and (3,): by how much each channel of a linear crop rises per unit of (y, x), and its middle."""
    n = lr.shape[-1]
    axis = (torch.arange(n) * 2 + 1) / n - 1
    middle = lr.mean((1, 2))
    weight = (axis**2).sum() * n
    slope = torch.stack([(lr * axis[:, None]).sum((1, 2)), (lr * axis).sum((1, 2))], 1) / weight
    return slope, middle


# ------------------------------------------------------------------------------------------------ one folder


def test_a_sample_is_a_function_of_its_draw(tmp_path: Path):
    files = [write(tmp_path / f"{k}.png", noise(70, 60, k), bits=8) for k in range(2)]
    data = Data(patch=12, points=50)
    folder, other = ImageFolder(files, data), pickle.loads(pickle.dumps(ImageFolder(files, data)))
    assert len(folder) == 2
    samples = [folder[draw] for draw in draws(6)]
    torch.manual_seed(9)
    np.random.seed(9)
    for draw, sample in reversed(list(zip(draws(6), samples, strict=True))):
        again = other[draw]
        assert all(torch.equal(again[name], sample[name]) for name in sample)
    shapes = {name: tuple(tensor.shape) for name, tensor in samples[0].items()}
    assert shapes == {"lq": (3, 12, 12), "coord": (50, 2), "cell": (50, 2), "gt": (50, 3)}
    assert all(tensor.dtype == torch.float32 for tensor in samples[0].values())
    assert len({sample["lq"].numpy().tobytes() for sample in samples}) == 6
    assert not torch.equal(folder[Draw(1, 0, 0, 1)]["lq"], samples[0]["lq"])  # another image
    for sample in samples:
        assert 0 <= sample["lq"].min() < sample["lq"].max() <= 1
        assert 0 <= sample["gt"].min() < sample["gt"].max() <= 1


def test_scales_may_grow_with_the_steps(tmp_path: Path):
    file = write(tmp_path / "a.png", noise(60, 60), bits=8)
    growing, all_at_once = (
        ImageFolder([file], Data(patch=10, points=5, scales=(1.0, 4.0), progressive=steps)) for steps in (40, 0)
    )
    for step in range(60):
        draw = Draw(0, step, 0, 0)
        factor, usual = (2 / folder[draw]["cell"][0, 0].item() / 10 for folder in (growing, all_at_once))
        assert factor == pytest.approx(1 + (usual - 1) * min(1, (step + 1) / 40), abs=0.1)


def test_the_factor_is_the_batch_s_and_covers_its_range(tmp_path: Path):
    folder = ImageFolder([write(tmp_path / "a.png", noise(60, 60), bits=8)], Data(patch=10, points=5, scales=(1.5, 4)))
    factors = []
    for step in range(60):
        cells = {folder[Draw(0, step, slot, 0)]["cell"].unique().item() for slot in (0, 5)}
        assert len(cells) == 1
        side = 2 / cells.pop()
        assert side == pytest.approx(round(side))
        factors.append(side / 10)
    assert 1.5 <= min(factors) < 1.7
    assert 3.8 < max(factors) <= 4.0
    assert np.mean(factors) == pytest.approx(2.75, abs=0.3)


@pytest.mark.parametrize("augment", [False, True])
def test_truth_lies_where_its_coordinates_say(augment: bool, tmp_path: Path):
    """On a linear image the truth at a point follows from the crop, whatever the factor, flip or transposition."""
    file = write(tmp_path / "a.png", ramp(90, 110))
    folder = ImageFolder([file], Data(patch=12, points=100, augment=augment))
    signs = set()
    for draw in draws(24):
        sample = folder[draw]
        inner = sample["lq"][:, 2:-2, 2:-2]  # at its border the bicubic kernel sees the mirrored ramp
        slope, middle = fit_planes(inner)
        near = sample["coord"] @ (slope * 12 / 8).T + middle
        assert (sample["gt"] - near).abs().max() < 0.006  # 8-bit rounding of the crop
        assert slope.abs().sum() > 0.05
        signs.add((*(slope[0].sign() * (slope[0].abs() > 0.01)).tolist(), *(slope[1].sign() * (slope[1].abs() > 0.01)).tolist()))  # fmt: skip  # noqa: E501
    assert len(signs) == (8 if augment else 1)


def test_each_point_is_drawn_once_unless_there_are_too_few(tmp_path: Path):
    file = write(tmp_path / "a.png", noise(16, 16), bits=8)
    for points, distinct in ((64, 64), (200, 64)):
        sample = ImageFolder([file], Data(patch=8, points=points, scales=(1, 1)))[Draw(0, 0, 0, 0)]
        assert len(sample["coord"]) == points
        assert len(sample["coord"].unique(dim=0)) <= distinct
        if points == 64:
            assert len(sample["coord"].unique(dim=0)) == 64


def test_tiny_images_are_mirrored(tmp_path: Path):
    image = torch.arange(6, dtype=torch.uint8).view(1, 2, 3)
    assert at_least(image, 2) is image
    assert at_least(image, 5)[0].tolist() == [
        [0, 1, 2, 2, 1], [3, 4, 5, 5, 4], [3, 4, 5, 5, 4], [0, 1, 2, 2, 1], [0, 1, 2, 2, 1]
    ]  # fmt: skip
    file = write(tmp_path / "a.png", noise(3, 5))
    sample = ImageFolder([file], Data(patch=8, points=30, scales=(4, 4)))[Draw(0, 0, 0, 0)]
    assert sample["lq"].shape == (3, 8, 8)
    assert torch.isfinite(sample["gt"]).all()


def test_sixteen_bits_and_grey_are_kept(tmp_path: Path):
    pixels = np.broadcast_to(np.linspace(0.5, 0.5 + 20 / 65535, 32, dtype=np.float32)[:, None, None], (32, 32, 3))
    for bits, levels in ((16, 21), (8, 1)):
        file = write(tmp_path / f"{bits}.png", pixels, bits=bits)
        sample = ImageFolder([file], Data(patch=16, points=200, scales=(2, 2)))[Draw(0, 0, 0, 0)]
        assert len(sample["gt"][:, 0].mul(65535).round().unique()) == levels
    grey = write(tmp_path / "grey.png", noise(32, 32)[..., :1].repeat(3, -1), bits=8, grey=True)
    sample = ImageFolder([grey], Data(patch=8, points=20))[Draw(0, 0, 0, 0)]
    assert torch.equal(sample["gt"][:, 0], sample["gt"][:, 2])
    assert TestImages([(None, grey)], (2.0,))[0]["grey"]


# --------------------------------------------------------------------------------------------------- pairs


def pair(tmp_path: Path, small: tuple[int, int], large: tuple[int, int], what=ramp) -> tuple[Path, Path]:
    for name in ("lr", "hr"):
        (tmp_path / name).mkdir(exist_ok=True)
    return write(tmp_path / "lr" / "a.png", what(*small)), write(tmp_path / "hr" / "a.png", what(*large))


SIZES = [
    ((40, 30), (80, 60)),  # whole
    ((40, 30), (120, 90)),
    ((40, 30), (60, 45)),  # fractional: at odd offsets the grid is not symmetric
    ((40, 30), (132, 99)),
    ((40, 30), (100, 33)),  # unequal axes
    ((33, 31), (70, 101)),
    ((30, 30), (30, 30)),  # the same
]


@pytest.mark.parametrize(("small", "large"), SIZES)
@pytest.mark.parametrize("augment", [False, True])
def test_pairs_match_at_any_factor(small, large, augment: bool, tmp_path: Path):
    """Both files show one ramp: the truth at every point is the crop's own plane, exactly."""
    folder = PairedFolders([pair(tmp_path, small, large)], Data(patch=9, points=300, augment=augment))
    seen, counted = set(), set()
    for draw in draws(60):
        sample = folder[draw]
        slope, middle = fit_planes(sample["lq"])
        difference = sample["gt"] - (sample["coord"] @ slope.T + middle)
        assert difference.abs().max() < 1e-4  # 16-bit files
        assert sample["coord"].abs().max() <= 1
        torch.testing.assert_close(sample["cell"][0], torch.tensor([2 / 9 * s / l for s, l in zip(small, large, strict=True)]))  # fmt: skip  # noqa: E501, E741
        directions = slope.sign() * (slope.abs() > 1e-3)
        seen.add(tuple(directions[:2].flatten().tolist()))
        counted.add(len(sample["coord"].unique(dim=0)))
    symmetric = (large[0] / small[0]) == (large[1] / small[1])
    assert len(seen) == (1 if not augment else 8 if symmetric else 4)  # a camera whose axes differ is not turned


def test_all_pixels_of_a_pair_are_used_once_over_the_crops(tmp_path: Path):
    """Neighbouring crops share no pixel and miss none, also where centres fall on their border."""
    from lorgnette.systems.superres.data import _pixels_inside

    for n, scale in ((12, 2.0), (12, 1.5), (12, 3.3), (13, 2.7)):
        total = round(n * scale)
        covered = []
        for start in range(0, n, 3):
            inside, coord = _pixels_inside(start, min(3, n - start), total / n, total)
            covered += list(range(inside.start, inside.stop))
            assert len(coord) == inside.stop - inside.start
            assert coord.min() >= -1
            assert coord.max() < 1 + 1e-6
        assert covered == list(range(total))


def test_pairs_are_pure_and_aligned_after_augmentation(tmp_path: Path):
    """Any picture: with nearest-neighbour files, the truth at a point is the crop's pixel there."""
    lr = noise(24, 24)
    pairs = [pair(tmp_path, (1, 1), (1, 1), lambda h, w: lr)]
    write(pairs[0][1], lr.repeat(3, 0).repeat(3, 1))
    folder = PairedFolders(pairs, Data(patch=8, points=400))
    for draw in draws(20):
        sample, again = folder[draw], folder[draw]
        assert all(torch.equal(sample[name], again[name]) for name in sample)
        index = ((sample["coord"] + 1) / 2 * 8).floor().long()
        assert torch.equal(sample["lq"][:, index[:, 0], index[:, 1]].T, sample["gt"])


def test_pairs_that_are_none(tmp_path: Path):
    lr, hr = pair(tmp_path, (20, 20), (10, 40))
    with pytest.raises(ValueError, match=r"data\.hr: .*has 10 x 40 pixels and .* has 20 x 20") as refusal:
        PairedFolders([(lr, hr)], Data(patch=9))[Draw(0, 0, 0, 0)]
    assert "\n" not in str(refusal.value)
    lr, hr = pair(tmp_path, (8, 20), (16, 40))
    with pytest.raises(ValueError, match=r"data\.patch: 9 is more than the side of .*; at most 8 works"):
        PairedFolders([(lr, hr)], Data(patch=9))[Draw(0, 0, 0, 0)]


# -------------------------------------------------------------------------------------------- held-out images


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.3, 4.0])
@pytest.mark.parametrize("crop", [0, 30])
def test_held_out_images(scale: float, crop: int, tmp_path: Path):
    file = write(tmp_path / "a.png", ramp(61, 47))
    (batch,) = TestImages([(None, file)], (scale,), crop)
    lr, hr = batch["lq"][0], batch["gt"][0]
    side = [min(n, crop or n) for n in (61, 47)]
    assert lr.shape[1:] == tuple(int(n / scale) for n in side)
    assert hr.shape[1:] == tuple(round(int(n / scale) * scale) for n in side)
    assert (batch["label"], batch["shave"]) == (f"x{scale:g}", math.ceil(scale))
    assert (batch["luma"], batch["grey"], batch["name"]) == (True, False, "a")
    torch.testing.assert_close(lr, shrink(hr, (lr.shape[1], lr.shape[2])))
    whole = torch.from_numpy(ramp(61, 47)).permute(2, 0, 1)
    top, left = ((n - s) // 2 for n, s in zip((61, 47), side, strict=True))
    cut = whole[:, top : top + hr.shape[1], left : left + hr.shape[2]]
    torch.testing.assert_close(hr, cut, atol=1e-4, rtol=0)


def test_every_image_meets_every_factor_and_again_at_the_next_reading(tmp_path: Path):
    files = [write(tmp_path / f"{k}.png", noise(20, 20, k), bits=8) for k in range(2)]
    test = TestImages([(None, file) for file in files], (2.0, 3.0))
    assert len(test) == 4
    assert [(batch["name"], batch["label"]) for batch in test] == [("0", "x2"), ("0", "x3"), ("1", "x2"), ("1", "x3")]
    for first, second in zip(test, test, strict=True):
        assert torch.equal(first["lq"], second["lq"])


@pytest.mark.parametrize("crop", [0, 30])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_held_out_pairs(small, large, crop: int, tmp_path: Path):
    """Cut to the middle only where both can be cut to show the same."""
    files = pair(tmp_path, small, large)
    (batch,) = TestImages([files], (2.0, 4.0), crop)
    lr, hr = batch["lq"][0], batch["gt"][0]
    factors = [m / n for n, m in zip(small, large, strict=True)]
    assert (batch["label"], batch["shave"]) == (f"x{max(factors):.3g}", math.ceil(max(factors)))
    can_be_cut = factors[0] == factors[1] and factors[0].is_integer()
    if crop and can_be_cut:
        assert max(hr.shape[1:]) <= crop
    else:
        assert (*lr.shape[1:], *hr.shape[1:]) == (*small, *large)
    assert [m / n for n, m in zip(lr.shape[1:], hr.shape[1:], strict=True)] == factors
    torch.testing.assert_close(lr.mean((1, 2)), hr.mean((1, 2)), atol=1e-3, rtol=0)  # the same middle


# ------------------------------------------------------------------------------------------------ which images


def test_the_split_is_disjoint_stable_and_seeded():
    items = list(range(20))
    kept, held_out = split(items, 0.15, seed=0)
    assert sorted(kept + held_out) == items
    assert len(held_out) == 3
    assert split(items, 0.15, seed=0) == (kept, held_out)
    assert any(split(items, 0.15, seed=seed)[1] != held_out for seed in (1, 2))
    assert held_out != items[:3]
    assert kept == sorted(kept)
    assert split(items, 0, seed=0) == (items, [])
    assert [len(part) for part in split([1, 2], 0.01, seed=0)] == [1, 1]
    assert [len(part) for part in split([1, 2], 0.99, seed=0)] == [1, 1]
    with pytest.raises(ValueError, match=r"data\.holdout: there is one image only"):
        split([1], 0.15, seed=0)


def test_loaders(tmp_path: Path):
    root = tmp_path / "photos"
    for k in range(5):
        write(root / f"{k}.png", noise(40, 40, k), bits=8)
    train = TrainConfig(batch_size=3, seed=4)
    batches, test = loaders(Data(root=str(root), patch=8, points=10, holdout=0.4, test_scales=(2.0,)), train)
    assert isinstance(batches.dataset, ImageFolder)
    names = {file.stem for file in batches.dataset.files}, {batch["name"] for batch in test}
    assert (len(names[0]), len(names[1]), names[0] & names[1]) == (3, 2, set())
    batch = next(batches.starting_at(0))
    assert batch["lq"].shape == (3, 3, 8, 8)
    assert batches.seed == 4
    held = tmp_path / "held"
    write(held / "x.png", noise(20, 20), bits=8)
    batches, test = loaders(Data(root=str(root), test=str(held), test_scales=(2.0, 4.0)), train)
    assert (len(batches.dataset), len(test)) == (5, 2)


def test_loaders_of_pairs(tmp_path: Path):
    for k in range(4):
        write(tmp_path / "lr" / f"{k}x2.png", noise(12, 12, k), bits=8)
        write(tmp_path / "hr" / f"{k}.png", noise(24, 24, k), bits=8)
    data = Data(lr=str(tmp_path / "lr"), hr=str(tmp_path / "hr"), patch=8, points=10, holdout=0.25)
    batches, test = loaders(data)
    assert isinstance(batches.dataset, PairedFolders)
    assert (len(batches.dataset), len(test)) == (3, 1)
    assert {hr.stem for _, hr in batches.dataset.files} | {batch["name"] for batch in test} == set("0123")
    assert test[0]["lq"].shape[-1] == 12
    tested = loaders(Data(root=str(tmp_path / "hr"), test=str(tmp_path / "hr"), test_lr=str(tmp_path / "lr")))[1]
    assert [batch["label"] for batch in tested] == ["x2"] * 4


def test_nothing_to_load(tmp_path: Path):
    with pytest.raises(ValueError, match=r"data\.root: not set"):
        loaders(Data())
    with pytest.raises(FileNotFoundError, match="no such folder"):
        loaders(Data(root=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match="no images in"):
        loaders(Data(root=str(tmp_path)))


@pytest.mark.parametrize(
    "settings",
    [
        {"scales": (0.5, 2)}, {"scales": (3, 2)}, {"scales": (1, 64)}, {"test_scales": (0.5,)}, {"holdout": 1},
        {"holdout": -0.1}, {"patch": 4}, {"points": 0}, {"test_crop": -1}, {"lr": "a"}, {"hr": "a"},
        {"test_lr": "a"}, {"root": "a", "lr": "b", "hr": "c"}, {"progressive": -1},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_work(settings: dict):
    with pytest.raises(ValueError, match="data") as refusal:
        Data(**settings)
    assert "\n" not in str(refusal.value)


def test_more_images_are_worth_more_steps():
    recipe = Recipe(train=TrainConfig(batch_size=8))
    steps = [default_steps(n, recipe) for n in (1, 10, 20, 1000)]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (200, 2000)
    assert default_steps(20, Recipe(train=TrainConfig(batch_size=16))) < steps[2]


def test_the_low_resolution_image_is_the_published_one(tmp_path: Path):
    """MATLAB-like bicubic with antialiasing, and not another."""
    file = write(tmp_path / "a.png", noise(32, 32), bits=8)
    batch = TestImages([(None, file)], (2.0,))[0]
    reference = imresize(batch["gt"], 0.5).clamp(0, 1)
    torch.testing.assert_close(batch["lq"], (reference * 255).round() / 255)


# ------------------------------------------------------------------------------------------------ named damage


@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.3, 3.7)])
def test_points_of_a_damaged_crop_lie_where_they_belong(tmp_path: Path, scales: tuple[float, float]):
    """On a ramp, colours of the damaged crop at a point's place are those of the point, but for the damage."""
    file = write(tmp_path / "ramp.png", ramp(200, 220), bits=8)
    data = Data(patch=16, points=200, scales=scales, damage="sharpened")
    places = set()
    for draw in draws(12):
        sample = ImageFolder([file], data)[draw]
        again = ImageFolder([file], data)[draw]
        assert all(torch.equal(sample[name], again[name]) for name in sample)
        assert sample["lq"].shape == (3, 16, 16)
        slope, middle = fit_planes(sample["lq"])
        wanted = middle + sample["coord"] @ slope.T
        assert (wanted - sample["gt"]).abs().max() < 0.03
        assert float((sample["gt"][:, :2].amax(0) - sample["gt"][:, :2].amin(0)).max()) > 0.1
        places.add(tuple(sample["lq"].mean((1, 2)).tolist()))
    assert len(places) == 12


def test_held_out_images_are_damaged_each_time_alike(tmp_path: Path):
    for k in range(4):
        write(tmp_path / f"{k}.png", noise(64, 64, k), bits=8)
    _, plain = loaders(Data(root=str(tmp_path), test=str(tmp_path)))
    _, held_out = loaders(Data(root=str(tmp_path), test=str(tmp_path), damage="web"))
    for a, b, c in zip(held_out, held_out, plain, strict=True):
        assert torch.equal(a["lq"], b["lq"])
        assert torch.equal(a["gt"], c["gt"])
        assert a["lq"].shape == c["lq"].shape
        assert not torch.equal(a["lq"], c["lq"])


def test_damage_is_made_of_clean_images_alone(tmp_path: Path):
    with pytest.raises(ValueError, match=r"data.damage: is made of clean images"):
        Data(lr="a", hr="b", damage="phone")
    with pytest.raises(ValueError, match=r"data.damage: 'phon' does not work \(did you mean 'phone'\?\)"):
        Data(root="a", damage="phon")  # pyright: ignore[reportArgumentType]
