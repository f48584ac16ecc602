"""What lens, sensor, camera program and file do to a picture, as a function of a random generator. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from lorgnette.common.text import nearest
from lorgnette.images.scenes import OWN_SQUARES, SCENES, drawn

Pixels = NDArray[Any]
Range = tuple[float, float]

FILTERS = {
    "nearest": PIL.Image.Resampling.NEAREST,
    "box": PIL.Image.Resampling.BOX,
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
    "lanczos": PIL.Image.Resampling.LANCZOS,
}
"""Ways to make a picture smaller; all but the first see every pixel (antialiasing)."""
NEIGHBOURS = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 4  # bilinear, of a lattice of every other pixel


@dataclass(frozen=True)
class Damage:
    """Ranges from which each picture draws its own damage, evenly where nothing else is said.

    The order is that of the light: lens, pixels, sensor, camera program, file. Lengths are in pixels of the damaged
    picture, whatever the factor by which it is smaller than the scene.
    """

    blur: Range = (0, 0)
    """Deviation of the lens's Gaussian blur."""
    stretch: Range = (1, 1)
    """How much longer the blur is in one direction than across it."""
    defocus: Range = (0, 0)
    """Radius of the disc that a point out of focus becomes."""
    motion: Range = (0, 0)
    """Length of a straight movement of the camera."""
    filters: tuple[str, ...] = ("bicubic",)
    """How it is made smaller, where it is: one of these (see `FILTERS`)."""
    photons: Range | None = None
    """Light at white, in electrons; its noise is Poisson's. Drawn evenly in its logarithm. None: without noise."""
    reading: Range = (0, 0)
    """Deviation of the reading noise, in electrons."""
    mosaic: float = 0
    """Share of the pictures whose noise went through the colour filters of a sensor and their interpolation."""
    smoothing: Range = (0, 0)
    """Deviation of the blur by which the camera program lowers noise."""
    linear: bool = False
    """Numbers are light, as in science. False: they are as on a screen (sRGB)."""
    grain: Range = (0, 0)
    """Deviation of film grain at middle grey, of 255; it spans about a pixel and a half."""
    sharpening: Range = (0, 0)
    """Amount of the camera program's unsharp mask."""
    quality: Range | None = None
    """JPEG quality, colours at half resolution. None: not compressed."""
    compressed: float = 1
    """Share of the pictures that are compressed, where there is a `quality`."""
    again: float = 0
    """Share of the compressed pictures that are cut a little and compressed once more."""
    scenes: tuple[str, ...] = ()
    """What is drawn, as `lorgnette.images.scenes` does, in place of a share of the pictures: some of `SCENES`."""
    drawn: float = 0
    """That share."""
    anew: float = 0
    """Share of the drawn pictures whose small one is drawn too, at its own density, rather than made of the large."""
    subpixels: float = 0
    """Share of those whose text has its colours side by side."""
    grey: float = 0
    """Share of the pictures that are grey, with the same noise in each colour."""
    clean: float = 0
    """Share of the pictures that are only made smaller: they teach an adapter to leave good ones alone."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if field.type == "float" and not 0 <= value <= 1:
                raise ValueError(f"damage.{field.name}: {value} is not a share from 0 to 1")
            if field.name not in ("filters", "scenes") and isinstance(value, tuple) and not 0 <= value[0] <= value[1]:
                raise ValueError(f"damage.{field.name}: {value[0]}, {value[1]} must be two rising numbers from 0 on")
        if not self.filters or not set(self.filters) <= FILTERS.keys():
            raise ValueError(f"damage.filters: {', '.join(self.filters)}: only {', '.join(FILTERS)} work")
        if not set(self.scenes) <= SCENES.keys() or (self.drawn and not self.scenes):
            raise ValueError(f"damage.scenes: {', '.join(self.scenes) or 'none'}: some of {', '.join(SCENES)} work")
        if self.photons is not None and self.photons[0] <= 0:
            raise ValueError(f"damage.photons: {self.photons[0]} must be above 0; 200, 20000 is usual")

    def __call__(self, scene: Pixels, rng: np.random.Generator, size: tuple[int, int] | None = None) -> Pixels:
        """Damage a picture; nothing is drawn, and colours stay.

        Args:
            scene: (H, W, C) in [0, 1], C 1 or 3.
            rng: decides everything random.
            size: (h, w) of the damaged picture, at most that of the scene; None: that of the scene.

        Returns:
            (h, w, C) float32: 8-bit levels in [0, 1]; with `linear` what was counted, over the light at white, beyond
            0 and 1 too.
        """
        return self._damaged(np.asarray(scene, np.float32), size or scene.shape[:2], rng)

    def pair(
        self, picture: Pixels, rng: np.random.Generator, size: tuple[int, int] | None = None
    ) -> tuple[Pixels, Pixels]:
        """A damaged picture and the truth, which is `picture`, perhaps grey, or a drawn scene of its size.

        Args:
            picture: (H, W, C) in [0, 1], C 1 or 3.
            rng: decides everything random.
            size: (h, w) of the damaged picture; None: that of the truth.

        Returns:
            (h, w, C), see `__call__`, and (H, W, C) float32 in [0, 1].
        """
        size, channels = size or picture.shape[:2], picture.shape[2]
        truth, small = np.asarray(picture, np.float32), None
        if rng.random() < self.drawn:
            name = self.scenes[rng.integers(len(self.scenes))]
            seed, anew, subpixels = int(rng.integers(2**32)), rng.random(), bool(rng.random() < self.subpixels)
            truth = drawn(name, seed, size, truth.shape[:2])[..., :channels]
            if name in OWN_SQUARES or anew < self.anew:
                small = drawn(name, seed, size, subpixels=subpixels)[..., :channels]
        if rng.random() < self.grey:
            truth, small = (None if image is None else image.mean(-1, keepdims=True) for image in (truth, small))
            assert truth is not None
        made = self._damaged(truth, size, rng) if small is None else self._damaged(small, size, rng)
        return np.repeat(made, channels // made.shape[2], -1), np.repeat(truth, channels // truth.shape[2], -1)

    def _damaged(self, image: Pixels, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
        h, w = size
        factor = math.sqrt(image.shape[0] * image.shape[1] / (h * w))
        sound = rng.random() < self.clean
        if not sound:
            image = self._through_lens(image, factor, rng)
        way = FILTERS[self.filters[rng.integers(len(self.filters))]]
        if (h, w) != image.shape[:2]:
            image = _resized(image, (h, w), way)
        if not sound:
            image = self._on_film(self._on_sensor(image, rng), rng)
            image = _sharpened(image, rng.uniform(*self.sharpening))
            if self.quality is not None and (self.compressed == 1 or rng.random() < self.compressed):
                image = self._compressed(image, rng)
        return image if self.linear else (image.clip(0, 1) * 255).round() / np.float32(255)

    def _through_lens(self, image: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
        across, angle = rng.uniform(*self.blur) * factor, rng.uniform(0, math.pi)
        along = across * rng.uniform(*self.stretch)
        for kernel in (
            _gaussian(along, across, angle),
            _disc(rng.uniform(*self.defocus) * factor),
            _line(rng.uniform(*self.motion) * factor, rng.uniform(0, math.pi)),
        ):
            if kernel is not None:
                image = _filtered(image, kernel)
        return image

    def _on_sensor(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        if self.photons is None:
            return image
        white = math.exp(rng.uniform(math.log(self.photons[0]), math.log(self.photons[1])))
        light = (image if self.linear else to_linear(image)).clip(0, 1) * white
        noise = rng.poisson(light) - light + rng.normal(0, rng.uniform(*self.reading), light.shape)
        if rng.random() < self.mosaic and image.shape[2] == 3:
            noise = _demosaiced(noise.astype(np.float32))
        smoothing = rng.uniform(*self.smoothing)
        if smoothing > 0:
            noise = _filtered(noise.astype(np.float32), _gaussian(smoothing, smoothing, 0))
        light = ((light + noise) / white).astype(np.float32)
        return light if self.linear else to_srgb(light.clip(0, 1))

    def _on_film(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        strength = rng.uniform(*self.grain) / 255
        if strength == 0:
            return image
        grain = cv2.GaussianBlur(rng.standard_normal(image.shape[:2], np.float32), (0, 0), 0.7)
        grain *= strength / max(float(grain.std()), 1e-6)
        luma = image.mean(-1)
        return image + (grain * 4 * (luma * (1 - luma)).clip(0.02, 0.25))[..., None]

    def _compressed(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        assert self.quality is not None
        image = jpeg(image, rng.uniform(*self.quality))
        if rng.random() < self.again:  # the blocks of the second file lie elsewhere
            top, left = rng.integers(0, 8, 2)
            edge = ((8 - top) % 8, top, (8 - left) % 8, left)
            framed = cv2.copyMakeBorder(image, *map(int, edge), borderType=cv2.BORDER_REFLECT).reshape(
                image.shape[0] + edge[0] + edge[1], image.shape[1] + edge[2] + edge[3], -1
            )
            framed = jpeg(framed, rng.uniform(*self.quality))
            image = framed[edge[0] : edge[0] + image.shape[0], edge[2] : edge[2] + image.shape[1]]
        return image


_ANTIALIASED = ("box", "bilinear", "bicubic", "lanczos")

DAMAGES = {
    "photo": Damage(
        blur=(0.2, 1.4), stretch=(1, 1.6), defocus=(0, 0.8), motion=(0, 1.5), filters=_ANTIALIASED,
        photons=(150, 20000), reading=(0, 5), mosaic=0.5, smoothing=(0, 0.8), sharpening=(0, 1),
        quality=(30, 95), again=0.2, clean=0.15,
    ),
    "phone": Damage(
        blur=(0.3, 1), filters=("box", "bicubic"), photons=(60, 800), reading=(1, 4), mosaic=1, smoothing=(0.4, 1),
        sharpening=(0, 1), quality=(70, 95), clean=0.1,
    ),
    "camera": Damage(photons=(60, 4000), reading=(0, 6), mosaic=0.8, smoothing=(0, 1), clean=0.1),
    "web": Damage(filters=_ANTIALIASED, sharpening=(0, 0.8), quality=(10, 85), again=0.4, clean=0.1),
    "sharpened": Damage(blur=(0, 0.6), sharpening=(0.4, 2), quality=(50, 95), clean=0.1),
    "film": Damage(blur=(0.2, 0.8), grain=(3, 18), quality=(60, 98), clean=0.1),
    "scan": Damage(blur=(0.3, 1), filters=("box",), grain=(0, 5), sharpening=(0, 1), quality=(40, 95), clean=0.1),
    "counts": Damage(
        photons=(30, 3000), reading=(0, 2), linear=True, scenes=("specimen",), drawn=0.6, grey=1, clean=0.05
    ),
    "screen": Damage(
        filters=_ANTIALIASED, quality=(40, 95), compressed=0.25, scenes=("screen",), drawn=0.8, anew=0.5,
        subpixels=0.3, clean=0.5,
    ),
    "art": Damage(
        filters=_ANTIALIASED, quality=(40, 95), compressed=0.15, scenes=("lines", "sprites"), drawn=0.85, anew=0.4,
        clean=0.6,
    ),
}  # fmt: skip
"""Damage by name, as `data.damage` takes it."""


def damage(name: str) -> Damage:
    """One of `DAMAGES`; a one-line ValueError for another name."""
    if name not in DAMAGES:
        hint = nearest(name, DAMAGES) or f"; there is {', '.join(DAMAGES)}"
        raise ValueError(f"data.damage: {name!r} is not known{hint}")
    return DAMAGES[name]


def to_linear(image: Pixels) -> Pixels:
    """Light of sRGB values, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(image <= 0.04045, image / 12.92, ((np.maximum(image, 0) + 0.055) / 1.055) ** 2.4).astype(np.float32)


