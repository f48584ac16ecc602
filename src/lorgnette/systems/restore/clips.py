"""Frames of clips, from which the share of the feature cache is learnt: the pictures of one folder, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from lorgnette.images.folders import SUFFIXES, in_order
from lorgnette.train.batches import Draw

T = TypeVar("T", bound=Path | tuple[Path, Path])
Item = TypeVar("Item", bound=Path | tuple[Path, Path], contravariant=True)


class OfOnePicture(Protocol[Item]):
    """A data set of samples by themselves."""

    @property
    def pixels(self) -> Callable[[Path], Tensor]: ...

    def sample(self, item: Item, /, rng: np.random.Generator, own: np.random.Generator) -> dict[str, Tensor]:
        """`own` makes what differs from frame to frame: noise. The rest is a function of `rng`."""
        ...


class Windows(Generic[T]):
    """Samples of frames that follow each other: the same place in all, damaged as strongly, with noise of its own each.

    Args:
        dataset: makes the sample of one frame.
        items: of `dataset`: a clean image, or a damaged and a clean one. Those whose clean images lie in one folder are
            a clip.
        frames: in each sample.

    Raises:
        ValueError: no folder holds so many images.
    """

    def __init__(self, dataset: OfOnePicture[T], items: Sequence[T], frames: int):
        self.dataset = dataset
        clips: dict[Path, list[T]] = {}
        for item in sorted(items, key=lambda item: (str(_clean(item).parent), in_order(_clean(item)))):
            clips.setdefault(_clean(item).parent, []).append(item)
        self.windows = [clip[i : i + frames] for clip in clips.values() for i in range(len(clip) - frames + 1)]
        if not self.windows:
            most = max(map(len, clips.values()), default=0)
            raise ValueError(f"data.frames: {frames} in a row are in no folder to learn from: at most {most}")

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def first(self) -> list[Path]:
        """The clean image of the first frame of each sample."""
        return [_clean(window[0]) for window in self.windows]

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """lq (frames, C, p, p) and gt (frames, C, s p, s p) in [0, 1]; cache_key, which names the clip."""
        window = self.windows[draw.index]
        files = [_clean(item) for item in window]
        for file in files:
            if self.dataset.pixels(file).shape != self.dataset.pixels(files[0]).shape:
                raise ValueError(
                    f"data.frames: {file} has another size than {files[0]}: frames of a clip have one; give each clip a"
                    " folder of its own (model.cache_in_training learns from clips)"
                )
        samples = []
        for number, item in enumerate(window):
            own = np.random.default_rng((draw.seed, draw.step, draw.slot, 1, number)) if number else None
            rng = draw.rng()
            samples.append(self.dataset.sample(item, rng, own or rng))
        stacked = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        return {**stacked, "cache_key": str(files[0].parent)}


def _clean(item: Path | tuple[Path, Path]) -> Path:
    return item[1] if isinstance(item, tuple) else item


def frames_before(file: Path, count: int) -> list[Path]:
    """The files of up to `count` frames before this one, in its folder, the earliest first."""
    clip = sorted((path for path in file.parent.iterdir() if path.suffix.lower() in SUFFIXES), key=in_order)
    place = clip.index(file)
    return clip[max(0, place - count) : place]
