"""Pictures that are drawn rather than photographed, as a function of a random generator, at any density of pixels.

A scene has a size in *units* and is drawn at any number of pixels for each unit, as a window is on screens of different
density. So a small picture and its large truth can both be drawn, neither made of the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import cv2
import numpy as np

from lorgnette.images.canvas import Canvas, Colour, Pixels
from lorgnette.images.typefaces import FACES

Draw = Callable[[np.random.Generator, Canvas], None]

# ------------------------------------------------------------------------------------------- screens and print

_LETTERS = "etaoinshrdlucmfwypvbgkjqxzETAOINSHRDLUCMFWYPVBGKJQXZ0123456789"
_ODDS = np.array([*range(26, 0, -1), *[0.5] * 26, *[0.8] * 10])  # of each letter: the frequent ones stand first
_MARKS = (".", ",", ":", ";", "!", "?", "-", "()", "/", "%", "&", "=", "+", "#", "@", "<", ">", "[", "]", "_", "*")


def _word(rng: np.random.Generator) -> str:
    letters = "".join(_LETTERS[i] for i in rng.choice(len(_LETTERS), rng.integers(1, 10), p=_ODDS / _ODDS.sum()))
    return letters + (_MARKS[rng.integers(len(_MARKS))] if rng.random() < 0.25 else "")


def _colour(rng: np.random.Generator, low: float = 0, high: float = 1) -> Colour:
    """Half of them grey, as most of a screen is."""
    colour = rng.uniform(low, high, 3)
    return (np.full(3, colour[0]) if rng.random() < 0.5 else colour).astype(np.float32)


def _against(rng: np.random.Generator, paper: Colour) -> Colour:
    """A colour that can be read on another; the strongest contrast in half of the cases."""
    bright = float(paper.mean()) > 0.5
    if rng.random() < 0.5:
        return np.full(3, 0.0 if bright else 1.0, np.float32)
    return _colour(rng, 0, 0.5) if bright else _colour(rng, 0.6, 1)


def _paragraph(rng: np.random.Generator, canvas: Canvas, y: float, x: float, h: float, w: float, paper: Colour) -> None:
    height, which = float(math.exp(rng.uniform(math.log(7), math.log(32)))), int(rng.integers(1000))
    ink, step = _against(rng, paper), height * rng.uniform(1.1, 1.6)
    top = y + 1
    while top + height < y + h:
        words = " ".join(_word(rng) for _ in range(max(1, int(w / height / 3))))
        canvas.text(top, x + 2, words, height, which, ink)
        if rng.random() < 0.08:
            canvas.box(top + height * 1.15, x + 2, 1, w * 0.6, ink)
        top += step


def _widgets(rng: np.random.Generator, canvas: Canvas, y: float, x: float, h: float, w: float, paper: Colour) -> None:
    """Buttons, rules, marks and diagrams of an interface."""
    ink = _against(rng, paper)
    for _ in range(int(rng.integers(2, 7))):
        top, left = y + rng.integers(max(1, int(h))), x + rng.integers(max(1, int(w)))
        high, wide = int(rng.integers(4, 24)), int(rng.integers(4, 60))
        way = rng.integers(5)
        if way == 0:
            fill = _colour(rng)
            canvas.box(top, left, high, wide, fill)
            canvas.frame(top, left, high, wide, ink)
            if high > 9:
                canvas.text(top + 1, left + 3, _word(rng), high - 4, int(rng.integers(1000)), _against(rng, fill))
        elif way == 1:
            canvas.box(top, x, 1, w, ink)
        elif way == 2:
            canvas.box(y, left, h, 1, ink)
        elif way == 3:
            angles = np.linspace(0, 2 * math.pi, 48)
            ring = np.stack([top + high / 2 * np.sin(angles), left + high / 2 * np.cos(angles)], -1)
            canvas.line(ring, 1.0, _colour(rng), closed=bool(rng.random() < 0.6))
        else:
            heights = np.cumsum(rng.normal(0, 2, 12))
            points = np.stack([top + heights, left + np.arange(12) * wide / 11], -1)
            canvas.line(points, rng.uniform(1, 2), _colour(rng))


def screen(rng: np.random.Generator, canvas: Canvas) -> None:
    """Windows with text, tables, buttons and diagrams; or a page of print."""
    h, w = canvas.size
    canvas.box(0, 0, h, w, _colour(rng, 0.85, 1) if rng.random() < 0.7 else _colour(rng, 0, 0.3))
    panes = 1 + int(rng.integers(1 + h * w // 4000))
    for index in range(panes):
        high, wide = (int(rng.integers(n // 3, n + 1)) for n in (h, w))
        y, x = int(rng.integers(-high // 4, h - high // 2)), int(rng.integers(-wide // 4, w - wide // 2))
        if index == 0:
            y, x, high, wide = 0, 0, h, w
        dark = rng.random() < 0.3
        paper = np.ones(3, np.float32) if rng.random() < 0.4 else _colour(rng, *((0, 0.35) if dark else (0.8, 1)))
        canvas.box(y, x, high, wide, paper)
        if rng.random() < 0.5:
            canvas.frame(y, x, high, wide, _against(rng, paper))
        (_paragraph if rng.random() < 0.75 else _widgets)(rng, canvas, y, x, high, wide, paper)


# ---------------------------------------------------------------------------------------------------- drawings


def _curve(rng: np.random.Generator, size: tuple[int, int], closed: bool) -> Pixels:
    """A smooth random curve, (N, 2) in units."""
    count = int(rng.integers(3, 8))
    middle, reach = rng.random(2) * size, rng.uniform(0.1, 0.5) * max(size)
    if closed:
        angles = np.linspace(0, 2 * math.pi, 96, endpoint=False)
        waves = [rng.normal(0, 0.3 / k) * np.cos(k * angles + rng.uniform(0, 6)) for k in range(1, count)]
        radius = 1 + np.sum(waves, 0)
        return middle + reach * radius[:, None] * np.stack([np.sin(angles), np.cos(angles)], -1)
    knots = middle + rng.normal(0, reach, (count, 2))
    if rng.random() < 0.7:
        return _bezier(knots)
    t = np.linspace(0, count - 1, 96)
    return np.stack([np.interp(t, np.arange(count), knots[:, k]) for k in (0, 1)], -1)


def _bezier(knots: Pixels) -> Pixels:
    """A Bezier curve by de Casteljau's construction."""
    t = np.linspace(0, 1, 96)[:, None]
    points = [np.repeat(knot[None], len(t), 0) for knot in knots]
    while len(points) > 1:
        points = [a + t * (b - a) for a, b in itertools.pairwise(points)]
    return points[0]


