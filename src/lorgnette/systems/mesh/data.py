"""Organs of volumes as batches: learnt from at random, held out by case."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from lorgnette.images.folders import by_folder, folders
from lorgnette.systems.mesh.cases import Case, Organ, organs_of, read_sample
from lorgnette.systems.mesh.recipe import Data, Recipe
from lorgnette.systems.mesh.samples import Sample, collate
from lorgnette.train.batches import Draw, DrawnBatches, HeldOut
from lorgnette.train.config import TrainConfig


class OrganSamples:
    """Organs as a data set to train on; nothing about them is random but their order."""

    collate = staticmethod(collate)

    def __init__(self, organs: Sequence[Organ]):
        self.organs = list(organs)

    def __len__(self) -> int:
        return len(self.organs)

    def __getitem__(self, draw: Draw) -> Sample:
        return read_sample(self.organs[draw.index])


class TestOrgans(HeldOut):
    """Held-out organs, one batch each, read when they are asked for."""

    __test__ = False  # not a test case for pytest

    def __init__(self, organs: Sequence[Organ]):
        self.organs = list(organs)

    def __len__(self) -> int:
        return len(self.organs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return collate([read_sample(self.organs[index])])


class TS_SAM3D_Dataset(Dataset[Sample]):
    """Organs of a TotalSegmentator data set, by number: for loops of one's own, with `data_collate`.

    Args:
        root: a folder of cases.
        split: 'train', 'val' or 'test', as its `meta.csv` says; '': all cases.
        organs: names of the organs. Empty: all.
        settings: of `Data`, such as `resolution=32`.

    Raises:
        ValueError: no organ is left.
    """

    data_collate = staticmethod(collate)

    def __init__(self, root: str | Path, split: str = "train", organs: Sequence[str] = (), **settings: Any):
        data = Data(root=str(root), organs=tuple(organs), **settings)
        found = organs_of(root, data)
        self.organs = [o for o in found if split in ("", o.split) and (not organs or o.organ in organs)]
        if not self.organs:
            said = f"{', '.join(sorted({o.split or '(none)' for o in found}))} are its splits"
            raise ValueError(f"split: {split!r} has no organ in {root}; {said}")

    def __len__(self) -> int:
        return len(self.organs)

    def __getitem__(self, index: int) -> Sample:
        return read_sample(self.organs[index])


data_collate = collate


def loaders(data: Data, train: TrainConfig | None = None) -> tuple[DrawnBatches, TestOrgans]:
    """See `lorgnette.systems.protocol.Room`; samples that were not computed before are computed now."""
    if data.root is None:
        raise ValueError("data.root: not set; a folder of volumes with masks of organs")
    train = train or TrainConfig()
    places = folders(data.root)
    found = [organ for place in places for organ in organs_of(place, data)]
    learnt, tested = _divided(found, data)
    if not learnt:
        raise ValueError(f"data.organs: nothing to learn from; there is {', '.join(sorted({o.organ for o in found}))}")
    by_root = by_folder([Path(o.file) for o in learnt], places) if data.cache is None else None
    batches = DrawnBatches(OrganSamples(learnt), train.batch_size, train.seed, train.workers, folders=by_root)
    return batches, TestOrgans(tested)


def prepare(data: Data, progress: Callable[[Sequence[Case]], Iterable[Case]] = iter) -> str:
    """Compute the samples of all organs in `data.root` that were not computed before, and say how many there are."""
    if data.root is None:
        raise ValueError("data.root: not set; a folder of volumes with masks of organs")
    found = [organ for place in folders(data.root) for organ in organs_of(place, data, progress)]
    kept = ", ".join(sorted({str(Path(organ.file).parent) for organ in found}))
    return f"{len(found)} organs of {len({organ.case for organ in found})} cases lie in {kept}"


def default_steps(n: int, recipe: Recipe) -> int:
    """60 passes over the organs, between 200 and 4,000 steps."""
    return min(max(60 * n // recipe.train.batch_size, 200), 4000)


def chosen(organs: Sequence[Organ], names: Sequence[str]) -> list[Organ]:
    """Those of these names; all where none is named.

    Raises:
        ValueError: a name that none has.
    """
    there = {organ.organ for organ in organs}
    if unknown := sorted(set(names) - there):
        raise ValueError(f"data.organs: there is no {', '.join(unknown)}; there is {', '.join(sorted(there))}")
    return [organ for organ in organs if not names or organ.organ in names]


def _divided(found: list[Organ], data: Data) -> tuple[list[Organ], list[Organ]]:
    """What is learnt from and what is held out."""
    learnt = chosen([o for o in found if o.organ not in data.test_organs], data.organs)
    if data.test is not None:
        tested = [organ for place in folders(data.test) for organ in organs_of(place, data)]
        return learnt, chosen(tested, data.test_organs or data.organs)
    if data.test_organs:
        return learnt, chosen(found, data.test_organs)
    cases = {organ.case for organ in learnt}
    unit = (lambda organ: organ.case) if len(cases) > 1 else (lambda organ: organ.name)
    units = sorted({unit(organ) for organ in learnt}, key=_shuffled)
    count = min(max(1, round(data.holdout * len(units))), len(units) - 1) if data.holdout else 0
    held = set(units[:count])
    return [o for o in learnt if unit(o) not in held], [o for o in learnt if unit(o) in held]


def _shuffled(name: str) -> bytes:
    """An order that does not change for others when one is added."""
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
