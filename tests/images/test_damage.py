"""Damage as lens, sensor, camera program and file do it: each stage does what its name says, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.images.damage import DAMAGES, FILTERS, Damage, damage, to_linear, to_srgb
from lorgnette.images.kinds import Kind, kind


def scene(h: int = 96, w: int = 128, channels: int = 3) -> np.ndarray:
    y, x = np.mgrid[:h, :w]
    planes = [0.5 + 0.4 * np.sin(x / (5 + k)) * np.cos(y / (7 - k)) for k in range(channels)]
    image = np.stack(planes, -1).astype(np.float32)
    image[h // 4 : h // 2, w // 4 : w // 2] = 0.9
    return image


def grey(value: float, side: int = 256, channels: int = 3) -> np.ndarray:
    return np.full((side, side, channels), value, np.float32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def neighbours_correlation(noise: np.ndarray) -> float:
    noise = noise - noise.mean()
    return float((noise[:, 1:] * noise[:, :-1]).mean() / noise.var())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(DAMAGES)), st.integers(0, 2**32), st.sampled_from([1, 3]), st.sampled_from([1.0, 1.7, 4]))
def test_each_kind_is_a_function_of_the_generator_and_gives_levels_of_a_file(
    name: str, seed: int, channels: int, factor: float
):
    image = scene(channels=channels)
    before, size = image.copy(), (round(96 / factor), round(128 / factor))
    made = damage(name)(image, rng(seed), size)
    assert made.shape == (*size, channels)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert np.array_equal(made, damage(name)(image, rng(seed), size))
    assert np.array_equal(image, before)
    if not DAMAGES[name].linear:
        assert np.array_equal(made, (made * 255).round().clip(0, 255) / np.float32(255))


def test_no_damage_is_the_picture_in_8_bits():
    image = scene()
    assert np.array_equal(Damage()(image, rng()), (image * 255).round() / np.float32(255))
    kept = DAMAGES["photo"].__class__(**{**vars(DAMAGES["photo"]), "clean": 1})
    assert np.array_equal(kept(image, rng()), Damage()(image, rng()))


@pytest.mark.parametrize("value", [0.3, 0.5, 0.8])
def test_noise_is_that_of_the_photons_in_linear_light(value: float):
    white, reading = 500.0, 6.0
    made = Damage(photons=(white, white), reading=(reading, reading))(grey(value), rng())
    light = float(to_linear(np.float32(value)))
    deviation = to_linear(made).std() * white
    assert deviation == pytest.approx(np.sqrt(light * white + reading**2), rel=0.06)
    assert to_linear(made).mean() == pytest.approx(light, rel=0.03)


def test_counts_are_whole_numbers_of_poisson():
    made = Damage(photons=(100, 100), linear=True)(grey(0.3, channels=1), rng())
    counts = made * 100
    assert np.allclose(counts, counts.round(), atol=1e-4)
    assert counts.mean() == pytest.approx(30, rel=0.01)
    assert counts.var() == pytest.approx(30, rel=0.05)


def test_a_mosaic_and_smoothing_make_noise_of_neighbours_alike():
    def noise(**settings: float | tuple[float, float]) -> np.ndarray:
        return (Damage(photons=(400, 400), **settings)(grey(0.5), rng()) - 0.5)[..., 0]  # pyright: ignore

    assert abs(neighbours_correlation(noise())) < 0.02
    assert neighbours_correlation(noise(mosaic=1)) > 0.4
    assert neighbours_correlation(noise(smoothing=(0.8, 0.8))) > 0.5


@pytest.mark.parametrize(
    ("settings", "second_moment"),
    [
        ({"blur": (2, 2)}, 4),
        ({"blur": (2, 2), "stretch": (1.5, 1.5)}, (4 + 9) / 2),
        ({"defocus": (4, 4)}, 4),  # of a disc: r^2 / 4 along each axis
        ({"motion": (9, 9)}, (9**2 / 12) / 2),
    ],
)
def test_a_point_spreads_as_the_lens_says_and_no_light_is_lost(settings: dict, second_moment: float):
    point = np.zeros((65, 65, 1), np.float32)
    point[32, 32] = 1
    image = Damage(**settings)._through_lens(point, 1, rng())[..., 0]
    y, x = np.mgrid[-32:33, -32:33]
    assert image.sum() == pytest.approx(1, abs=1e-5)
    assert ((x**2 + y**2) * image).sum() / 2 == pytest.approx(second_moment, rel=0.2)


def test_blur_is_in_pixels_of_the_damaged_picture():
    edge = np.zeros((256, 256, 1), np.float32)
    edge[:, 128:] = 1

    def width(factor: int) -> float:
        made = Damage(blur=(1.5, 1.5), filters=("box",))(edge, rng(), (256 // factor, 256 // factor))
        row = np.diff(made[len(made) // 2, :, 0])
        place = np.arange(len(row))
        middle = (row * place).sum() / row.sum()
        return float(np.sqrt((row * (place - middle) ** 2).sum() / row.sum()))

    assert width(1) == pytest.approx(1.5, rel=0.1)
    assert width(4) == pytest.approx(1.5, rel=0.1)


def test_sharpening_makes_halos_and_compression_makes_blocks():
    edge = np.full((64, 64, 3), 0.3, np.float32)
    edge[:, 32:] = 0.7
    halo = Damage(sharpening=(1, 1))(edge, rng())
    assert halo.max() > 0.75
    assert halo.min() < 0.25
    made = Damage(quality=(10, 10))(scene(), rng())
    steps = np.abs(np.diff(made.mean(-1), axis=1))
    assert steps[:, 7::8].mean() > 1.3 * np.delete(steps, np.s_[7::8], axis=1).mean()


def test_a_second_compression_has_its_blocks_elsewhere():
    once, twice = (Damage(quality=(15, 15), again=again)(scene(), rng(3)) for again in (0, 1))
    assert once.shape == twice.shape
    error = [float(np.square(made - scene()).mean()) for made in (once, twice)]
    assert error[1] > 1.05 * error[0]


def test_grain_is_strongest_at_middle_grey_and_alike_in_all_colours():
    film = Damage(grain=(12, 12))
    dark, middle = film(grey(0.02), rng()), film(grey(0.5), rng())
    assert middle.std() * 255 == pytest.approx(12, rel=0.1)
    assert dark.std() < 0.4 * middle.std()
    assert np.array_equal(middle[..., 0], middle[..., 2])


@pytest.mark.parametrize("name", sorted(set(FILTERS) - {"nearest"}))
def test_filters_see_every_pixel(name: str):
    stripes = np.zeros((64, 64, 1), np.float32)
    stripes[:, ::2] = 1
    made = Damage(filters=(name,))(stripes, rng(), (16, 16))
    assert made[4:-4, 4:-4].std() < 0.02
    assert made.mean() == pytest.approx(0.5, abs=0.02)


def test_light_and_values_are_inverse_and_those_of_the_standard():
    x = np.linspace(0, 1, 1001, dtype=np.float32)
    assert np.allclose(to_srgb(to_linear(x)), x, atol=1e-5)
    assert float(to_linear(np.float32(0.5))) == pytest.approx(0.21404, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"blur": (2, 1)}, "damage.blur: 2, 1 must be two rising numbers"),
        ({"clean": 1.5}, "damage.clean: 1.5 is not a share"),
        ({"filters": ("area",)}, "damage.filters: area: only nearest, box"),
        ({"photons": (0, 5)}, "damage.photons: 0 must be above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict, says: str):
    with pytest.raises(ValueError, match=says):
        Damage(**settings)
    with pytest.raises(ValueError, match=r"'fone' is not known \(did you mean 'phone'\?\)"):
        damage("fone")


def test_red_stays_red():
    red = np.zeros((32, 32, 3), np.float32)
    red[..., 0] = 1
    made = Damage(quality=(95, 95))(red, rng())
    assert made[..., 0].mean() > 0.95
    assert made[..., 2].mean() < 0.05


def test_settings_and_options_name_the_same_kinds():
    assert get_args(Kind) == ("", *DAMAGES)
    assert [kind(word) for word in ("none", *DAMAGES)] == list(get_args(Kind))
    with pytest.raises(ValueError, match="damage: 'fone' is not known; none, photo"):
        kind("fone")


def test_the_page_says_what_each_kind_does():
    """Blur, electrons at white, the qualities of JPEG, and the share that is left as it is."""
    page = (Path(__file__).parents[2] / "docs/damage.md").read_text(encoding="utf-8")
    rows = {
        row[0].strip("`"): row[1:]
        for row in re.findall(r"^\| (`\w+`) " + r"\| ([^|]+) " * 5 + r"\|$", page, re.MULTILINE)
    }
    assert rows.keys() == DAMAGES.keys()

    def ends(text: str) -> tuple[float, ...] | None:
        found = re.match(r"([\d,]+) to ([\d,]+)", text)
        return tuple(float(end.replace(",", "")) for end in found.groups()) if found else None

    for name, (lens, noise, _, quality, share) in rows.items():
        blur = re.match(r"blur (?:([\d.]+) to|up to) ([\d.]+) px", lens)
        assert DAMAGES[name].blur == ((float(blur[1] or 0), float(blur[2])) if blur else (0, 0)), name
        assert ends(noise) == (DAMAGES[name].photons if "electrons" in noise else None), name
        assert "electrons" in noise or DAMAGES[name].photons is None, name
        assert ends(quality) == DAMAGES[name].quality, name
        assert share == f"{round(100 * DAMAGES[name].clean)} %", name
