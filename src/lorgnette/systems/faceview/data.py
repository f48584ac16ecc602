"""Batches of embeddings: views to be mapped, what they are mapped to, whose they are; split by persons."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorgnette.common.parts import NEW, LeftOut, Parts
from lorgnette.images.folders import Folders, folders
from lorgnette.images.patches import split
from lorgnette.systems.faceview.faces import Person, Views, read_people, stacked
from lorgnette.systems.faceview.points import invented
from lorgnette.systems.faceview.pose import normalised_keypoints
from lorgnette.systems.faceview.recipe import Data, Recipe
from lorgnette.train.batches import Draw, DrawnBatches, HeldOut
from lorgnette.train.config import TrainConfig

SHOWN = 5


class FaceViews:
    """Views of persons to learn from.

    Args:
        people: by name.
        data: the settings.
        replay: persons of the base's own domain, of whom each sample brings a view along.

    Attributes:
        labels: number of the person of each view, by which a federation deals views out.

    Raises:
        ValueError: no view lies between the yaws of the settings.
    """

    def __init__(self, people: Mapping[str, Person], data: Data, replay: Mapping[str, Person] | None = None):
        self.data, self.persons = data, list(people.values())
        views = stacked([person.video for person in self.persons])
        labels = np.repeat(np.arange(len(self.persons)), [len(person.video) for person in self.persons])
        yaw = np.rad2deg(np.abs(views.pose[:, 1]))
        chosen = (yaw >= data.min_yaw) & ((yaw <= data.max_yaw) | (data.max_yaw >= 90))
        if not chosen.any():
            raise ValueError(
                f"data.min_yaw, data.max_yaw: no view is turned by {data.min_yaw} to {data.max_yaw} degrees"
            )
        self.views, self.labels = views[chosen], labels[chosen]
        self.fronts = np.stack([mean_front(person) for person in self.persons])
        self.by_person = [np.flatnonzero(self.labels == number) for number in range(len(self.persons))]
        self.replay = None if replay is None else stacked([person.video for person in replay.values()])

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """See `batch_of`; with `replay_src`, `replay_angles`, `replay_keypoints` where there is a replay."""
        person = int(self.labels[draw.index])
        sample = _sample(self.views, draw.index) | {"person": person}
        target, pose = self.fronts[person], np.zeros(3, np.float32)
        if self.data.targets == "any":  # the front as often as any other view
            other = int(draw.rng().integers(-1, len(self.by_person[person])))
            if other >= 0:
                row = self.by_person[person][other]
                target, pose = unit(self.views.embedding[row]), self.views.pose[row]
        sample |= {"target": torch.from_numpy(target), "pose": torch.from_numpy(pose)}
        if self.replay is not None:
            row = int(draw.rng().integers(len(self.replay)))
            sample |= {f"replay_{name}": value for name, value in _sample(self.replay, row).items()}
        return sample


class HeldOutFaces(HeldOut):
    """All held-out views as one batch: rates of errors are not means of parts.

    The gallery is the first frontal view of each person; all other views are probes.
    """

    def __init__(self, people: Mapping[str, Person]):
        self.people = people
        super().__init__([test_batch(people)] if people else [])

    @property
    def samples(self) -> int:
        return sum(len(batch["src"]) for batch in self.batches)


def test_batch(people: Mapping[str, Person]) -> dict[str, Tensor]:
    """The probes of persons and the gallery that they are compared with.

    Returns:
        `src` (N, D) of length 1, `angles` (N, 3), `keypoints` (N, 5, 3) where there are some, `person` (N,), and
        `gallery` (P, D) with `gallery_angles` (P, 3) and, where there are some, `gallery_keypoints`, row by row of the
        persons.
    """
    probes = [stacked([p.front[1:], p.video]) if len(p.front) > 1 else p.video for p in people.values()]
    batch = _tensors(stacked(probes))
    batch["person"] = torch.from_numpy(np.repeat(np.arange(len(probes)), [len(v) for v in probes]))
    gallery = _tensors(stacked([person.front[:1] for person in people.values()]))
    return batch | {"gallery": gallery.pop("src")} | {f"gallery_{name}": value for name, value in gallery.items()}


def unit(embedding: np.ndarray) -> np.ndarray:
    """(..., D) of length 1."""
    return embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)


def mean_front(person: Person) -> np.ndarray:
    """(D,): the direction of the mean of the frontal views, each of length 1."""
    return unit(unit(person.front.embedding).mean(0))


def _tensors(views: Views) -> dict[str, Tensor]:
    found = {"src": torch.from_numpy(unit(views.embedding)), "angles": torch.from_numpy(views.pose)}
    if views.keypoints is None:
        return found
    return found | {"keypoints": normalised_keypoints(torch.from_numpy(views.keypoints))}


def _sample(views: Views, row: int) -> dict[str, Tensor]:
    return {name: value[0] for name, value in _tensors(views[row : row + 1]).items()}


def read_folders(root: Folders, data: Data) -> dict[str, Person]:
    """The persons of one folder or several, where each keeps its own.

    Warns:
        LeftOut: of persons without a front, or without anything else.
    """
    people: dict[str, Person] = {}
    left_out: dict[str, str] = {}
    places = folders(root)
    for place in places:
        found, without = read_people(place, data)
        prefix = f"{Path(place).resolve().name}/" if len(places) > 1 else ""
        people |= {f"{prefix}{name}": person for name, person in found.items()}
        left_out |= {f"{prefix}{name}": f"{prefix}{why}" for name, why in without.items()}
    _say(left_out, len(people) + len(left_out))
    return people


def _say(left_out: Mapping[str, str], of: int) -> None:
    if left_out:
        reasons = [*list(left_out.values())[:SHOWN], *(["..."] if len(left_out) > SHOWN else [])]
        line = f"{len(left_out)} of {of} persons left out: {'; '.join(reasons)}"
        warnings.warn(LeftOut(line, left_out), stacklevel=3)


def loaders(
    data: Data, train: TrainConfig | None = None, before: Parts | None = None
) -> tuple[DrawnBatches, HeldOutFaces]:
    """Training batches and held-out persons of the settings; who is held out depends on `train.seed`.

    Args:
        data: the settings.
        train: how to train.
        before: the persons of a run that goes on, who are taken again.

    Raises:
        FileNotFoundError: a folder that is not there, or holds no faces.
        ValueError: no folder and no preset is given, arrays that do not do, or too few persons to hold one out.

    Warns:
        LeftOut: of persons without a front, or without anything else.
    """
    train = train or TrainConfig()
    replay = None if data.replay is None else read_folders(data.replay, data)
    if data.root is None and not data.preset:
        raise ValueError("data.root: not set; give a folder as `lorgnette embed` writes it (or data.preset points)")
    if data.root is None:
        people = invented(data.people, data.views, data.preset)
        kept, held_out = split(list(people), data.holdout, train.seed)
        learnt, tests = {n: people[n] for n in kept}, {n: people[n] for n in held_out}
        parts = None
    else:
        people = read_folders(data.root, data)
        others = None if data.test is None else people if data.test == data.root else read_folders(data.test, data)
        parts = _parts(people, others, data.holdout, train.seed, before)
        learnt = {name: people[name] for name in parts.training}
        tests = {name: (others or people)[name] for name in parts.held_out}
        _apart(parts, data)
    widths = {p.front.embedding.shape[1] for group in (learnt, tests, replay or {}) for p in group.values()}
    if len(widths) > 1:
        raise ValueError(f"data: embeddings of different lengths, as of different encoders: {sorted(widths)}")
    dataset = FaceViews(learnt, data, replay)
    return DrawnBatches(dataset, train.batch_size, train.seed, train.workers, parts), HeldOutFaces(tests)


def _parts(
    people: Mapping[str, Person], others: Mapping[str, Person] | None, share: float, seed: int, before: Parts | None
) -> Parts:
    digests = {name: person.digest for name, person in people.items()}
    tests = None if others is None else {name: person.digest for name, person in others.items()}
    if before is None:
        if tests is None and share and len(digests) < 2:
            raise ValueError("data.holdout: there is one person only; add others, set data.test, or hold out 0")
        kept, held_out = split(list(digests), share, seed) if tests is None else (list(digests), list(tests))
        left_out: dict[str, str] = {}
    else:
        kept, held_out, gone = before.found_in({**digests, **(tests or {})})
        kept, held_out = [n for n in kept if n in digests], [n for n in held_out if n in (tests or digests)]
        left_out = {n: f"{n}: {NEW}" for n in {**digests, **(tests or {})} if n not in (*kept, *held_out)}
        _say(left_out | {n: f"{n} is gone" for n in gone}, len(digests) + len(gone))
    return Parts({n: digests[n] for n in kept}, {n: (tests or digests)[n] for n in held_out}, left_out)


def _apart(parts: Parts, data: Data) -> None:
    """Nobody is learnt from and scored, except where the same folder is named for both."""
    both = set(parts.training.values()) & set(parts.held_out.values())
    if both and data.test != data.root:
        names = [name for name, digest in parts.held_out.items() if digest in both]
        raise ValueError(f"data.test: {names[0]} and {len(names) - 1} more are in data.root as well; hold out others")


def default_steps(n_views: int, recipe: Recipe) -> int:
    """How long to train on `n_views` where the recipe does not say: ten rounds, within 200 and 3000 steps."""
    return max(200, min(3000, 10 * n_views // recipe.train.batch_size))


def test_people(folder: str, data: Data) -> dict[str, Person]:
    """The persons of a folder, or of a preset (its held-out heads), to be scored."""
    if folder in ("points", "points-worn"):
        people = invented(data.people, data.views, folder)
        _, held_out = split(list(people), data.holdout, 0)
        return {name: people[name] for name in held_out}
    return read_folders(folder, data)
