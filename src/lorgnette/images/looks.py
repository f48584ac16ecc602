"""What a picture looks like, in a few measures: noise, blocks, edges, colours. Needs no torch.

Only parts of a large picture are looked at, so that it takes milliseconds whatever the size.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

WINDOW, WINDOWS = 128, 3  # a large picture is seen through 3 x 3 windows of this side
BLOCK = 8  # of JPEG
FLAT = 4  # levels of 255 that JPEG leaves between the darkest and the brightest of one colour
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_HIGH = (
    np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
)  # Immerkaer, CVIU 64(2), 1996: flat, slopes -> 0

MEASURES = (
    "noise", "noise in colours", "noise where it is flat", "its grain", "its grain in colours",
    "blocks", "equal neighbours", "colours", "dark", "bright", "mean", "contrast", "saturation", "grey",
    "rare edges", "fine detail", "middle detail", "steepness", "overshoot",
    "noise that grows with light", "whole levels",
)  # fmt: skip
"""Names of what `looks` gives."""


def looks(pixels: Pixels) -> NDArray[np.float32]:
    """The measures of a picture.

    Args:
        pixels: (H, W, 3) in [0, 1].

    Returns:
        One number for each of `MEASURES`, roughly between -5 and 5; a grain is up to 2,550, where noise is hardly seen.
    """
    windows = _windows(pixels)  # of which borders and blank paper tell nothing
    telling = [part for part in windows if np.ptp(part, axis=(0, 1)).max() > FLAT]
    parts = [_look(part) for part in telling or windows]
    return np.median(np.stack(parts), 0).astype(np.float32)


def _windows(pixels: Pixels) -> list[Pixels]:
    """Parts whose corners lie at multiples of a block, of at least two blocks a side."""
    if max(pixels.shape[:2]) > 2 * WINDOW:
        pixels = _within_border(pixels)
    missing = [max(0, 2 * BLOCK - n) for n in pixels.shape[:2]]
    if any(missing):
        pixels = np.pad(pixels, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
    starts = []
    for n in pixels.shape[:2]:
        if n <= 2 * WINDOW:
            starts.append([(0, n)])
        else:
            places = np.linspace(0, n - WINDOW, WINDOWS).astype(int) // BLOCK * BLOCK
            starts.append([(int(start), WINDOW) for start in places])
    return [
        np.ascontiguousarray(pixels[y : y + h, x : x + w], np.float32) * 255 for y, h in starts[0] for x, w in starts[1]
    ]


def _within_border(pixels: Pixels) -> Pixels:
    """A picture without a border of one colour, that of its corner, and without the blocks on the border's edge, which
    would be the strongest of all."""
    step = max(1, min(pixels.shape[:2]) // (2 * WINDOW))
    inner = (np.abs(pixels[::step, ::step] - pixels[0, 0]) * 255 > FLAT).any(-1)
    box = []
    for n, found in zip(pixels.shape[:2], (np.flatnonzero(inner.any(axis)) * step for axis in (1, 0)), strict=True):
        start, last = (int(found[0]), int(found[-1])) if len(found) else (0, n)
        start, end = (start // BLOCK + 1) * BLOCK if start else 0, last // BLOCK * BLOCK if last + step < n else n
        box.append(slice(start, end) if end - start > 2 * BLOCK else slice(n))
    return pixels[box[0], box[1]]


def _look(levels: Pixels) -> list[float]:
    """The measures of a part in levels of 255; see `MEASURES` for the order."""
    luma = levels @ _LUMA
    colours = levels[..., [2, 0]] - luma[..., None]
    high, high_colours = _high(luma), np.stack([_high(colours[..., k]) for k in (0, 1)], -1)
    noise, noise_colours = _robust(high), _robust(high_colours)
    half, half_colours = _halved(luma), _halved(colours)
    grain = _robust(_high(half)) / (noise + 0.1)
    grain_colours = _robust(np.stack([_high(half_colours[..., k]) for k in (0, 1)], -1)) / (noise_colours + 0.1)
    spread, light = _in_blocks(np.abs(high)), _in_blocks(luma)
    flat = float(np.quantile(spread, 0.1))
    calm = spread <= np.quantile(spread, 0.6)
    equal = (levels[:, 1:] == levels[:, :-1]).all(-1).mean()
    packed = (levels.round().astype(np.int32) * (1, 256, 65536)).sum(-1)
    least, most = (float(np.quantile(luma, q)) for q in (0.01, 0.99))
    step_y, step_x = (np.diff(luma, axis=axis) for axis in (0, 1))
    slope = np.hypot(step_y[:, :-1], step_x[:-1])
    squares = float((slope**2).mean()) + 1e-3
    blurred, more = (cv2.GaussianBlur(luma, (0, 0), sigma) for sigma in (1, 2))
    fine, middle = float((luma - blurred).var()), float((blurred - more).var())
    return [
        _log(noise),
        _log(noise_colours),
        _log(flat),
        grain,
        grain_colours,
        _blocks(step_x) + _blocks(step_y.T),
        4 * float(equal),
        math.log(len(np.unique(packed)) / packed.size) + 3,
        least / 64 - 1,
        most / 64 - 2,
        float(luma.mean()) / 64 - 2,
        _log(float(luma.std())),
        _log(float((levels.max(-1) - levels.min(-1)).mean())),
        float(np.abs(high_colours).max() < 1e-3),
        math.log(float((slope**4).mean() + 1e-3) / squares**2) / 2,
        math.log((fine + 0.01) / (middle + 0.01)),
        _log(middle),
        *_edges(luma, slope),
        _together(spread[calm], light[calm]),
        float((np.abs(levels - levels.round()) < 1e-3).mean()),
    ]


def _log(value: float) -> float:
    return math.log(value + 0.05)


def _high(plane: Pixels) -> Pixels:
    return cv2.filter2D(plane, -1, _HIGH, borderType=cv2.BORDER_REFLECT_101)


def _robust(values: Pixels) -> float:
    """Deviation by the median, which edges hardly move."""
    return float(np.median(np.abs(values))) / 0.6745


def _halved(planes: Pixels) -> Pixels:
    h, w = (n // 2 * 2 for n in planes.shape[:2])
    return (planes[:h:2, :w:2] + planes[1:h:2, :w:2] + planes[:h:2, 1:w:2] + planes[1:h:2, 1:w:2]) / 2


def _in_blocks(plane: Pixels) -> Pixels:
    """Mean of each block."""
    h, w = (max(BLOCK, n // BLOCK * BLOCK) for n in plane.shape)
    plane = np.pad(plane, [(0, max(0, h - plane.shape[0])), (0, max(0, w - plane.shape[1]))], mode="edge")[:h, :w]
    return plane.reshape(h // BLOCK, BLOCK, w // BLOCK, BLOCK).mean((1, 3)).ravel()


def _blocks(steps: Pixels) -> float:
    """How much larger steps are at every eighth column than at the others, wherever the first lies."""
    second = np.abs(np.diff(steps, axis=1)).mean(0)
    if len(second) < 2 * BLOCK:
        return 0.0
    found = np.array([second[start::BLOCK].mean() for start in range(BLOCK)])
    two = np.sort(found + np.roll(found, 1))  # a step at a border bends before and after it
    return math.log((two[-1] + 0.2) / (two[BLOCK // 2] + 0.2))


def _edges(luma: Pixels, slope: Pixels) -> tuple[float, float]:
    """How steep the strongest edges are for their height, and how far they swing over."""
    limit = max(float(np.quantile(slope, 0.97)), 8.0)
    rows, columns = np.nonzero(slope >= limit)
    if len(rows) < 8:
        return 0.0, 0.0
    near = [cv2.dilate(luma, np.ones((n, n), np.uint8)) - cv2.erode(luma, np.ones((n, n), np.uint8)) for n in (3, 9)]
    height = near[1][rows, columns] + 1
    plain = cv2.GaussianBlur(luma, (0, 0), 2.5)
    range_of_plain = cv2.dilate(plain, np.ones((9, 9), np.uint8)) - cv2.erode(plain, np.ones((9, 9), np.uint8))
    return float((slope[rows, columns] / height).mean()) * 3, float(
        (height / (range_of_plain[rows, columns] + 8)).mean()
    )


def _together(spread: Pixels, light: Pixels) -> float:
    """Correlation of noise with light."""
    a, b = spread - spread.mean(), light - light.mean()
    return float((a * b).mean() / (a.std() * b.std() + 0.05))
