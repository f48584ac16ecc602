"""Pictures of all kinds, clean and damaged, of which it is known what each shipped adapter makes of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorgnette.images.damage import DAMAGES, Damage
from lorgnette.images.file import read_image

Pixels = NDArray[np.float32]
CLEAN = Damage(filters=("box", "bilinear", "bicubic", "lanczos"))
SCALES = (2.0, 2.0, 3.0, 4.0)
WHITE = (3.0, 50.0)  # deviations of white noise, of 255


def kinds(scaled: bool) -> dict[str, Damage | None]:
    """What is done to pictures, by name; None is white noise."""
    art = replace(DAMAGES["art"], drawn=1, clean=0.7)
    found: dict[str, Damage | None] = {"clean": CLEAN, "jpeg95": replace(CLEAN, quality=(90, 97))}
    for name in ("photo", "phone", "camera", "web", "sharpened", "film", "scan"):
        found[name] = replace(DAMAGES[name], clean=0, grey=0.1)
    found["grey scan"] = replace(DAMAGES["scan"], clean=0, grey=1)
    found["counts of photos"] = replace(DAMAGES["counts"], clean=0, drawn=0, linear=not scaled)
    found["specimen"] = replace(DAMAGES["counts"], clean=0, drawn=1, linear=not scaled)
    found["screen"] = replace(DAMAGES["screen"], drawn=1, clean=0.7)
    found["lines"] = replace(art, scenes=("lines",))
    found["sprites"] = replace(art, scenes=("sprites",), clean=1)
    found["white noise"] = None
    return found


class Sample(NamedTuple):
    """One picture: what is given, (h, w, 3), and the truth, (H, W, 3), both in [0, 1]."""

    kind: str
    picture: str
    draw: int
    scale: float
    lq: Pixels
    gt: Pixels


def sample(
    path: Path, kind: str, scale: float | None, draw: int, side: int, shrunk: bool = False, whole: bool = False
) -> Sample:
    """One sample, a function of its arguments.

    `scale` None: of the same size; `side`: of the truth; `shrunk`: the picture is first made as small as `side` allows,
    as people do with photographs for a page, so that its detail is as fine as its pixels; `whole`: not a part of that
    side, but the picture, with the same damage.
    """
    rng = np.random.default_rng([zlib.crc32(f"{path.name} {kind}".encode()), draw])
    pixels = read_image(path).pixels
    if shrunk:
        share = side / min(pixels.shape[:2])
        pixels = CLEAN(pixels, rng, (round(pixels.shape[0] * share), round(pixels.shape[1] * share)))
    pixels = np.pad(pixels, [*((0, max(0, side - n)) for n in pixels.shape[:2]), (0, 0)], mode="symmetric")
    top, left = (int(rng.integers(n - side + 1)) for n in pixels.shape[:2])
    height, width = (n // 12 * 12 for n in pixels.shape[:2]) if whole else (side, side)
    top, left = (0, 0) if whole else (top, left)
    picture = np.ascontiguousarray(pixels[top : top + height, left : left + width], np.float32)
    small = (round(height / (scale or 1)), round(width / (scale or 1)))
    how = kinds(scale is not None)[kind]
    if how is None:
        gt, lq = picture, CLEAN(picture, rng, small)
        sigma = np.exp(rng.uniform(*np.log(WHITE))) / 255
        lq = ((lq + sigma * rng.standard_normal(lq.shape)).clip(0, 1) * 255).round().astype(np.float32) / 255
    else:
        lq, gt = how.pair(picture, rng, small)
    return Sample(kind, path.name, draw, scale or 1, np.ascontiguousarray(lq), np.ascontiguousarray(gt))


def batches(
    pictures: Sequence[Path],
    scaled: bool,
    draws: Sequence[int],
    side: int,
    size: int,
    shrunk: bool = False,
    of: Sequence[str] | None = None,
) -> Iterator[list[Any]]:
    """All kinds, or those in `of`, of all pictures, as lists of arguments of `sample`, each list of one scale."""
    for draw in draws:
        for start in range(0, len(pictures), size):
            for number, kind in enumerate(kinds(scaled)):
                if of is None or kind in of:
                    scale = SCALES[(number + draw + start // size) % len(SCALES)] if scaled else None
                    yield [(path, kind, scale, draw, side, shrunk) for path in pictures[start : start + size]]
