"""What a run learns from and what it is scored on: images that can be read, pairs that fit, and which are held out."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lorgnette.common.parts import NEW, LeftOut, Parts
from lorgnette.images.folders import Folders, Item, find_items, pair_images
from lorgnette.images.judging import SHOWN, Look, look_at, say_left_out
from lorgnette.images.patches import split

Fits = Callable[[tuple[Path, Path], tuple[int, int], tuple[int, int]], object]
"""Called with the degraded and the clean file, and the height and width of each: a ValueError where they do not fit."""

ODD_SHARE = 0.05  # as many pairs at most are taken for mistakes, rather than for another kind of data
ALIKE, UNLIKE = 0.8, 0.4  # correlation of two small grey versions: of the same picture, of two different ones


class Judged(NamedTuple):
    """Items that can be used, and the others."""

    items: Mapping[str, Item]
    """By the name of the clean file."""
    digests: Mapping[str, str]
    """Of the clean file's bytes."""
    left_out: Mapping[str, str]
    """Name -> why, in one line."""

    def said(self) -> Judged:
        """The same, after a warning of what is left out; a ValueError where nothing is left."""
        say_left_out(self.left_out, len(self.items) + len(self.left_out))
        return self


class Division(NamedTuple):
    """What is learnt from and what is scored."""

    training: list[Item]
    held_out: list[Item]
    parts: Parts
    """The same by name, with what is left out."""


def judged(items: Iterable[Item], fits: Fits | None = None) -> Judged:
    """Look at all files of some items. Left out are broken ones, pairs that do not fit, and pairs unlike all others."""
    named = dict(_named(items))
    looks = look_at(file for item in named.values() for file in item if file is not None)
    left_out: dict[str, str] = {}
    pairs: dict[str, tuple[Look, Look]] = {}
    for name, (lq, gt) in named.items():
        problem = looks[gt].problem or (looks[lq].problem if lq else "")
        if lq is not None and not problem:
            pairs[name] = looks[lq], looks[gt]
            problem = _refusal(fits, (lq, gt), looks[lq].size, looks[gt].size)
        if problem:
            left_out[name] = problem
    fitting = {name: pair for name, pair in pairs.items() if name not in left_out}
    left_out |= {name: f"{named[name][0]} and {name}: {why}" for name, why in unlike_most(fitting).items()}
    sound = {name: item for name, item in named.items() if name not in left_out}
    return Judged(sound, {name: looks[gt].digest for name, (_, gt) in sound.items()}, left_out)


def divided(
    clean: Folders,
    degraded: Folders | None,
    test: Folders | None,
    test_degraded: Folders | None,
    holdout: float,
    seed: int,
    pair: Callable[[str, str], Iterable[tuple[Path, Path]]] = pair_images,
    fits: Fits | None = None,
    test_fits: Fits | None = None,
    before: Parts | None = None,
) -> Division:
    """Items to learn from and items to be scored on: the latter from `test`, or a share of the former where it is None.

    Folders, pairs and errors are those of `find_items`; `holdout` and `seed` those of `split`; `fits` is that of
    `judged`. With `before`, the parts of a run that goes on, both are what they were when it began.

    Warns:
        LeftOut: of what is left out.
    """
    own = judged(find_items(clean, degraded, pair), fits)
    tests = None if test is None else judged(find_items(test, test_degraded, pair), test_fits).said()
    parts = divide(own.digests, None if tests is None else tests.digests, holdout, seed, own.left_out, before)
    if tests is not None:
        parts = replace(parts, left_out={**parts.left_out, **tests.left_out})
    training = [own.items[name] for name in parts.training]
    return Division(training, [(tests or own).items[name] for name in parts.held_out], parts)


