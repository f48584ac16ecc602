"""Pictures such as people have on their disks, made by code: of each what a user gives, and the truth, if any.

Photographs are those that scikit-image ships, or of a folder; all else is drawn. The damage is made here, by other code
than what anything was trained on.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Given:
    """A file, and what it should have been."""

    file: Path
    large: Pixels | None = None
    """(2 H, 2 W, 3) in [0, 1]: the truth at twice the size."""
    same: Pixels | None = None
    """(H, W, 3) in [0, 1]: the truth at its size."""


@dataclass
class Maker:
    """Where files go, and what they are made of."""

    folder: Path
    photos: Callable[[str], Pixels]
    """A photograph, (H, W, 3) in [0, 1], by the name that scikit-image gives it."""
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def crop(self, name: str, height: int = 400, width: int = 560, top: int = 0, left: int = 0) -> Pixels:
        """An even part of a photograph."""
        photo = self.photos(name)[top : top + height, left : left + width]
        return photo[: len(photo) // 2 * 2, : photo.shape[1] // 2 * 2]

    def of_photo(self, suffix: str, name: str, damage: Callable[[Pixels], Pixels] | None = None, **save: Any) -> Given:
        """A photograph at half its size, damaged, as a file."""
        large = self.crop(name)
        same = halved(large)
        file = self.saved(suffix, same if damage is None else damage(same), **save)
        return Given(file, large, same)

    def saved(self, suffix: str, pixels: Pixels | PIL.Image.Image, **save: Any) -> Path:
        file = self.folder / f"picture{suffix}"
        picture(pixels).save(file, **save)
        return file


def picture(pixels: Pixels | PIL.Image.Image) -> PIL.Image.Image:
    return pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(levels(pixels))


def levels(pixels: Pixels) -> NDArray[np.uint8]:
    return (pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def floats(image: PIL.Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"), np.float32) / 255


def halved(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.float32)


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    stream = io.BytesIO()
    picture(pixels).save(stream, "JPEG", quality=quality)
    return floats(PIL.Image.open(stream))


# ------------------------------------------------------------------------------------------------------- damage


def night(rng: np.random.Generator, photons: float = 60) -> Callable[[Pixels], Pixels]:
    """A small sensor in little light: photons, colour filters, a smoothing and a sharpening program."""

    def damaged(pixels: Pixels) -> Pixels:
        light = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
        seen = rng.poisson(light * photons) / photons + rng.normal(0, 2 / photons, light.shape)
        raw = np.empty(seen.shape[:2], np.float32)
        for y, x, colour in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
            raw[y::2, x::2] = seen[y::2, x::2, colour]
        mosaic = (raw.clip(0, 1) * 65535).astype(np.uint16)
        linear = cv2.cvtColor(mosaic, cv2.COLOR_BayerBG2BGR)[..., ::-1].astype(np.float32) / 65535  # red first
        found = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clip(1e-6) ** (1 / 2.4) - 0.055)
        smooth = cv2.bilateralFilter(found.astype(np.float32), 5, 0.15, 1.2)
        return (smooth + 0.6 * (smooth - cv2.GaussianBlur(smooth, (0, 0), 1))).clip(0, 1)

    return damaged


def film(rng: np.random.Generator) -> Callable[[Pixels], Pixels]:
    """Grain, faded colours, dust and scratches."""

    def damaged(pixels: Pixels) -> Pixels:
        grain = cv2.GaussianBlur(rng.normal(0, 0.12, pixels.shape[:2]).astype(np.float32), (0, 0), 0.8)
        old = pixels + grain[..., None]
        for _ in range(3):
            x = int(rng.integers(pixels.shape[1]))
            old[:, x : x + 1] += 0.15
        return old.clip(0, 1)

    return damaged


def paper(rng: np.random.Generator | None) -> Callable[[Pixels], Pixels]:
    """A flatbed scanner: less contrast, a little blur, dust on uneven paper; None: less contrast alone."""

    def damaged(pixels: Pixels) -> Pixels:
        grey = pixels * np.float32(0.86) + np.float32(0.06)
        if rng is None:
            return grey
        return (cv2.GaussianBlur(grey, (0, 0), 0.7) + rng.normal(0, 0.012, (*pixels.shape[:2], 1))).clip(0, 1)

    return damaged


# ------------------------------------------------------------------------------------------------------ drawings


def font(size: float) -> Any:
    return PIL.ImageFont.load_default(size)


TEXT = (
    "The quick brown fox jumps over the lazy dog 0123456789",
    "if (index < count) return values[index];  // end",
    "Invoice 4711 of 2026-03-14   total 1,284.50",
    "File   Edit   View   Search   Tools   Help",
)


def window(times: int, dark: bool = False) -> Pixels:
    """A screenshot with small text, at `times` the density."""
    paper_, ink, bar = ("#1e1e1e", "#d4d4d4", "#333333") if dark else ("#ffffff", "#202020", "#e4e6ea")

    def draw(on: PIL.ImageDraw.ImageDraw, n: int) -> None:
        on.rectangle((0, 0, 300 * n, 18 * n), fill=bar)
        on.text((6 * n, 3 * n), TEXT[3], ink, font(11 * n))
        for row, size in enumerate((9, 10, 11, 12, 13, 14, 16)):
            on.text((60 * n, (24 + row * 22) * n), TEXT[row % 3], ink, font(size * n))
            on.ellipse(at(n, 16, 26 + row * 22, 30, 40 + row * 22), fill=("#2a7", "#c33", "#36c")[row % 3])
        on.rectangle(at(n, 220, 172, 290, 192), outline="#2266cc", fill="#3377dd", width=n)
        on.text((232 * n, 176 * n), "Save as", "#ffffff", font(11 * n))

    return smooth(draw, (300, 200), times, paper_)


def page(times: int) -> Pixels:
    """Print on paper."""

    def draw(on: PIL.ImageDraw.ImageDraw, n: int) -> None:
        for row in range(11):
            on.text((12 * n, (8 + row * 17) * n), TEXT[row % 3], "black", font((10 + row % 3) * n))

    return smooth(draw, (260, 200), times, "white")


def smooth(
    draw: Callable[[PIL.ImageDraw.ImageDraw, int], None], size: tuple[int, int], times: int, ground: str
) -> Pixels:
    """What is drawn eight times as large, whatever the size, so that letters stand at the same places in all."""
    image = PIL.Image.new("RGB", (size[0] * FINE, size[1] * FINE), ground)
    draw(PIL.ImageDraw.Draw(image), FINE)
    share = times / FINE
    return np.asarray(cv2.resize(floats(image), None, fx=share, fy=share, interpolation=cv2.INTER_AREA), np.float32)


FINE = 8


def at(times: int, *numbers: float) -> list[float]:
    return [n * times for n in numbers]


def streets(times: int) -> Pixels:
    """A map: lines, areas, names."""

    def draw(on: PIL.ImageDraw.ImageDraw, n: int) -> None:
        rng = np.random.default_rng(5)
        on.polygon(at(n, 0, 120, 90, 90, 140, 200, 0, 200), fill="#aad3df")
        on.polygon(at(n, 160, 20, 240, 40, 220, 110, 150, 90), fill="#add19e")
        for k in range(14):
            ends = at(n, *rng.uniform(-20, 280, 4))
            on.line(ends, "#777777", (3 + k % 3) * n)
            on.line(ends, ("#ffffff", "#fcd6a4")[k % 2], (2 + k % 3) * n)
        for k, name in enumerate(("Mill Lane", "Station", "High Street", "Park", "River")):
            on.text((20 * n + 45 * k * n, (30 + 31 * k) * n), name, "#333333", font(10 * n))

    return smooth(draw, (260, 200), times, "#f2efe9")


def cartoon(times: int) -> Pixels:
    """Flat colours and ink lines."""

    def draw(on: PIL.ImageDraw.ImageDraw, n: int) -> None:
        on.rectangle(at(n, 0, 140, 240, 200), fill="#6bbf59")
        on.ellipse(at(n, 180, 15, 220, 55), fill="#ffd94a", outline="black", width=2 * n)
        on.polygon(at(n, 40, 90, 90, 40, 140, 90), fill="#c0392b", outline="black", width=2 * n)
        on.rectangle(at(n, 50, 90, 130, 160), fill="#f4e3c1", outline="black", width=2 * n)
        on.rectangle(at(n, 82, 118, 100, 160), fill="#7b4a2b", outline="black", width=2 * n)
        for x in (160, 190, 215):
            on.line(at(n, x, 170, x - 6, 110), "#5a3a1e", 4 * n)
            on.ellipse(at(n, x - 24, 84, x + 10, 122), fill="#2e8b57", outline="black", width=2 * n)

    return smooth(draw, (240, 200), times, "#9fd8ef")


def logo() -> PIL.Image.Image:
    """RGBA, a colour that nobody sees where it is transparent."""
    image = PIL.Image.new("RGBA", (640, 480), (255, 0, 255, 0))
    draw = PIL.ImageDraw.Draw(image)
    draw.ellipse((40, 40, 440, 440), fill="#0a6ebd")
    draw.polygon([140, 340, 240, 100, 340, 340], fill="#ffffff")
    draw.text((336, 312), "acme", "#222222", font(120))
    small = image.convert("RGBa").resize((160, 120), PIL.Image.Resampling.BOX).convert("RGBA")  # by what is seen
    return small


MUSHROOM = """
................
.....kkkkkk.....
...kkrrrwwwkk...
..krrrrrwwwwrk..
..krrwwrrwwrrk..
.krrwwwwrrrrrrk.
.krrwwwwrrrwwrk.
.krrrwwrrrwwwwk.
.kwwrrrrrrwwwrk.
.kwwwkkkkkkkrrk.
..kkkssssssskk..
..kksskssksskk..
...kssksskssk...
...kssssssssk...
....kkssssk.....
......kkkk......
"""
INKS = {".": "#5c94fc", "k": "#000000", "r": "#d82800", "w": "#fcfcfc", "s": "#fcbcb0"}


def sprite(colours: dict[str, str] | None = None) -> Pixels:
    """Pixel art of 16 x 16."""
    image = PIL.Image.new("RGB", (16, 16))
    draw = PIL.ImageDraw.Draw(image)
    for y, row in enumerate(MUSHROOM.split()):
        for x, key in enumerate(row):
            draw.point((x, y), (colours or INKS)[key])
    return floats(image)


def stars(height: int, width: int, count: int, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Light of stars at twice the size and at it, (H, W), before noise."""
    y, x, flux = rng.uniform(0, height, count), rng.uniform(0, width, count), 60 + 1500 * rng.random(count) ** 3
    found = []
    for times in (2, 1):
        rows, columns = np.mgrid[: height * times, : width * times].astype(np.float32)
        light = np.full(rows.shape, 60, np.float32)
        for y0, x0, f in zip(y * times, x * times, flux, strict=True):
            far = (rows + 0.5 - y0) ** 2 + (columns + 0.5 - x0) ** 2
            light += f * np.exp(-far / (2 * (1.3 * times) ** 2))
        found.append(light)
    return found[0], found[1]
