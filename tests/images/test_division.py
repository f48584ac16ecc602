"""What is learnt from, what is held out, and what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lorgnette.images.division import divided
from lorgnette.images.file import Image, write_image


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
