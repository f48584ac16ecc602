"""Pictures of many kinds: each is what it is called, and its truth fits it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL.Image
import pytest
from tests.benchmarks.scripts import imported

from lorgnette.images import ImageError, write_image
from lorgnette.images.file import Image
from lorgnette.images.resize import imresize

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return imported("twenty_pictures")


@pytest.fixture
def maker(script: ModuleType, tmp_path: Path):
    """Photographs are squares of many colours."""
    photo = np.random.default_rng(0).random((16, 23, 3)).astype(np.float32).repeat(25, 0).repeat(25, 1)
    return importlib.import_module("parts.own_pictures").Maker(tmp_path, lambda name: photo)


def test_there_are_more_than_twenty(script: ModuleType):
    assert len(script.KINDS) >= 20


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("portrait, turned", "RGB"),
        ("scan, 1 bit", "1"),
        ("fax", "1"),
        ("logo, transparent", "RGBA"),
        ("logo, palette", "P"),
        ("CMYK JPEG", "CMYK"),
        ("microscope counts", "I;16"),
        ("GIF animation", "P"),
        ("grey and alpha", "LA"),
        ("icon 24x24", "RGB"),
        ("saved three times", "RGB"),
    ],
)
def test_a_kind_is_what_it_is_called(kind: str, mode: str, script: ModuleType, maker):
    given = script.KINDS[kind](maker)
    with PIL.Image.open(given.file) as file:
        assert file.mode == mode
        assert getattr(file, "n_frames", 1) == (3 if "GIF" in kind else 1)
        assert (file.getexif().get(0x0112, 1) == 6) == ("turned" in kind)
    image = script.opened(given.file)
    height, width = image.pixels.shape[:2]
    assert given.large is None or given.large.shape == (2 * height, 2 * width, 3)
    assert given.same is None or given.same.shape == (height, width, 3)
    if given.same is not None:  # they show the same
        peak = float(given.same.max()) if image.bits > 8 else 1
        assert script.decibels(image.pixels, given.same, peak) > 15


def test_holes_are_refused(script: ModuleType, maker):
    given = script.KINDS["floats with holes"](maker)
    with pytest.raises(ImageError, match="no numbers"):
        script.opened(given.file)


def test_letters_stand_at_the_same_places_in_all_sizes(script: ModuleType):
    own = importlib.import_module("parts.own_pictures")
    for draw in (own.window, own.page, own.streets, own.cartoon):
        assert np.abs(own.halved(draw(2)) - draw(1)).max() < 1 / 255


def test_gains_are_over_bicubic_and_over_the_picture_itself(script: ModuleType, maker, tmp_path: Path):
    given = script.KINDS["sound PNG"](maker)
    before = script.opened(given.file).pixels
    plain = imresize(np.ascontiguousarray(before.transpose(2, 0, 1)), scale=2).transpose(1, 2, 0)
    write_image(tmp_path / "plain.tif", Image(plain.clip(0, 1), bits=16))
    assert abs(script.gain(given.file, tmp_path / "plain.tif", given.large)) < 0.01
    write_image(tmp_path / "best.tif", Image(given.large, bits=16))
    assert script.gain(given.file, tmp_path / "best.tif", given.large) > 3
    assert script.gain(given.file, given.file, given.same) == 0
    assert script.gain(given.file, tmp_path / "no.png", given.large) is None
    with pytest.raises(ValueError, match="not the size of the truth"):
        script.gain(given.file, given.file, given.large)
