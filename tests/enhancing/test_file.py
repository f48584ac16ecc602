"""One file into another: what is not changed is copied, and each page of several is told."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from lorgnette.enhancing.enhancer import Chosen
from lorgnette.enhancing.file import How, enhance_file
from lorgnette.images.choosing import BASE, NOTHING, Choice
from lorgnette.images.errors import ImageWarning
from lorgnette.images.file import Image, read_image, write_images
from lorgnette.systems import room


class Chooser:
    """Chooses nothing for what is grey, and else a network that makes everything darker."""

    of = "restore"

    def choose(self, pixels: Any, scale: float | None = None) -> Choice:
        name = NOTHING if np.ptp(pixels, -1).max() == 0 else BASE
        return Choice(name, {NOTHING: 0.0, BASE: -1.0 if name == NOTHING else 1.0}, {})

    def enhance_by(self, choice: Choice, image: Image, progress: Any = iter, **settings: Any) -> Image:
        home: Any = room(self.of)
        plain = home.plain(image, settings.get("scale"), settings.get("size"))
        return plain if choice.network is None else replace(plain, pixels=plain.pixels * np.float32(0.5))


def done(source: Path, target: Path, how: How | None = None) -> tuple[Chosen, list[str]]:
    """What enhanced it, and what was said of the file."""
    enhancer = Chosen(Chooser())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ImageWarning)
        enhance_file(source, target, enhancer, how or How())
    return enhancer, [str(one.message) for one in caught]


def grey(path: Path, mode: str = "L", **save: Any) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    PIL.Image.fromarray(values).convert(mode).save(path, **save)
    return path


@pytest.mark.parametrize(
    ("name", "mode", "save"),
    [
        ("a.jpg", "L", {"quality": 40, "comment": b"of mine"}),
        ("a.jpg", "CMYK", {"quality": 40}),
        ("a.png", "P", {}),
        ("a.webp", "RGB", {"lossless": True}),
        ("a.tif", "1", {"compression": "group4"}),
    ],
)
def test_what_is_not_changed_is_copied_and_that_is_said(name: str, mode: str, save: dict[str, Any], tmp_path: Path):
    source, target = grey(tmp_path / name, mode, **save), tmp_path / f"out{Path(name).suffix}"
    if mode == "CMYK":
        PIL.Image.new("CMYK", (30, 40), (0, 0, 0, 90)).save(source, **save)
    if mode == "P":  # a palette of greys
        PIL.Image.open(source).convert("L").quantize(16).save(source)
    _, said = done(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert said == [f"{target}: nothing is changed, so it is a copy"]


def test_all_pages_of_a_document_are_copied(tmp_path: Path):
    pages = [PIL.Image.open(grey(tmp_path / f"{n}.png")).convert("1") for n in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="group4")
    enhancer, _ = done(tmp_path / "a.tif", tmp_path / "out.tif")
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "a.tif").read_bytes()
    assert enhancer.said(tmp_path / "a.tif") == ["of 3 pages: nothing 3"]


@pytest.mark.parametrize(
    ("target", "how"),
    [
        ("out.png", How()),
        ("out.jpg", How(quality=50)),
        ("out.jpg", How(scale=0.5)),
        ("out.jpg", How(size=(40, 40), shape="pad")),
    ],
)
def test_another_format_quality_or_size_is_written_anew(target: str, how: How, tmp_path: Path):
    source = grey(tmp_path / "a.jpg", quality=90)
    _, said = done(source, tmp_path / target, how)
    assert (tmp_path / target).read_bytes() != source.read_bytes()
    assert said == []


def test_what_a_file_holds_counts_not_its_suffix(tmp_path: Path):
    grey(tmp_path / "a.png").rename(tmp_path / "a.jpg")
    done(tmp_path / "a.jpg", tmp_path / "out.jpg")
    assert (tmp_path / "out.jpg").read_bytes().startswith(b"\xff\xd8\xff")


def test_a_range_that_changes_nothing_leaves_counts_as_they_are(tmp_path: Path):
    counted = np.random.default_rng(0).integers(0, 1600, (40, 30), dtype=np.uint16)
    write_images(tmp_path / "a.tif", [Image(np.repeat(counted[..., None], 3, -1), grey=True, bits=16)])
    done(tmp_path / "a.tif", tmp_path / "out.tif")
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "a.tif").read_bytes()
    PIL.Image.open(tmp_path / "a.tif").save(tmp_path / "b.png")
    done(tmp_path / "a.tif", tmp_path / "c.png")
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "c.png")), counted)


def test_each_page_is_told_and_one_that_changes_makes_a_new_file(tmp_path: Path):
    rng = np.random.default_rng(0)
    colour, plain = rng.random((40, 30, 3)).astype(np.float32), np.full((40, 30, 3), 0.5, np.float32)
    write_images(tmp_path / "a.tif", [Image(plain), Image(colour), Image(plain)])
    enhancer, said = done(tmp_path / "a.tif", tmp_path / "out.tif")
    assert enhancer.said(tmp_path / "a.tif") == ["of 3 pages: nothing 2, base 1"]
    told = enhancer.choices()[str(tmp_path / "a.tif")]
    assert [page["chosen"] for page in told["pages"]] == ["nothing", "base", "nothing"]
    assert said == []
    after = [read_image(tmp_path / "out.tif", number=n).pixels for n in range(3)]
    assert np.abs(after[1] - colour / 2).max() < 1 / 255
    assert np.abs(after[2] - plain).max() < 1 / 255


def test_files_and_pages_count_alike_in_a_folder(tmp_path: Path):
    write_images(tmp_path / "a.tif", [Image(np.zeros((20, 20, 3), np.float32))] * 2)
    enhancer, _ = done(tmp_path / "a.tif", tmp_path / "out.tif")
    enhance_file(grey(tmp_path / "b.png"), tmp_path / "c.png", enhancer, How(quality=90))
    assert enhancer.said(tmp_path / "a.tif", tmp_path / "b.png", tmp_path / "z.png") == ["nothing 3"]
    assert enhancer.said(tmp_path / "b.png") == ["no network: none is expected to help"]
    assert "pages" not in enhancer.choices()[str(tmp_path / "b.png")]
