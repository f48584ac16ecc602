"""A drawn world of digits and shapes: pictures, their captions, and a harder version of the shapes.

Everything about a picture is a function of a random generator. Imports no torch.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40), "green": (40, 160, 60), "blue": (45, 80, 210), "yellow": (235, 215, 60),
    "orange": (240, 140, 30), "purple": (140, 60, 170), "pink": (245, 150, 190), "cyan": (70, 200, 215),
    "brown": (120, 75, 40), "white": (245, 245, 245), "grey": (128, 128, 128), "black": (15, 15, 15),
}  # fmt: skip
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "arrow", "heart", "crescent")
THINGS = (*DIGITS, *SHAPES)
CAPTIONS = (
    "a {thing}",
    "the {thing}",
    "a photo of a {thing}",
    "a picture of a {thing}",
    "a {colour} {thing}",
    "a photo of a {colour} {thing}",
    "a {colour} {thing} on a {ground} background",
    "a picture of a {colour} {thing} on {ground}",
)
PLAIN_SHARE = 0.6  # of pictures in white on black: with colours alone, shapes are learnt very late
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX_SMALL,
)  # fmt: skip
_CANVAS = 96  # pixels in which a mask is drawn before it is turned and made small


class Picture(NamedTuple):
    """One drawn picture."""

    image: NDArray[np.uint8]  # (side, side, 3)
    label: int  # of THINGS
    caption: str


def draw(rng: np.random.Generator, side: int, label: int | None = None) -> Picture:
    """A printed digit or a filled shape, often in white on black, else in one of twelve colours on another.

    Args:
        rng: decides everything.
        side: of the picture, in pixels.
        label: the number of one of `THINGS`; None: any.
    """
    label = int(rng.integers(len(THINGS))) if label is None else label
    ink, ground = rng.choice(list(COLOURS), 2, replace=False)
    if rng.random() < PLAIN_SHARE:
        ink, ground = "white", "black"
    mask = _placed(rng, _mask(rng, label), side, turn=0.25, reach=0.1)
    image = _coloured(mask, _tinted(rng, ink), _tinted(rng, ground)) + rng.normal(0, rng.uniform(0, 8), (side, side, 3))
    caption = str(rng.choice(CAPTIONS)).format(thing=THINGS[label], colour=ink, ground=ground)
    return Picture(_levels(image), label, caption)


def sketch(rng: np.random.Generator, side: int, label: int) -> NDArray[np.uint8]:
    """A shape as a thin, shaky outline in grey on a grainy ground: what `draw` never shows.

    Args:
        rng: decides everything.
        side: of the picture, in pixels.
        label: the number of one of `SHAPES`.

    Returns:
        (side, side, 3).
    """
    filled = _shape(SHAPES[label], rng)
    width = int(rng.integers(3, 7))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    outline = cv2.morphologyEx(filled, cv2.MORPH_GRADIENT, kernel).astype(np.uint8)
    mask = _placed(rng, _shaken(rng, outline), side, turn=0.35, reach=0.1)
    light, dark = rng.uniform(130, 230), rng.uniform(20, 90)
    ink, ground = (dark, light) if rng.random() < 0.5 else (light, dark)
    clouds = cv2.resize(rng.normal(0, 20, (5, 5)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    image = mask * ink + (1 - mask) * ground + clouds + rng.normal(0, rng.uniform(5, 20), (side, side))
    return _levels(np.repeat(image[..., None], 3, axis=-1))


def _mask(rng: np.random.Generator, label: int) -> NDArray[np.uint8]:
    return _digit(label, rng) if label < len(DIGITS) else _shape(THINGS[label], rng)


def _digit(digit: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(canvas, canvas), 255 where there is ink."""
    font = _FONTS[rng.integers(len(_FONTS))] | (cv2.FONT_ITALIC if rng.random() < 0.3 else 0)
    thickness = int(rng.integers(3, 10))
    (width, height), _ = cv2.getTextSize(str(digit), font, 1.0, 1)
    scale = 0.72 * _CANVAS / max(width, height)
    (width, height), _ = cv2.getTextSize(str(digit), font, scale, thickness)
    mask = np.zeros((_CANVAS, _CANVAS), np.uint8)
    corner = ((_CANVAS - width) // 2, (_CANVAS + height) // 2)
    return cv2.putText(mask, str(digit), corner, font, scale, 255, thickness, cv2.LINE_AA).astype(np.uint8)


def _shape(name: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(canvas, canvas), 255 inside."""
    mask = np.zeros((_CANVAS, _CANVAS), np.uint8)
    centre, radius = _CANVAS // 2, int(0.36 * _CANVAS)
    if name in ("circle", "ring", "crescent"):
        cv2.circle(mask, (centre, centre), radius, 255, -1, cv2.LINE_AA)
        if name == "ring":
            cv2.circle(mask, (centre, centre), int(radius * rng.uniform(0.45, 0.65)), 0, -1, cv2.LINE_AA)
        if name == "crescent":
            shift = int(radius * rng.uniform(0.4, 0.6))
            cv2.circle(mask, (centre + shift, centre), int(radius * 0.85), 0, -1, cv2.LINE_AA)
        return mask
    points = np.round(centre + radius * _outline(name, rng)).astype(np.int32)
    return cv2.fillPoly(mask, [points], 255, cv2.LINE_AA).astype(np.uint8)


def _outline(name: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """(N, 2) corners as (x, y), about 1 from the middle."""
    if name == "heart":
        t = np.linspace(0, 2 * np.pi, 60)
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return np.stack([x, -y], axis=-1) / 16
    if name == "cross":
        w = rng.uniform(0.25, 0.4)
        return np.array([(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w),
                         (-1, -w), (-w, -w)])  # fmt: skip
    if name == "arrow":
        w = rng.uniform(0.18, 0.32)
        return np.array([(-1, -w), (0.1, -w), (0.1, -0.75), (1, 0), (0.1, 0.75), (0.1, w), (-1, w)])
    if name == "square":
        return 0.85 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    if name == "diamond":
        w = rng.uniform(0.55, 0.7)
        return np.array([(0, -1), (w, 0), (0, 1), (-w, 0)])
    if name == "star":
        angles = np.pi * np.arange(10) / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2, rng.uniform(0.38, 0.5), 1.1)
        return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    assert name == "triangle", name
    angles = 2 * np.pi * np.arange(3) / 3 - np.pi / 2
    return 1.1 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _shaken(rng: np.random.Generator, mask: NDArray[np.uint8], by: float = 1.5) -> NDArray[np.uint8]:
    """The mask after a smooth random displacement of about `by` pixels."""
    size = mask.shape[0]
    y, x = np.mgrid[:size, :size].astype(np.float32)
    moves = (cv2.resize(rng.normal(0, by, (6, 6)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
             for _ in range(2))  # fmt: skip
    return cv2.remap(mask, x + next(moves), y + next(moves), cv2.INTER_LINEAR).astype(np.uint8)


def _placed(
    rng: np.random.Generator, mask: NDArray[np.uint8], side: int, turn: float, reach: float
) -> NDArray[np.float32]:
    """The mask turned by up to `turn` radians, sheared, moved by up to `reach` of the side, and made small: [0, 1]."""
    angle, shear = rng.uniform(-turn, turn), rng.uniform(-0.15, 0.15)
    size = rng.uniform(0.75, 1.15, 2)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turned @ np.array([[1, shear], [0, 1]]) * size
    middle = np.array([_CANVAS / 2, _CANVAS / 2])
    shift = middle - matrix @ middle + rng.uniform(-reach, reach, 2) * _CANVAS
    warped = cv2.warpAffine(mask, np.column_stack([matrix, shift]), (_CANVAS, _CANVAS), flags=cv2.INTER_LINEAR)
    return cv2.resize(warped.astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)


def _tinted(rng: np.random.Generator, colour: str) -> NDArray[np.float64]:
    return np.array(COLOURS[colour]) + rng.normal(0, 12, 3)


def _coloured(mask: NDArray, ink: NDArray, ground: NDArray) -> NDArray:
    return mask[..., None] * ink + (1 - mask[..., None]) * ground


def _levels(image: NDArray) -> NDArray[np.uint8]:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
