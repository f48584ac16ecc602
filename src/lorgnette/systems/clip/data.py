"""Pictures with labels: folders with a subfolder for each class, handwritten digits, drawn shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorgnette.common.store import BoundedStore
from lorgnette.images.file import read_image
from lorgnette.images.folders import find_images
from lorgnette.images.patches import split
from lorgnette.systems.clip import glyphs
from lorgnette.systems.clip.preprocess import levels, random_square, square, unit
from lorgnette.systems.clip.recipe import Data, Recipe
from lorgnette.train.batches import Draw, DrawnBatches, HeldOut
from lorgnette.train.config import TrainConfig

CACHE_BYTES = 512 * 2**20  # decoded images kept in memory, for each loading process
PRESET_CLASSES = {"digits": glyphs.DIGITS, "shapes": glyphs.SHAPES, "glyphs": glyphs.THINGS}


class Pictures(Protocol):
    """Something with as many pictures as labels."""

    labels: NDArray[np.int64]

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        ...


class FolderPictures:
    """Image files, one subfolder for each class.

    Args:
        root: the folder.
        classes: names of the classes, as `class_names` gives them.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: an image lies outside the subfolders, or in one that is no class.
    """

    def __init__(self, root: str, classes: Sequence[str]):
        numbers = {name: number for number, name in enumerate(classes)}
        self.files = find_images(root)
        labels = []
        for file in self.files:
            name = _spoken(file.relative_to(root).parts[0])
            if name not in numbers or file.parent == Path(root):
                raise ValueError(f"data.root: {file} is in no subfolder of a class; there is {', '.join(classes[:8])}")
            labels.append(numbers[name])
        self.labels = np.array(labels)
        self._kept = BoundedStore(CACHE_BYTES)

    def pixels(self, index: int) -> NDArray[np.uint8]:
        return self._kept.get_or_make(index, lambda: self._decoded(index))

    def _decoded(self, index: int) -> NDArray[np.uint8]:
        pixels = levels(read_image(self.files[index]))
        side = min(pixels.shape[:2])
        if side > 512:  # kept smaller: what the base reads is smaller still
            size = (round(pixels.shape[1] * 512 / side), round(pixels.shape[0] * 512 / side))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        return pixels


class ArrayPictures:
    """Pictures in memory: (N, H, W, 3) uint8 with N labels."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]):
        self.images, self.labels = images, labels

    def pixels(self, index: int) -> NDArray[np.uint8]:
        return self.images[index]


