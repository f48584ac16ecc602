"""Too little memory: smaller tiles, said once, for the picture at hand and those after it."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tests.video.clips import make_clip, scene
from tests.video.tasks import tiny_task

from lorgnette.images.file import Image
from lorgnette.systems import restore, superres
from lorgnette.systems.restore.model import MambaIR
from lorgnette.systems.superres.model import LMLTE
from lorgnette.tiles.cache import TileCache
from lorgnette.tiles.memory import SmallerTiles
from lorgnette.train.task import Task
from lorgnette.video.enhance import enhance_video

ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    MemoryError(),
)


def limited(monkeypatch: pytest.MonkeyPatch, side: int, error: Exception = ERRORS[0]) -> list[int]:
    """Crops with a longer side than this do not fit; returns the sides of those that did."""
    seen: list[int] = []
    for network, name in ((LMLTE, "render_window"), (MambaIR, "forward")):
        real = getattr(network, name)

        def within(self, crop, *more, _real=real, **named):
            if max(crop.shape[-2:]) > side:
                raise error
            seen.append(max(crop.shape[-2:]))
            return _real(self, crop, *more, **named)

        monkeypatch.setattr(network, name, within)
    return seen


def picture(side: int = 96) -> Image:
    return Image(scene(1, (side, side))[0].astype(np.float32) / 255)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_tiles_become_smaller_until_they_fit(error: Exception, monkeypatch: pytest.MonkeyPatch):
    task = tiny_task(superres)
    whole = superres.enhance(task, picture(), scale=2)
    seen = limited(monkeypatch, 80, error)
    with pytest.warns(SmallerTiles, match="out of memory with tiles of 96 pixels: 48 from here on"):
        tiled = superres.enhance(task, picture(), scale=2)
    np.testing.assert_allclose(tiled.pixels, whole.pixels, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        superres.enhance(task, picture(), scale=2)  # the next picture begins there
    assert max(seen) <= 80


@pytest.mark.parametrize("module", [superres, restore], ids=["superres", "restore"])
@pytest.mark.parametrize("mode", [None, "near"])
def test_both_rooms_with_and_without_a_cache(module: ModuleType, mode: str | None, monkeypatch: pytest.MonkeyPatch):
    task = tiny_task(module)
    limited(monkeypatch, 112)
    cache = None if mode is None else TileCache(mode="near")
    with pytest.warns(SmallerTiles):
        out = module.enhance(task, picture(128), cache=cache)
    assert out.pixels.shape[0] in (128, 256)


def test_too_little_for_any_tile_is_one_line(monkeypatch: pytest.MonkeyPatch):
    task = tiny_task(superres)
    limited(monkeypatch, 8)
    with pytest.warns(SmallerTiles), pytest.raises(ValueError, match="even with tiles of 16 pixels"):
        superres.enhance(task, picture(), scale=2)


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch):
    limited(monkeypatch, 8, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        superres.enhance(tiny_task(superres), picture(), scale=2)


def test_clips_go_on_with_smaller_tiles(cleaner: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = make_clip(tmp_path / "in.mp4", scene(2, (56, 64)))
    limited(monkeypatch, 50)
    with pytest.warns(SmallerTiles) as said:
        done = enhance_video(cleaner, source, tmp_path / "out.mp4", halo=4)
    assert done.frames == 2
    assert [str(warning.message) for warning in said] == ["out of memory with tiles of 64 pixels: 32 from here on"]
