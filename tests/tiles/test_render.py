"""What both image rooms share: hidden colours stay hidden, resolution follows, memory is asked first."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lorgnette import build
from lorgnette.images import About, Image, write_image
from lorgnette.images.pixels import seen_colours
from lorgnette.systems import restore, superres
from lorgnette.tiles.cache import TileCache
from lorgnette.train.task import Task

ROOMS = {"restore": restore, "superres": superres}


def tiny(module: ModuleType) -> Task:
    """A network that mixes neighbours."""
    task = build(module.tiny()[0])
    generator = torch.Generator().manual_seed(3)
    for name, parameter in task.named_parameters():
        if "lora" in name or "conv_last" in name or "imnet" in name:
            parameter.data = 0.03 * torch.randn(parameter.shape, generator=generator)
    return task


@pytest.fixture(scope="module", params=ROOMS)
def room(request: pytest.FixtureRequest) -> tuple[ModuleType, Task]:
    return ROOMS[request.param], tiny(ROOMS[request.param])


def cut_out(hidden: float | np.ndarray) -> Image:
    """A disc with a soft edge on a ground that nobody sees."""
    y, x = np.mgrid[:24, :30]
    alpha = np.clip((10 - np.hypot(y - 12, x - 15)) / 3, 0, 1).astype(np.float32)
    pixels = np.random.default_rng(0).random((24, 30, 3)).astype(np.float32) * 0.2 + 0.4
    return Image(np.where(alpha[..., None] > 0, pixels, hidden).astype(np.float32), alpha=alpha)


@pytest.mark.parametrize("cached", [False, True])
def test_hidden_colours_make_no_difference_to_what_is_seen(room: tuple[ModuleType, Task], cached: bool):
    module, task = room
    grounds = (0.0, 1.0, np.random.default_rng(1).random((24, 30, 3)))
    scales = (None, 1.0, 3.3, 0.4) if module is superres else (None,)
    for scale in scales:
        more = {"cache": TileCache()} if cached else {}
        made = [module.enhance(task, cut_out(ground), scale, **more) for ground in grounds]
        for other in made[1:]:
            np.testing.assert_array_equal(other.pixels, made[0].pixels)
            np.testing.assert_array_equal(other.alpha, made[0].alpha)


def test_opaque_pictures_are_what_they_were(room: tuple[ModuleType, Task]):
    module, task = room
    plain = Image(np.random.default_rng(0).random((20, 24, 3)).astype(np.float32))
    opaque = Image(plain.pixels, alpha=np.full((20, 24), 0.01, np.float32))  # hardly seen is seen
    np.testing.assert_array_equal(module.enhance(task, opaque).pixels, module.enhance(task, plain).pixels)
    assert seen_colours(plain.pixels, opaque.alpha) is plain.pixels
    nothing = np.zeros((20, 24), np.float32)
    assert seen_colours(plain.pixels, nothing) is plain.pixels


def test_a_hidden_colour_becomes_that_of_the_nearest_seen():
    alpha = np.zeros((5, 9), np.float32)
    alpha[2, 1], alpha[2, 7] = 1, 0.1
    pixels = np.zeros((5, 9, 3), np.float32)
    pixels[2, 1], pixels[2, 7] = (1, 0, 0), (0, 1, 0)
    found = seen_colours(pixels, alpha)
    assert (found[:, :4] == (1, 0, 0)).all()
    assert (found[:, 5:] == (0, 1, 0)).all()
    assert (pixels.sum(-1) > 0).sum() == 2  # what was handed in stays


def test_networks_learn_and_are_scored_without_them(tmp_path: Path):
    from lorgnette.images.patches import PixelCache

    levels = []
    for ground in (0.0, 1.0):
        write_image(tmp_path / "a.png", cut_out(ground))
        levels.append(PixelCache()(tmp_path / "a.png"))
    assert torch.equal(*levels)
    rows = []
    for ground in (0.0, 1.0):
        write_image(tmp_path / "a.png", cut_out(ground))
        rows.append(superres.evaluation({"it": tiny(superres)}, tmp_path, scales=(2,)))
    assert rows[0] == rows[1]


def test_a_scan_prints_as_large_as_before(room: tuple[ModuleType, Task]):
    module, task = room
    image = Image(np.zeros((20, 24, 3), np.float32), about=About(dpi=(300.0, 150.0)))
    assert module.enhance(task, image).about.dpi == ((600, 300) if module is superres else (300, 150))
    if module is superres:
        assert module.enhance(task, image, size=(50, 60)).about.dpi == (750, 375)
        assert module.enhance(task, image, 0.5).about.dpi == (150, 75)
        assert module.enhance(task, image, (2.0, 0.5)).about.dpi == (150, 300)


def test_memory_is_asked_before_the_work(room: tuple[ModuleType, Task], monkeypatch: pytest.MonkeyPatch):
    module, task = room
    monkeypatch.setattr("lorgnette.images.limits.free_memory", lambda: 1000)
    monkeypatch.setattr(task.model, "forward", None)  # no work
    with pytest.raises(ValueError, match=r"pixels do not work here: they need about .* of memory, and .* are free"):
        module.enhance(task, Image(np.zeros((20, 24, 3), np.float32)))
