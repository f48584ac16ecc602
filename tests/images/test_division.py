"""What is learnt from, what is held out, and what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.images.division import divided
from lorgnette.images.file import Image, write_image
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


@settings(max_examples=60, deadline=None)
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
