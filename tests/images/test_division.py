"""What is learnt from, what is held out, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from lorgnette.common.parts import LeftOut
from lorgnette.images.division import Fits, divided, judged
from lorgnette.images.file import Image, write_image
from lorgnette.images.folders import find_items
from lorgnette.images.patches import split


def noise(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((h, w, 3), dtype=np.float32)


def write(path: Path, pixels: np.ndarray, bits: int = 8) -> Path:
    write_image(path, Image(pixels, bits=bits))
    return path


def test_held_out_images_have_a_folder_of_their_own_or_are_a_share(tmp_path: Path):
    for folder, letters in (("clean", "abcd"), ("bad", "abcd"), ("test", "ef"), ("worse", "ef")):
        for name in letters:
            write(tmp_path / folder / f"{name}.png", noise(4, 4))
    clean, bad, test, worse = (str(tmp_path / name) for name in ("clean", "bad", "test", "worse"))

    def names(*settings) -> list[list[tuple[str | None, str]]]:
        found = divided(*settings, holdout=0.5, seed=1)[:2]
        return [[(lq and lq.parent.name, gt.stem) for lq, gt in items] for items in found]

    kept, held_out = names(clean, None, None, None)
    assert sorted(kept + held_out) == [(None, name) for name in "abcd"]
    assert len(held_out) == 2
    assert names(clean, bad, test, None) == [[("bad", name) for name in "abcd"], [(None, "e"), (None, "f")]]
    assert names([clean, test], [bad, worse], test, worse)[1] == [("worse", "e"), ("worse", "f")]
    with pytest.raises(ValueError, match="no partner"):
        names(clean, worse, None, None)


def scene(h: int, w: int, seed: int) -> np.ndarray:
    y, x = np.mgrid[:h, :w] / np.array([h, w]).reshape(2, 1, 1)
    rng = np.random.default_rng(seed)
    waves = sum(np.sin(6 * (a * x + b * y) + c) for a, b, c in rng.uniform(-2, 2, (4, 3)))
    return np.repeat((0.5 + waves[..., None] / 8).astype(np.float32), 3, axis=-1)


def pairs(folder: Path, count: int, scale: float = 2.0, size: tuple[int, int] = (24, 32)) -> tuple[str, str]:
    """As many pairs of scenes, each with its own."""
    for n in range(count):
        write(folder / "lr" / f"{n}.png", scene(*size, n))
        write(folder / "hr" / f"{n}.png", scene(round(size[0] * scale), round(size[1] * scale), n))
    return str(folder / "lr"), str(folder / "hr")


def left_out(folder: Path, fits: Fits | None = None) -> list[str]:
    lr, hr = str(folder / "lr"), str(folder / "hr")
    return [Path(name).name for name in judged(find_items(hr, lr), fits).left_out]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_pair_of_which_one_is_turned_is_named(count: int, tmp_path: Path):
    pairs(tmp_path, count)
    assert left_out(tmp_path) == []
    write(tmp_path / "lr" / "1.png", np.rot90(scene(24, 32, 1)).copy())
    assert left_out(tmp_path) == ["1.png"]


@pytest.mark.parametrize("way", ["upside down", "another picture", "another scale", "turned square"])
def test_a_pair_unlike_all_others_is_named(way: str, tmp_path: Path):
    size = (28, 28) if way == "turned square" else (24, 32)
    pairs(tmp_path, 8, size=size)
    odd = {
        "upside down": scene(24, 32, 5)[::-1, ::-1],
        "another picture": scene(24, 32, 50),
        "another scale": scene(12, 16, 5),
        "turned square": np.rot90(scene(28, 28, 5)),
    }[way]
    write(tmp_path / "lr" / "5.png", odd.copy())
    assert left_out(tmp_path) == ["5.png"]
    with pytest.warns(LeftOut, match=r"1 of 8 images left out: .*5\.png"):
        found = divided(str(tmp_path / "hr"), str(tmp_path / "lr"), None, None, holdout=0.25, seed=0)
    assert len(found.training) + len(found.held_out) == 7
    assert "5.png" not in {gt.name for _, gt in (*found.training, *found.held_out)}
    assert [Path(name).name for name in found.parts.left_out] == ["5.png"]


def test_data_of_several_scales_or_of_unequal_ones_is_no_mistake(tmp_path: Path):
    pairs(tmp_path / "mixed", 8)
    for n in range(4):
        write(tmp_path / "mixed" / "lr" / f"{n}.png", scene(12, 16, n))
    pairs(tmp_path / "stretched", 4)
    for n in range(4):
        write(tmp_path / "stretched" / "hr" / f"{n}.png", scene(72, 64, n))
    pairs(tmp_path / "odd sizes", 6, scale=3.3, size=(9, 13))
    pairs(tmp_path / "one", 1)
    write(tmp_path / "one" / "hr" / "0.png", scene(72, 64, 0))
    pairs(tmp_path / "flat", 5)
    for n in range(5):
        write(tmp_path / "flat" / "lr" / f"{n}.png", np.full((24, 32, 3), 0.5))
    pairs(tmp_path / "noisy", 6)
    for n in range(6):
        noisy = scene(24, 32, n) + np.random.default_rng(n).normal(0, 0.2, (24, 32, 3))
        write(tmp_path / "noisy" / "lr" / f"{n}.png", np.clip(noisy, 0, 1))
    for folder in tmp_path.iterdir():
        assert left_out(folder) == [], folder


def test_a_broken_picture_takes_its_partner_with_it(tmp_path: Path):
    pairs(tmp_path, 5)
    (tmp_path / "lr" / "1.png").write_bytes(b"")
    (tmp_path / "hr" / "3.png").write_bytes((tmp_path / "hr" / "3.png").read_bytes()[:99])
    assert left_out(tmp_path) == ["1.png", "3.png"]

    def fits(files: tuple[Path, Path], lq: tuple[int, int], gt: tuple[int, int]) -> None:
        assert (lq, gt) == ((24, 32), (48, 64))
        if files[0].name == "4.png":
            raise ValueError("does not fit")

    assert left_out(tmp_path, fits) == ["1.png", "3.png", "4.png"]


def test_broken_held_out_pictures_are_named_as_well(tmp_path: Path):
    for n in range(3):
        write(tmp_path / "data" / f"{n}.png", scene(20, 20, n))
        write(tmp_path / "test" / f"{n}.png", scene(20, 20, 10 + n))
    (tmp_path / "test" / "1.png").write_bytes(b"x")
    data, test = str(tmp_path / "data"), str(tmp_path / "test")
    with pytest.warns(LeftOut, match=r"1 of 3 images left out: .*1\.png"):
        found = divided(data, None, test, None, holdout=0.5, seed=0)
    assert [gt.name for _, gt in found.held_out] == ["0.png", "2.png"]
    assert len(found.training) == 3
    assert list(found.parts.left_out) == [str(tmp_path / "test" / "1.png")]
    for n in (0, 2):
        (tmp_path / "test" / f"{n}.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="no image is left to work with: 3 of 3"):
        divided(data, None, test, None, holdout=0.5, seed=0)


def test_a_run_that_goes_on_has_the_parts_it_began_with(tmp_path: Path):
    """Whatever came, went, or was renamed in the folder meanwhile; in the order it had."""
    for n in range(8):
        write(tmp_path / f"{n}.png", scene(20, 20, n))
    began = divided(str(tmp_path), None, None, None, holdout=0.25, seed=3)
    for n in range(3):
        write(tmp_path / f"0{n}.png", scene(20, 20, 20 + n))
    secret = began.held_out[0][1]
    secret.rename(secret.with_name("zz.png"))
    went = began.training[0][1]
    went.unlink()
    with pytest.warns(LeftOut) as said:
        on = divided(str(tmp_path), None, None, None, holdout=0.25, seed=3, before=began.parts)
    assert on.training == began.training[1:]
    assert {gt.name for _, gt in on.held_out} == {"zz.png", began.held_out[1][1].name}
    assert "3 of 10 images left out" in str(said[0].message)
    assert f"1 images that the run began with are gone: {went}" in str(said[1].message)
    with pytest.warns(LeftOut):
        grown = divided(str(tmp_path), None, None, None, holdout=0.25, seed=3, before=replace(began.parts, grows=True))
    assert {gt.name for _, gt in grown.held_out} == {"zz.png", began.held_out[1][1].name}
    assert len(grown.training) == len(on.training) + 3


@settings(max_examples=200, deadline=None)
@example([0, 1, 2, 3, *[4] * 20], 0.5, 0)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.floats(0.01, 0.9), st.integers(0, 5))
def test_a_share_of_every_class_is_held_out(kinds: list[int], share: float, seed: int):
    items = list(range(len(kinds)))
    kept, held_out = split(items, share, seed, kinds)
    assert sorted(kept + held_out) == items
    for kind in set(kinds):
        n, own = kinds.count(kind), sum(kinds[i] == kind for i in held_out)
        assert own == 0 if n == 1 else 1 <= own < n
        assert abs(own - share * n) <= 1
    assert split(items, share, seed, kinds) == (kept, held_out)
    if len(items) > 30 and 0.2 < share < 0.8:
        assert split(items, share, seed + 1, kinds)[1] != held_out


@pytest.mark.parametrize("seed", range(5))
def test_a_share_without_classes_is_of_all(seed: int):
    kept, held_out = split(range(40), 0.15, seed)
    assert (len(kept), len(held_out)) == (34, 6)
    assert held_out == sorted(np.random.default_rng((seed, 3)).permutation(40)[:6].tolist())


def test_which_are_held_out_depends_on_the_seed(tmp_path: Path):
    for n in range(12):
        write(tmp_path / f"{n:02d}.png", noise(8, 8, n))

    def held_out(seed: int) -> frozenset[str]:
        return frozenset(divided(str(tmp_path), None, None, None, holdout=0.25, seed=seed).parts.held_out)

    assert held_out(5) == held_out(5)
    assert len({held_out(seed) for seed in range(6)}) > 3
