"""The picture grid of an evaluation, and its tables in Markdown."""

from __future__ import annotations

import numpy as np

from lorgnette.report.gallery import Gallery
from lorgnette.report.grid import LABEL, MARGIN, labelled_grid
from lorgnette.report.scores import markdown


def pictures(value: int, h: int = 40, w: int = 50) -> dict[str, np.ndarray]:
    """The truth has its edges at the right bottom; methods have their own colour there."""
    truth = np.zeros((h, w, 3), np.uint8)
    truth[24:, 30:] = np.indices((h - 24, w - 30)).sum(0)[..., None] % 2 * 255
    return {"one": np.full_like(truth, value), "truth": truth}


def test_each_label_shows_another_picture_where_there_is_one():
    gallery = Gallery(side=16)
    for number, name in enumerate("ab"):
        for label in ("x2", "x3", "x4"):
            gallery.add(label, name, pictures(10 * number))
    assert {label: name for label, (name, _) in gallery.shown.items()} == {"x2": "b", "x3": "a", "x4": "a"}
    squares = gallery.shown["x2"][1]
    assert {name: square.shape for name, square in squares.items()} == {"one": (16, 16, 3), "truth": (16, 16, 3)}
    assert (squares["one"] == 10).all()
    assert squares["truth"].any(), "the busiest square is not where the picture is flat"


def test_a_gallery_has_as_many_rows_as_it_may_and_takes_small_pictures():
    gallery = Gallery(side=64, most=2)
    for label in ("x2", "x3", "x4"):
        gallery.add(label, "a", pictures(7))
    assert list(gallery.shown) == ["x2", "x3"]
    square = gallery.shown["x2"][1]["one"]
    assert square.shape == (64, 64, 3)
    assert (square[:40, :40] == 7).all()
    assert (square[40:] == 255).all()
    assert gallery.grid(enlarge=1).shape[1] == MARGIN + 2 * (64 + MARGIN)


def test_captions_stand_above_rows_and_pictures_where_they_were():
    rows = [{"a": np.full((20, 30, 3), 9, np.uint8)}] * 2
    plain, captioned = labelled_grid(rows), labelled_grid(rows, captions=["first", "second"])
    assert plain.shape == (LABEL + 2 * (20 + MARGIN), 30 + 2 * MARGIN, 3)
    assert captioned.shape[0] == LABEL + 2 * (20 + LABEL)
    tops = [int(row) for row in np.flatnonzero((captioned[:, MARGIN] == 9).all(-1))]
    first = 2 * LABEL - MARGIN
    assert tops == [*range(first, first + 20), *range(first + 20 + LABEL, first + 40 + LABEL)]
    between = captioned[first + 20 : first + 20 + LABEL]
    assert between.min() < 60, "a caption is written between the rows"


def test_markdown_puts_psnr_and_ssim_of_a_label_into_one_cell():
    rows = {
        "bicubic": {"psnr_x2": 33.684, "ssim_x2": 0.93052, "psnr_x3": 30.4},
        "base": {"psnr_x2": 38.016, "ssim_x2": 0.96071, "speed": 12.0},
    }
    assert markdown(rows).splitlines() == [
        "| method | x2 (PSNR / SSIM) | x3 | speed |",
        "| --- | --- | --- | --- |",
        "| bicubic | 33.68 / 0.9305 | 30.40 | - |",
        "| base | 38.02 / 0.9607 | - | 12.00 |",
    ]
    assert markdown({"a": {"accuracy": 0.5, "top_1": 1.0}}).splitlines()[0] == "| method | accuracy | top_1 |"
