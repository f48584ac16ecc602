"""Pictures of many kinds beside what is made of them by looking alone: for the demo, and for the page about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorgnette.images.damage import DAMAGES
from lorgnette.images.file import Image
from lorgnette.images.metrics import psnr
from lorgnette.images.patches import channels_first
from lorgnette.images.pixels import to_uint8
from lorgnette.shipped import Chooser, load_shipped
from lorgnette.systems import room

SIDE = 160
"""Of the truth, in pixels."""
BY_LOOKING = "chosen by looking"


@dataclass(frozen=True)
class Kind:
    """A picture: what is done to it, and what for."""

    room: str
    damage: str
    photo: str = ""
    """Of scikit-image; empty: drawn."""
    corner: tuple[int, int] = (0, 0)
    """Top and left of the part that is shown."""
    ranges: Mapping[str, Any] = field(default_factory=dict)
    """Of the damage, instead of the usual ones."""


KINDS = {
    "phone, little light": Kind("superres", "phone", "chelsea", (60, 120), {"photons": (60, 120)}),
    "web, small": Kind("superres", "web", "coffee", (80, 180)),
    "scan": Kind("superres", "scan", "page", (20, 60)),
    "screenshot": Kind("superres", "screen", ranges={"anew": 0}),
    "pixel art": Kind("superres", "art", ranges={"scenes": ("sprites",)}),
    "JPEG": Kind("restore", "web", "astronaut", (20, 150)),
    "camera noise": Kind("restore", "camera", "coffee", (80, 180), {"photons": (60, 120)}),
    "counts": Kind("restore", "counts"),
}


@dataclass(frozen=True)
class Shown:
    """A picture before and after."""

    kind: str
    pictures: dict[str, NDArray[np.uint8]]
    """given (by bicubic where the room enlarges), base, chosen by looking, truth: (SIDE, SIDE, 3) each."""
    scores: dict[str, float]
    """PSNR in RGB of all but the truth, in dB."""
    choice: str
    """What was chosen: a name, or nothing."""

    @property
    def chosen(self) -> float:
        """dB of what was chosen by looking."""
        return self.scores[BY_LOOKING]


def shown(kinds: Iterable[str] = tuple(KINDS), seed: int = 0) -> Iterator[Shown]:
    """Pictures of these kinds, one after the other. Nothing that ships learnt from any of them.

    Raises:
        ValueError: what photographs or typefaces come from is not installed, in one line.
    """
    for name in kinds:
        kind = KINDS[name]
        home: Any = room(kind.room)
        given, truth = made_worse(kind, seed, round(home.ABOUT.usual_scale))
        image = Image(given)
        found, choice = Chooser(kind.room, "cpu").enhance(image)
        base = home.enhance(load_shipped(kind.room), image)
        made = {"given": home.plain(image).pixels, "base": base.pixels, BY_LOOKING: found.pixels}
        scores = {name: _score(pixels, truth) for name, pixels in made.items()}
        pictures = {name: to_uint8(pixels) for name, pixels in (made | {"truth": truth}).items()}
        yield Shown(name, pictures, scores, choice.name)


def made_worse(kind: Kind, seed: int, scale: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What is given, and the truth."""
    how = replace(DAMAGES[kind.damage], clean=0, drawn=0 if kind.photo else 1, **kind.ranges)
    scene = np.zeros((SIDE, SIDE, 3), np.float32)
    if kind.photo:
        from lorgnette.common.lazy import needed

        data = needed("skimage.data", "'lorgnette[demo]'", "photographs to show")
        top, left = kind.corner
        pixels = np.asarray(getattr(data, kind.photo)(), np.float32) / 255
        pixels = pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, -1)
        scene = pixels[top : top + SIDE, left : left + SIDE]
    return how.pair(scene, np.random.default_rng(seed), (SIDE // scale, SIDE // scale))


def _score(pixels: NDArray[Any], truth: NDArray[np.float32]) -> float:
    return psnr(channels_first(np.ascontiguousarray(pixels)), channels_first(truth), luma=False, quantise=True)
