"""What drawn scenes are drawn on: rectangles, smooth lines and text in units, at any number of pixels for each unit."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
from numpy.typing import NDArray

from lorgnette.images.typefaces import face

Pixels = NDArray[Any]
Colour = NDArray[np.float32]

_FINE = 4  # bits of a pixel's fraction in OpenCV's coordinates


class Canvas:
    """Where a scene is drawn: (H, W, 3) float32 in [0, 1].

    Args:
        size: height and width in units.
        pixels: (H, W) of the picture.
        subpixels: text is drawn with the three colours of a pixel side by side, as many screens do.
        faces: names of the typefaces that text is set in.
    """

    def __init__(self, size: tuple[int, int], pixels: tuple[int, int], subpixels: bool, faces: tuple[str, ...]):
        self.size, self.subpixels, self.faces = size, subpixels, faces
        self.unit = pixels[0] / size[0], pixels[1] / size[1]
        self.image = np.ones((*pixels, 3), np.float32)

    def at(self, y: float, x: float) -> tuple[float, float]:
        """Units as pixels, (y, x)."""
        return y * self.unit[0], x * self.unit[1]

    def box(self, y: float, x: float, height: float, width: float, colour: Colour) -> None:
        """A rectangle, whose edges lie between pixels."""
        (top, left), (bottom, right) = self.at(y, x), self.at(y + height, x + width)
        self.image[_pixels(top, bottom), _pixels(left, right)] = colour

    def frame(self, y: float, x: float, height: float, width: float, colour: Colour, thick: float = 1) -> None:
        """The four edges of a rectangle."""
        self.box(y, x, thick, width, colour)
        self.box(y + height - thick, x, thick, width, colour)
        self.box(y, x, height, thick, colour)
        self.box(y, x + width - thick, height, thick, colour)

    def line(self, points: Pixels, thick: float, colour: Colour, closed: bool = False) -> None:
        """A smooth line through (N, 2) points (y, x), `thick` in units; or the area within."""
        self._blend(self.covered(points, thick, closed), colour)

    def covered(self, points: Pixels, thick: float, closed: bool) -> Pixels:
        """How much of each pixel a line or an area covers, (H, W) in [0, 1]; see `line`."""
        fine = 4 if min(self.unit) < 3 else 2  # drawn larger and made smaller: the share of each pixel that is covered
        h, w = self.image.shape[:2]
        mask = np.zeros((h * fine, w * fine), np.uint8)
        corners = np.stack([points[:, 1] * self.unit[1], points[:, 0] * self.unit[0]], -1) * fine
        corners = ((corners - 0.5) * (1 << _FINE)).round().astype(np.int32)[None]
        if closed:
            cv2.fillPoly(mask, list(corners), 255, cv2.LINE_8, _FINE)
        else:
            width = max(1, round(thick * math.sqrt(self.unit[0] * self.unit[1]) * fine))
            cv2.polylines(mask, list(corners), False, 255, width, cv2.LINE_8, _FINE)
        return cv2.resize(mask, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32) / 255

    def _blend(self, mask: Pixels, colour: Colour) -> None:
        share = mask[..., None] if mask.ndim == 2 else mask
        self.image += share * (colour - self.image)

    def text(self, y: float, x: float, words: str, height: float, which: int, colour: Colour) -> None:
        """Words, each starting at a whole pixel; `height` in units is the size of the type."""
        name = self.faces[which % len(self.faces)]
        for word in words.split(" "):
            self._word(y, x, word, height, name, colour)
            x += _advance(name, word + " ") * height

    def _word(self, y: float, x: float, word: str, height: float, name: str, colour: Colour) -> None:
        top, left = map(round, self.at(y, x))
        size = height * self.unit[0]
        mask = _letters(name, word, round(size * 4) / 4, self.subpixels)
        if not mask.size:
            return
        h, w = self.image.shape[:2]
        rows, columns = slice(max(top, 0), min(top + len(mask), h)), slice(max(left, 0), min(left + mask.shape[1], w))
        if rows.start < rows.stop and columns.start < columns.stop:
            seen = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            self.image[rows, columns] += seen * (colour - self.image[rows, columns])


def _pixels(start: float, stop: float) -> slice:
    """Whole pixels between two places, at least one, not before the first."""
    first = round(start)
    return slice(max(0, first), max(0, first + 1, round(stop)))


@lru_cache(4096)
def _advance(name: str, word: str) -> float:
    """Width of a word in multiples of the size of the type, the same at every size."""
    return face(name, 100).getlength(word) / 100


@lru_cache(4096)
def _letters(name: str, word: str, size: float, subpixels: bool) -> Pixels:
    """How much a word covers of each pixel, (h, w, 3) in [0, 1]; rows count from the top of the line."""
    if not subpixels:
        return np.repeat(_mask(name, word, size)[..., None], 3, -1)
    fine = _mask(name, word, 3 * size)  # three times as large, then three rows into one: thirds of a pixel side by side
    fine = np.pad(fine, ((0, -len(fine) % 3), (3, 3 + -fine.shape[1] % 3)))
    thirds = fine.reshape(-1, 3, fine.shape[1]).mean(1)
    thirds = cv2.filter2D(thirds, -1, np.array([[1, 2, 3, 2, 1]], np.float32) / 9)  # FreeType's way against fringes
    return thirds.reshape(len(thirds), -1, 3)[:, 1:]


def _mask(name: str, word: str, size: float) -> Pixels:
    font = face(name, size)
    box = font.getbbox(word)
    if box[2] <= box[0] or box[3] <= 0:
        return np.zeros((0, 0), np.float32)
    plane = PIL.Image.new("L", (math.ceil(box[2]) + 1, math.ceil(box[3]) + 1))
    PIL.ImageDraw.Draw(plane).text((0, 0), word, fill=255, font=font)
    return np.asarray(plane, np.float32) / 255
