"""Decoded pixels, crops, and which pictures are held out."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch

from lorgnette.common.store import ENTRY
from lorgnette.images.file import Image, write_image
from lorgnette.images.patches import PixelCache, random_crop, shrink, unit


def noise(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((h, w, 3), dtype=np.float32)


def write(path: Path, pixels: np.ndarray, bits: int = 8) -> Path:
    write_image(path, Image(pixels, bits=bits))
    return path


def test_the_cache_keeps_to_its_bytes_and_stays_at_home(tmp_path: Path):
    files = [write(tmp_path / f"{k}.png", noise(10, 10, k), bits=8) for k in range(4)]
    cache = PixelCache(max_bytes=2 * (300 + ENTRY))  # two images
    first = cache(files[0])
    assert cache(files[0]) is first
    for file in (files[1], files[0], files[2]):
        cache(file)
    assert cache.store.bytes == cache.store.max_bytes
    assert cache(files[0]) is first
    assert cache.store.get(files[1]) is None  # the least recently used
    sent = pickle.loads(pickle.dumps(cache))
    assert (sent.store.bytes, len(sent.store), sent.store.max_bytes) == (0, 0, cache.store.max_bytes)
    assert torch.equal(sent(files[3]), cache(files[3]))


def test_low_resolution_is_rounded_as_files_are():
    small = shrink(torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0)), (5, 7))
    assert small.shape == (3, 5, 7)
    torch.testing.assert_close(small * 255, (small * 255).round())
    assert 0 <= small.min() <= small.max() <= 1
    assert unit(torch.tensor([65535], dtype=torch.uint16)).item() == unit(torch.tensor([255], dtype=torch.uint8)).item()


def test_crops_come_from_everywhere_and_are_turned_if_asked():
    levels = torch.arange(12, dtype=torch.uint8).view(1, 3, 4)
    crops = [random_crop(np.random.default_rng(seed), levels, 2, augment=False) for seed in range(40)]
    assert {round(crop[0, 0, 0].item() * 255) for crop in crops} == {0, 1, 2, 4, 5, 6}
    assert all(torch.allclose(crop.diff(dim=2) * 255, torch.ones(1, 2, 1)) for crop in crops)
    squares = [random_crop(np.random.default_rng(seed), levels, 2, augment=True)[0] for seed in range(40)]
    turned = {tuple((square * 255).round().diff(dim=1)[:, 0].tolist()) for square in squares}
    assert turned == {(1.0, 1.0), (-1.0, -1.0), (4.0, 4.0), (-4.0, -4.0)}
    assert random_crop(np.random.default_rng(0), levels, 5, augment=False).shape == (1, 5, 5)