def handwritten_digits(side: int) -> ArrayPictures:
    """The 1,797 digits of 43 people that scikit-learn brings (Alpaydin & Kaynak, UCI), white on black.

    Their 8 x 8 pixels are made larger, to 22 of 32 pixels: the margin is about that of MNIST.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("data.preset: 'digits' needs scikit-learn; pip install 'lorgnette[clip]'") from None
    found: Any = load_digits()
    small = (found.images * (255 / 16)).astype(np.float32)
    inner = side * 22 // 32
    large = np.stack([cv2.resize(image, (inner, inner), interpolation=cv2.INTER_CUBIC) for image in small])
    first = (side - inner) // 2
    margins = (first, side - inner - first)
    grey = np.pad(np.clip(np.round(large), 0, 255).astype(np.uint8), ((0, 0), margins, margins))
    return ArrayPictures(np.repeat(grey[..., None], 3, axis=-1), found.target.astype(np.int64))


def drawn(preset: str, samples: int, side: int, seed: int = 0) -> ArrayPictures:
    """Pictures of 'shapes' (sketches) or 'glyphs', classes in turn; each a function of (seed, its number)."""
    labels = np.arange(samples) % len(PRESET_CLASSES[preset])
    rngs = [np.random.default_rng((seed, 4, index)) for index in range(samples)]
    if preset == "shapes":
        images = [glyphs.sketch(rng, side, int(label)) for rng, label in zip(rngs, labels, strict=True)]
    else:
        images = [glyphs.draw(rng, side, int(label)).image for rng, label in zip(rngs, labels, strict=True)]
    return ArrayPictures(np.stack(images), labels)


class LabelledPictures:
    """A part of some pictures as a data set to train on.

    Attributes:
        labels: (N,) class numbers, by which a federation deals pictures out.
    """

    def __init__(self, pictures: Pictures, indices: Sequence[int], data: Data):
        self.pictures, self.data = pictures, data
        self.indices = np.asarray(indices, dtype=np.int64)
        self.labels = pictures.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """image (3, S, S) in [0, 1], label."""
        pixels, data = self.pictures.pixels(int(self.indices[draw.index])), self.data
        if data.augment:
            pixels = random_square(pixels, data.image_size, draw.rng(), data.flip)
        else:
            pixels = square(pixels, data.image_size)
        return {"image": torch.from_numpy(unit(pixels)), "label": int(self.labels[draw.index])}


class CaptionedGlyphs:
    """Drawn pictures without end, each with a caption; `samples` of them make an epoch."""

    def __init__(self, data: Data):
        self.data = data
        self.labels = np.arange(data.samples) % len(glyphs.THINGS)

    def __len__(self) -> int:
        return self.data.samples

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """image (3, S, S) in [0, 1], label, caption."""
        picture = glyphs.draw(draw.rng(), self.data.image_size, int(self.labels[draw.index]))
        return {"image": torch.from_numpy(unit(picture.image)), "label": picture.label, "caption": picture.caption}


class LazyImages:
    """Pictures as (N, 3, S, S) in [0, 1], of which a slice is read when it is asked for."""

    def __init__(self, pictures: Pictures, indices: Sequence[int], side: int):
        self.pictures, self.indices, self.side = pictures, list(indices), side

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, part: slice) -> Tensor:
        images = [square(self.pictures.pixels(index), self.side) for index in self.indices[part]]
        return torch.from_numpy(np.stack([unit(image) for image in images]))


class TestPictures(HeldOut):
    """All held-out pictures as one evaluation batch, whose images are read as they are needed: image, label.

    One batch, because calibration and the table of classes are not means of parts.
    """

    __test__ = False  # not a test case for pytest

    def __init__(self, pictures: Pictures, indices: Sequence[int], side: int):
        self.indices = indices
        labels = torch.from_numpy(pictures.labels[np.asarray(indices, dtype=np.int64)])
        super().__init__([{"image": LazyImages(pictures, indices, side), "label": labels}] if len(indices) else [])

    @property
    def samples(self) -> int:
        return len(self.indices)


def class_names(data: Data) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers; none where nothing tells them.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it has no subfolders, or the names do not suit the preset.
    """
    if data.preset:
        own = PRESET_CLASSES[data.preset]
        if data.classes and len(data.classes) != len(own):
            raise ValueError(f"data.classes: {data.preset} has {len(own)} classes, not {len(data.classes)}")
        return data.classes or own
    if data.classes or data.root is None:
        return data.classes
    root = Path(data.root)
    if not root.is_dir():
        raise FileNotFoundError(f"data.root: no such folder: {root}")
    found = tuple(sorted(_spoken(f.name) for f in root.iterdir() if f.is_dir() and not f.name.startswith(".")))
    if len(found) < 2:
        raise ValueError(f"data.root: {root} has {len(found)} subfolders; one for each class is needed, two at least")
    return found


def loaders(data: Data, train: TrainConfig | None = None) -> tuple[DrawnBatches, TestPictures]:
    """Training batches and held-out pictures of the settings; which are held out depends on `train.seed`.

    Raises:
        FileNotFoundError: a folder that is not there, or holds no image.
        ValueError: no folder and no preset is given, or too few images to hold one out.
    """
    train = train or TrainConfig()
    if data.root is None and not data.preset:
        raise ValueError("data.root: not set; give a folder with a subfolder for each class (or data.preset)")
    pictures = _pictures(data)
    if data.test is not None:
        testing: Pictures = FolderPictures(data.test, class_names(data))
        kept, held_out = range(len(pictures.labels)), range(len(testing.labels))
    else:
        testing = pictures
        kept, held_out = split(range(len(pictures.labels)), data.holdout, train.seed)
    dataset = CaptionedGlyphs(data) if data.loss == "pairs" else LabelledPictures(pictures, kept, data)
    batches = DrawnBatches(dataset, train.batch_size, train.seed, train.workers)
    return batches, TestPictures(testing, held_out, data.image_size)


def _pictures(data: Data) -> Pictures:
    if data.preset == "digits":
        return handwritten_digits(data.image_size)
    if data.preset:
        return drawn(data.preset, data.samples, data.image_size)
    assert data.root is not None
    return FolderPictures(data.root, class_names(data))


def _spoken(folder: str) -> str:
    """A folder's name as a person says it."""
    return folder.replace("_", " ")


def default_steps(n_pictures: int, recipe: Recipe) -> int:
    """How long to train on `n_pictures` where the recipe does not say: ten rounds, within 200 and 5000 steps."""
    return max(200, min(5000, 10 * n_pictures // recipe.train.batch_size))