def lines(rng: np.random.Generator, canvas: Canvas) -> None:
    """Ink and flat colours: cartoons, maps, diagrams, hatching."""
    h, w = canvas.size
    canvas.box(0, 0, h, w, np.ones(3, np.float32) if rng.random() < 0.5 else _colour(rng, 0.3, 1))
    ink = np.zeros(3, np.float32) if rng.random() < 0.7 else _colour(rng, 0, 0.5)
    thick = rng.uniform(0.7, 3)
    for _ in range(int(rng.integers(3, 5 + h * w // 600))):
        closed = rng.random() < 0.5
        curve = _curve(rng, canvas.size, closed)
        if closed:
            if rng.random() < 0.7:
                canvas.line(curve, 0, _colour(rng), closed=True)
            curve = np.concatenate([curve, curve[:1]])
        if rng.random() < 0.8:
            canvas.line(curve, thick * rng.uniform(0.6, 1.4), ink)
    if rng.random() < 0.3:  # hatching
        step, slope, y0, x0 = rng.uniform(2.5, 7), rng.uniform(-1, 1), rng.random() * h, rng.random() * w
        for k in range(int(rng.integers(4, 14))):
            ends = np.array([[y0, x0 + k * step], [y0 + 14, x0 + k * step + 14 * slope]])
            canvas.line(ends, rng.uniform(0.6, 1.2), ink)


def sprites(rng: np.random.Generator, canvas: Canvas) -> None:
    """Pixel art: few colours, each unit one square of one colour, at every density."""
    h, w = canvas.size
    palette = rng.integers(0, 256, (int(rng.integers(3, 17)), 3)).astype(np.float32) / 255
    grain = int(rng.choice([1, 1, 1, 2, 3]))
    rows, columns = math.ceil(h / grain), math.ceil(w / grain)
    art = np.full((rows, columns), rng.integers(len(palette)))
    if rng.random() < 0.4:  # two colours by turns
        y, x = np.mgrid[:rows, :columns]
        art = np.where((y + x) % 2 == 0, art, rng.integers(len(palette)))
    for _ in range(int(rng.integers(2, 4 + rows * columns // 250))):
        n = int(rng.integers(4, 17))
        half = cv2.blur(rng.random((n, (n + 1) // 2)).astype(np.float32), (3, 3)) > 0.48
        shape = (
            np.concatenate([half, half[:, : n // 2][:, ::-1]], 1) if rng.random() < 0.7 else rng.random((n, n)) < 0.5
        )
        colours = rng.integers(len(palette), size=3)
        inner = cv2.erode(shape.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        figure = np.where(inner, np.where(rng.random(shape.shape) < 0.3, colours[1], colours[2]), colours[0])
        top, left = int(rng.integers(-n // 2, rows)), int(rng.integers(-n // 2, columns))
        part = art[max(top, 0) : top + n, max(left, 0) : left + n]
        cut = (slice(max(-top, 0), max(-top, 0) + part.shape[0]), slice(max(-left, 0), max(-left, 0) + part.shape[1]))
        part[...] = np.where(shape[cut], figure[cut], part)
    colours = palette[art.repeat(grain, 0).repeat(grain, 1)[:h, :w]]
    rows, columns = (
        ((np.arange(n) + 0.5) / unit).astype(int).clip(0, size - 1)
        for n, unit, size in zip(canvas.image.shape[:2], canvas.unit, canvas.size, strict=True)
    )
    canvas.image[...] = colours[rows][:, columns]


# --------------------------------------------------------------------------------------------------- specimens


def specimen(rng: np.random.Generator, canvas: Canvas) -> None:
    """Light of a microscope or a telescope, grey: points, threads and bodies of many strengths on a dark ground."""
    (h, w), (high, wide) = canvas.size, canvas.image.shape[:2]
    y, x = (np.arange(n, dtype=np.float32)[:, None] + 0.5 for n in (high, wide))
    slope = 1 + rng.uniform(-0.3, 0.3) * (y / high - 0.5) + rng.uniform(-0.3, 0.3) * (x.T / wide - 0.5)
    light = rng.uniform(0, 0.25) * slope
    spread = rng.uniform(0.7, 2.5) * math.sqrt(canvas.unit[0] * canvas.unit[1])
    for _ in range(int(rng.integers(0, 2 + h * w // rng.integers(40, 400)))):
        (top, left), wider = canvas.at(rng.random() * h, rng.random() * w), spread * (1 + rng.exponential(0.15))
        bright = math.exp(rng.normal(-1.5, 0.8))
        light += bright * np.exp(-0.5 * ((y - top) / wider) ** 2) * np.exp(-0.5 * ((x - left) / wider) ** 2).T
    if rng.random() < 0.5:
        drawn = np.zeros((high, wide), np.float32)
        for _ in range(int(rng.integers(1, 6))):
            body = rng.random() < 0.5
            covered = canvas.covered(_curve(rng, canvas.size, body), 1.0, body)
            drawn += rng.uniform(0.1, 0.7) * covered
        light += cv2.GaussianBlur(drawn, (0, 0), spread)
    canvas.image[...] = (light * rng.uniform(0.3, 1)).clip(0, 1)[..., None]


SCENES: dict[str, Draw] = {"screen": screen, "lines": lines, "sprites": sprites, "specimen": specimen}
"""What can be drawn, by name."""
OWN_SQUARES = ("sprites",)
"""Those whose small picture cannot be made of the large one by a filter: each of its pixels is a square of that."""


def drawn(
    name: str,
    seed: int,
    size: tuple[int, int],
    pixels: tuple[int, int] | None = None,
    subpixels: bool = False,
    faces: tuple[str, ...] = FACES,
) -> Pixels:
    """A scene.

    Args:
        name: one of `SCENES`.
        seed: decides everything in it.
        size: height and width in units; what is seen depends on it.
        pixels: (H, W) of the picture; None: a pixel for each unit.
        subpixels: of text, see `Canvas`.
        faces: names of the typefaces.

    Returns:
        (H, W, 3) float32 in [0, 1].
    """
    canvas = Canvas(size, pixels or size, subpixels, faces)
    SCENES[name](np.random.default_rng(seed), canvas)
    return canvas.image
