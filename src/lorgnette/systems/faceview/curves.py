"""Plots of scores, drawn without a plotting library."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from lorgnette.systems.faceview.scores import BUCKETS, Trials

WIDTH, HEIGHT, MARGIN = 480, 320, 44
COLOURS = ((90, 90, 90), (200, 80, 30), (30, 110, 200), (40, 140, 60), (140, 60, 160))
Picture = NDArray[np.uint8]


class Axes:
    """A white picture with axes; x and y in the units of the data."""

    def __init__(self, title: str, x: tuple[float, float], y: tuple[float, float], xlabel: str):
        self.x, self.y = x, y
        self.pixels: Picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        cv2.rectangle(self.pixels, (MARGIN, MARGIN), (WIDTH - 12, HEIGHT - MARGIN), (210, 210, 210))
        self.text(title, MARGIN, 18)
        self.text(xlabel, WIDTH // 2 - 4 * len(xlabel), HEIGHT - 8)
        for value in np.linspace(*x, 5):
            self.text(f"{value:.3g}", self.at(value, y[0])[0] - 12, HEIGHT - MARGIN + 16)
        for value in np.linspace(*y, 5):
            self.text(f"{value:.2g}", 6, self.at(x[0], value)[1] + 4)

    def text(self, words: str, x: int, y: int, colour: tuple[int, int, int] = (30, 30, 30)) -> None:
        cv2.putText(self.pixels, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)

    def at(self, x: float, y: float) -> tuple[int, int]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return round(MARGIN + across * (WIDTH - 12 - MARGIN)), round(HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN))

    def line(self, x: NDArray[np.floating], y: NDArray[np.floating], row: int, name: str) -> None:
        """One curve, and its name in the corner."""
        points = np.array([self.at(a, b) for a, b in zip(x, y, strict=True)], np.int32)
        cv2.polylines(self.pixels, [points], False, COLOURS[row % len(COLOURS)], 1, cv2.LINE_AA)
        self.text(name, MARGIN + 8, MARGIN + 16 + 14 * row, COLOURS[row % len(COLOURS)])

    def band(self, x: NDArray[np.floating], low: NDArray[np.floating], high: NDArray[np.floating], row: int) -> None:
        """What lies between two curves, light."""
        around = [self.at(a, b) for a, b in zip(x, low, strict=True)]
        around += [self.at(a, b) for a, b in zip(x[::-1], high[::-1], strict=True)]
        layer = self.pixels.copy()
        cv2.fillPoly(layer, [np.array(around, np.int32)], COLOURS[row % len(COLOURS)])
        self.pixels = cv2.addWeighted(layer, 0.15, self.pixels, 0.85, 0).astype(np.uint8)


def similarity_picture(rows: Mapping[str, Trials]) -> Picture:
    """Cosines with the right person against |yaw|: the median and the middle half of each range."""
    axes = Axes("cosine with the right person, middle half", (0, 90), (-0.2, 1), "|yaw| in degrees")
    for row, (name, found) in enumerate(rows.items()):
        places, quarters = [], []
        for low, high in BUCKETS:
            part = found.turned(low, high).genuine
            if len(part):
                places.append((low + min(high, 90)) / 2)
                quarters.append(np.quantile(part, [0.25, 0.5, 0.75]).clip(-0.2, 1))
        x, (first, middle, third) = np.array(places), np.array(quarters).T
        axes.band(x, first, third, row)
        axes.line(x, middle, row, name)
    return axes.pixels


def roc_picture(rows: Mapping[str, Trials]) -> Picture:
    """True against false acceptance, the latter on a logarithmic axis."""
    axes = Axes("true acceptance", (-4, 0), (0, 1), "log10 of false acceptance")
    fars = np.logspace(-4, 0, 60)
    for row, (name, found) in enumerate(rows.items()):
        impostor, genuine = np.sort(found.impostor, axis=None)[::-1], np.sort(found.genuine)
        limits = impostor[np.minimum((fars * len(impostor)).astype(int), len(impostor) - 1)]
        axes.line(np.log10(fars), 1 - np.searchsorted(genuine, limits, "right") / len(genuine), row, name)
    return axes.pixels


def histogram_picture(found: Trials) -> Picture:
    """Cosines with the right person and with others, as shares."""
    axes = Axes("share of comparisons", (-0.4, 1), (0, 0.5), "cosine")
    edges = np.linspace(-0.4, 1, 36)
    for row, (name, values) in enumerate({"others": found.impostor, "right person": found.genuine}.items()):
        counts = np.histogram(values, edges)[0] / values.size
        axes.line((edges[1:] + edges[:-1]) / 2, counts.clip(max=0.5), row, name)
    return axes.pixels