def divide(
    there: Mapping[str, str],
    test: Mapping[str, str] | None,
    share: float,
    seed: int,
    left_out: Mapping[str, str],
    before: Parts | None = None,
    kinds: Mapping[str, int] | None = None,
) -> Parts:
    """Which items are learnt from and which are held out.

    Args:
        there: those that can be used, name -> hash of the content.
        test: those of a folder of held-out images; None: a `share` of the former is held out.
        share: see `split`.
        seed: see `split`.
        left_out: those that cannot be used, name -> why.
        before: the parts of a run that goes on: what it held out stays so, and what is new is left out.
        kinds: the class of each item, where a share of every class is held out.

    Warns:
        LeftOut: of what is left out, and of what is gone.
    """
    every = {**there, **(test or {})}
    kept, held_out, gone = ([], [], []) if before is None else before.found_in(every)
    if before is None or (before.grows and not kept and not held_out):
        say_left_out(left_out, len(there) + len(left_out))
        of = None if kinds is None else [kinds[name] for name in there]
        kept, held_out = split(list(there), share, seed, of) if test is None else (list(there), list(test))
    else:
        kept = [name for name in kept if name in there]
        held_out = [name for name in held_out if name in (there if test is None else test)]
        known = {*kept, *held_out}
        new = [name for name in every if name not in known]
        if before.grows:
            kept, new = [*kept, *(name for name in new if name in there)], []
        left_out = {**left_out, **{name: f"{name}: {NEW}" for name in new}}
        say_left_out(left_out, len(every) + len(left_out) - len(new))
        if gone := [name for name in gone if name not in left_out]:
            names = ", ".join([*gone[:SHOWN], *(["..."] if len(gone) > SHOWN else [])])
            line = f"{len(gone)} images that the run began with are gone: {names}"
            warnings.warn(LeftOut(line, gone), stacklevel=3)
    return Parts({name: every[name] for name in kept}, {name: every[name] for name in held_out}, left_out)


def unlike_most(pairs: Mapping[str, tuple[Look, Look]]) -> dict[str, str]:
    """Pairs (degraded, clean) that are unlike all others: turned, of another scale, or of two pictures. Name -> why."""
    if len(pairs) < 2:
        return {}
    scales = {name: tuple(b / a for a, b in zip(lq.size, gt.size, strict=True)) for name, (lq, gt) in pairs.items()}
    slack = {name: math.log(1.1 + 2 / min(lq.size)) for name, (lq, _) in pairs.items()}  # sizes are whole numbers
    odd: dict[str, str] = {}
    stretch = {name: abs(math.log(y / x)) for name, (y, x) in scales.items()}
    usual = statistics.median_low(stretch.values())
    for name, (y, x) in scales.items():
        if stretch[name] > usual + slack[name]:
            odd[name] = f"{y:.3g} times as high and {x:.3g} times as wide, unlike the others; is one of them turned?"
    few = max(1, int(ODD_SHARE * len(pairs)))
    if len(pairs) < 3:
        return odd
    zoom = {name: math.log(y * x) / 2 for name, (y, x) in scales.items() if name not in odd}
    middle = statistics.median_low(zoom.values())
    other = {n: f"{math.exp(z):.3g} times as large, the others {math.exp(middle):.3g} times" for n, z in zoom.items()
             if abs(z - middle) > slack[n]}  # fmt: skip
    likeness = {name: _likeness(*pair) for name, pair in pairs.items() if name not in odd}
    strange = {n: "they show different pictures" for n, value in likeness.items() if value < UNLIKE}
    if statistics.median_low(likeness.values()) < ALIKE:
        strange = {}
    for found in (other, strange):
        odd |= found if len(found) <= few else {}
    return odd


def _likeness(lq: Look, gt: Look) -> float:
    """Correlation of two small grey versions; 1 where one of them shows nothing."""
    assert lq.thumbnail is not None
    assert gt.thumbnail is not None
    a, b = (t.ravel().astype(np.float64) - t.mean() for t in (lq.thumbnail, gt.thumbnail))
    if min(a.std(), b.std()) < 0.01:
        return 1.0
    return float((a * b).mean() / (a.std() * b.std()))


def _named(items: Iterable[Item]) -> Iterator[tuple[str, Item]]:
    """Each item by its clean file; a folder that is named twice gives each of its items twice."""
    seen: dict[str, int] = {}
    for item in items:
        name = str(item[1])
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name} ({seen[name]})"), item


def _refusal(fits: Fits | None, files: tuple[Path, Path], lq: tuple[int, int], gt: tuple[int, int]) -> str:
    try:
        if fits is not None:
            fits(files, lq, gt)
    except ValueError as error:
        return str(error)
    return ""
