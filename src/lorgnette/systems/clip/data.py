"""Pictures with labels: folders with a subfolder for each class, handwritten digits, drawn shapes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorgnette.common.parts import LeftOut, Parts
from lorgnette.common.store import BoundedStore
from lorgnette.images.division import divide
from lorgnette.images.file import read_image
from lorgnette.images.folders import SUFFIXES, Folders, by_folder, find_images, folders
from lorgnette.images.judging import look_at, say_left_out
from lorgnette.images.patches import split
from lorgnette.systems.clip import glyphs
from lorgnette.systems.clip.classes import PRESET_CLASSES, class_names, shown
from lorgnette.systems.clip.names import check_different, class_key, spoken
from lorgnette.systems.clip.preprocess import levels, random_square, square, unit
from lorgnette.systems.clip.recipe import Data, Recipe
from lorgnette.train.batches import Draw, DrawnBatches, HeldOut
from lorgnette.train.config import TrainConfig

CACHE_BYTES = 512 * 2**20  # decoded images kept in memory, for each loading process


class Pictures(Protocol):
    """Something with as many pictures as labels."""

    labels: NDArray[np.int64]

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        ...


class FolderPictures:
    """Image files, one subfolder for each class.

    Args:
        root: the folder, or several.
        classes: names of the classes, as `class_names` gives them.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: an image lies outside the subfolders, or in one that is no class.
    """

    def __init__(self, root: Folders, classes: Sequence[str]):
        exact = {spoken(name): number for number, name in enumerate(classes)}
        alike = {class_key(name): number for number, name in enumerate(classes)}
        self.files: list[Path] = []
        labels = []
        for folder in folders(root):
            for file in find_images(folder):
                name = file.relative_to(folder).parts[0]
                number = exact.get(spoken(name), alike.get(class_key(name)))
                if number is None or file.parent == Path(folder):
                    raise ValueError(f"data.root: {file} is in no subfolder of a class; there is {shown(classes)}")
                self.files.append(file)
                labels.append(number)
        self.labels = np.array(labels)
        self._place = {str(file): place for place, file in enumerate(self.files)}
        self._kept = BoundedStore(CACHE_BYTES)

    def sound(self) -> tuple[dict[str, str], dict[str, str]]:
        """Files that can be read, each with a hash of its content; and the others, each with the reason."""
        looks = {str(file): look for file, look in look_at(self.files).items()}
        broken = {name: look.problem for name, look in looks.items() if look.problem}
        return {name: look.digest for name, look in looks.items() if not look.problem}, broken

    def places(self, names: Iterable[str]) -> list[int]:
        """Where these files stand in `files`."""
        return [self._place[name] for name in names]

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


def loaders(
    data: Data, train: TrainConfig | None = None, before: Parts | None = None
) -> tuple[DrawnBatches, TestPictures]:
    """Training batches and held-out pictures of the settings; which are held out depends on `train.seed`.

    Args:
        data: the settings.
        train: how to train.
        before: the parts of a run that goes on, which are taken again.

    Raises:
        FileNotFoundError: a folder that is not there, or holds no image.
        ValueError: no folder and no preset is given, too few images to hold one out, a class without an image, or two
            classes of one name.

    Warns:
        LeftOut: of images that cannot be read, and of classes of which there is none to learn from.
    """
    train = train or TrainConfig()
    check_different(data.classes)
    if data.root is None and not data.preset:
        raise ValueError("data.root: not set; give a folder with a subfolder for each class (or data.preset)")
    if data.root is None:
        return _of_preset(data, train)
    classes = class_names(data)
    pictures = FolderPictures(data.root, classes)
    there, broken = pictures.sound()
    alone = [] if data.classes else _missing(classes, pictures, there)
    if alone:
        raise ValueError(
            f"data.root: no image that can be read in the subfolder of {shown(alone)} (looked for"
            f" {', '.join(SUFFIXES)}): add some, take the folder away, or say with --data.classes which are the classes"
        )
    testing, tests, unread = pictures, None, {}
    if data.test is not None:
        testing = pictures if data.test == data.root else FolderPictures(data.test, classes)
        tests, unread = testing.sound()
        if testing is not pictures:
            say_left_out(unread, len(testing.files))
    kinds = dict(zip(there, pictures.labels[pictures.places(there)].tolist(), strict=True))
    parts = divide(there, tests, data.holdout, train.seed, broken, before, kinds)
    parts = replace(parts, left_out={**parts.left_out, **unread})
    if missing := _missing(classes, pictures, parts.training):
        warnings.warn(LeftOut(f"data.root: of {shown(missing)} there is no image to learn from", missing), stacklevel=2)
    kept = pictures.places(parts.training)
    dataset = LabelledPictures(pictures, kept, data)
    of = by_folder([pictures.files[place] for place in kept], folders(data.root))
    batches = DrawnBatches(dataset, train.batch_size, train.seed, train.workers, parts, of)
    return batches, TestPictures(testing, testing.places(parts.held_out), data.image_size)


def _of_preset(data: Data, train: TrainConfig) -> tuple[DrawnBatches, TestPictures]:
    pictures: Pictures
    if data.preset == "digits":
        pictures = handwritten_digits(data.image_size)
    else:
        pictures = drawn(data.preset, data.samples, data.image_size)
    kept, held_out = split(range(len(pictures.labels)), data.holdout, train.seed)
    dataset = CaptionedGlyphs(data) if data.loss == "pairs" else LabelledPictures(pictures, kept, data)
    batches = DrawnBatches(dataset, train.batch_size, train.seed, train.workers)
    return batches, TestPictures(pictures, held_out, data.image_size)


def test_pictures(folder: Folders, classes: Sequence[str], side: int) -> TestPictures:
    """All images of a folder of classes, to be scored; those that cannot be read are left out with a warning."""
    pictures = FolderPictures(folder, classes)
    there, broken = pictures.sound()
    say_left_out(broken, len(pictures.files))
    return TestPictures(pictures, pictures.places(there), side)


def _missing(classes: Sequence[str], pictures: FolderPictures, there: Iterable[str]) -> list[str]:
    """Classes of which none of these images is one."""
    seen = set(pictures.labels[pictures.places(there)].tolist())
    return [name for number, name in enumerate(classes) if number not in seen]


def default_steps(n_pictures: int, recipe: Recipe) -> int:
    """How long to train on `n_pictures` where the recipe does not say: ten rounds, within 200 and 5000 steps."""
    return max(200, min(5000, 10 * n_pictures // recipe.train.batch_size))
