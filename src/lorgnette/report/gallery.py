"""A picture grid of several methods, gathered while they are scored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lorgnette.report.grid import busiest, labelled_grid

Pictures = Mapping[str, NDArray[np.uint8]]


class Gallery:
    """Keeps, for each label such as x4, the busiest square of one picture by every method.

    Each label shows another picture, as long as there are others.

    Args:
        side: of the squares, in pixels.
        most: labels that are shown; the first ones.
    """

    def __init__(self, side: int = 112, most: int = 8):
        self.side, self.most = side, most
        self.shown: dict[str, tuple[str, dict[str, NDArray[np.uint8]]]] = {}

    def add(self, label: str, name: str, pictures: Pictures) -> None:
        """Take a picture, or leave it.

        Args:
            label: what was done to it.
            name: of the picture.
            pictures: by method, (H, W, 3) each of one size; the last is the truth.
        """
        taken = {file for other, (file, _) in self.shown.items() if other != label}
        better = label in self.shown and self.shown[label][0] in taken and name not in taken
        if not better and (label in self.shown or len(self.shown) == self.most):
            return
        *_, truth = pictures.values()
        side = min(self.side, *truth.shape[:2])
        top, left = busiest(truth, side)
        # A picture smaller than the squares is padded with white.
        more = [(0, self.side - side), (0, self.side - side), (0, 0)]
        squares = {
            method: np.pad(pixels[top : top + side, left : left + side], more, constant_values=255)
            for method, pixels in pictures.items()
        }
        self.shown[label] = name, squares

    def grid(self, enlarge: int = 2) -> NDArray[np.uint8]:
        """(H, W, 3): a row for each label, whose picture and label stand above its first column."""
        rows = [squares for _, squares in self.shown.values()]
        return labelled_grid(rows, enlarge, [f"{name}, {label}" for label, (name, _) in self.shown.items()])