def to_srgb(light: Pixels) -> Pixels:
    """sRGB values of light, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055).astype(
        np.float32
    )


def _resized(image: Pixels, size: tuple[int, int], way: PIL.Image.Resampling) -> Pixels:
    planes = [PIL.Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(plane.resize((size[1], size[0]), way)) for plane in planes], -1)


def _filtered(image: Pixels, kernel: Pixels | None) -> Pixels:
    if kernel is None:
        return image
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT).reshape(image.shape)


def _gaussian(along: float, across: float, angle: float) -> Pixels | None:
    if along < 0.05:
        return None
    y, x = _grid(3 * along)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return _normalised(np.exp(-0.5 * ((u / along) ** 2 + (v / max(across, 0.05)) ** 2)))


def _disc(radius: float) -> Pixels | None:
    if radius < 0.3:
        return None
    y, x = _grid(radius)
    return _normalised((radius + 0.5 - np.hypot(x, y)).clip(0, 1))  # a pixel on the rim counts in part


def _line(length: float, angle: float) -> Pixels | None:
    if length < 0.3:
        return None
    y, x = _grid(length / 2)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return _normalised((length / 2 + 0.5 - np.abs(u)).clip(0, 1) * (1 - np.abs(v)).clip(0, 1))


def _grid(reach: float) -> tuple[Pixels, Pixels]:
    n = math.ceil(reach)
    y, x = np.mgrid[-n : n + 1, -n : n + 1].astype(np.float32)
    return y, x


def _normalised(kernel: Any) -> Pixels:
    return (kernel / kernel.sum()).astype(np.float32)


def _demosaiced(noise: Pixels) -> Pixels:
    """Noise of a sensor that has one colour at each pixel (RGGB), interpolated to three at each."""
    seen = np.zeros_like(noise)
    seen[::2, ::2, 0] = seen[1::2, 1::2, 2] = seen[::2, 1::2, 1] = seen[1::2, ::2, 1] = 1
    weights = _filtered(seen, NEIGHBOURS)
    return _filtered(noise * seen, NEIGHBOURS) / np.maximum(weights, 1e-6)


def _sharpened(image: Pixels, amount: float) -> Pixels:
    if amount == 0:
        return image
    return image + amount * (image - cv2.GaussianBlur(image, (0, 0), 1).reshape(image.shape))


def jpeg(image: Pixels, quality: float) -> Pixels:
    """A picture after JPEG, in 8-bit levels: (H, W, C) in [0, 1] -> the same, C 1 or 3; chroma at half resolution."""
    levels = np.ascontiguousarray((image.clip(0, 1) * 255).round().astype(np.uint8)[..., ::-1])
    _, code = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, round(quality)])
    decoded = cv2.imdecode(code, cv2.IMREAD_COLOR if image.shape[2] == 3 else cv2.IMREAD_GRAYSCALE)
    assert decoded is not None, "it was encoded here"
    return decoded.reshape(image.shape)[..., ::-1].astype(np.float32) / np.float32(255)
