"""Labelled grids and the choice of a crop."""

from __future__ import annotations

import numpy as np

from lorgnette.report.grid import LABEL, MARGIN, busiest, labelled_grid


def test_each_picture_stands_in_its_place():
    colours = np.arange(1, 7, dtype=np.uint8) * 40
    tiles = [np.full((5, 7, 3), colour) for colour in colours]
    rows = [dict(zip("abc", tiles[:3], strict=True)), dict(zip("abc", tiles[3:], strict=True))]
    grid = labelled_grid(rows, enlarge=2)
    assert grid.shape == (LABEL + 2 * (10 + MARGIN), MARGIN + 3 * (14 + MARGIN), 3)
    for number, colour in enumerate(colours):
        row, column = divmod(number, 3)
        top, left = LABEL + row * (10 + MARGIN), MARGIN + column * (14 + MARGIN)
        assert (grid[top : top + 10, left : left + 14] == colour).all()
    assert (grid[:LABEL] < 255).any()  # the labels


def test_the_busiest_part_is_found():
    image = np.zeros((100, 120, 3), np.uint8)
    image[64:96, 40:72] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    assert busiest(image, 32) == (64, 40)
    assert busiest(image[:20, :20], 32) == (0, 0)  # smaller than the part asked for
