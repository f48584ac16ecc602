"""How well mapped embeddings find their person: verification and identification, by how far a head was turned.

Everything is computed from the cosines of all probes (rows) with a gallery of one embedding for each person (columns).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

BUCKETS = ((0, 25), (25, 45), (45, 65), (65, 75), (75, 181))
"""Ranges of |yaw| in degrees, the upper end excluded."""
FARS = (1e-2, 1e-3, 1e-4)
"""Rates of false acceptance at which true acceptance is told."""


@dataclass(frozen=True)
class Trials:
    """All comparisons of some probes with a gallery."""

    cosine: Array
    """(N, P)."""
    person: NDArray[np.int64]
    """(N,) the column that is right."""
    yaw: Array
    """(N,) degrees."""

    @property
    def genuine(self) -> Array:
        """(N,) cosines with the right person."""
        return self.cosine[np.arange(len(self.person)), self.person]

    @property
    def impostor(self) -> Array:
        """(N, P - 1) cosines with the others."""
        n, p = self.cosine.shape
        return self.cosine[np.arange(p) != self.person[:, None]].reshape(n, p - 1)

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Trials:
        return Trials(self.cosine[chosen], self.person[chosen], self.yaw[chosen])

    def turned(self, low: float, high: float) -> Trials:
        """Those with low <= |yaw| < high."""
        return self.rows((np.abs(self.yaw) >= low) & (np.abs(self.yaw) < high))


def trials(probe: Array, gallery: Array, person: NDArray[np.int64], yaw: Array) -> Trials:
    """Of embeddings (N, D) and (P, D) of any length.

    Raises:
        ValueError: fewer than two persons, who are nothing to tell apart.
    """
    if len(gallery) < 2:
        raise ValueError(f"{len(gallery)} persons are nothing to tell apart; 2 or more work")
    probe, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (probe, gallery))
    return Trials(probe @ gallery.T, person, yaw)


def threshold_at(impostor: Array, far: float) -> float:
    """The smallest cosine that at most a share `far` of the impostors reaches; the largest one where there are too
    few."""
    flat = np.sort(impostor, axis=None)[::-1]
    return float(np.nextafter(flat[min(len(flat) - 1, math.floor(far * len(flat)))], np.inf))


def tar_at(found: Trials, far: float) -> float:
    """Share of true acceptance where a share `far` of impostors is accepted, both among these trials."""
    return float((found.genuine >= threshold_at(found.impostor, far)).mean())


def equal_error_rate(found: Trials) -> float:
    """Where false acceptance and false rejection are alike."""
    genuine, impostor = np.sort(found.genuine), np.sort(found.impostor, axis=None)
    places = np.unique(np.concatenate([genuine, impostor]))
    rejected = np.searchsorted(genuine, places, "left") / len(genuine)
    accepted = 1 - np.searchsorted(impostor, places, "left") / len(impostor)
    nearest = np.abs(rejected - accepted).argmin()
    return float((rejected[nearest] + accepted[nearest]) / 2)


def rank_one(found: Trials) -> float:
    """Share of probes whose most similar person is the right one."""
    return float((found.cosine.argmax(1) == found.person).mean())


def log_loss(found: Trials, temperature: float = 0.07) -> float:
    """Mean negative log probability of the right person, by a softmax over the gallery."""
    logits = found.cosine / temperature
    top = logits.max(1)
    return float((np.log(np.exp(logits - top[:, None]).sum(1)) + top - found.genuine / temperature).mean())


def scores(found: Trials) -> dict[str, float]:
    """All figures of some trials, and of those of each range of yaws that has some.

    Returns:
        `cosine`, `rank-1`, `eer`, `nll`, `tar@1e-2`, `tar@1e-3`, `tar@1e-4`; then `cosine 25-45` and so on, of each
        range, where only the impostors of that range count.
    """
    table = {
        "nll": log_loss(found),
        "cosine": float(found.genuine.mean()),
        "rank-1": rank_one(found),
        "eer": equal_error_rate(found),
    }
    table |= {f"tar@{name(far)}": tar_at(found, far) for far in FARS}
    for low, high in BUCKETS:
        part = found.turned(low, high)
        if len(part.person):
            label = bucket_name(low, high)
            table[f"cosine {label}"] = float(part.genuine.mean())
            table[f"rank-1 {label}"] = rank_one(part)
            table[f"tar@1e-3 {label}"] = tar_at(part, 1e-3)
    return table


def name(far: float) -> str:
    """0.001 -> '1e-3'."""
    return f"1e{round(math.log10(far))}"


def bucket_name(low: float, high: float) -> str:
    """'25-45'; the last is '75-'."""
    return f"{low}-" if high > 180 else f"{low}-{high}"


# ------------------------------------------------------------------------------------------- one threshold for all


@dataclass(frozen=True)
class Calibration:
    """Thresholds at which a wanted share of impostors is accepted, for each range of yaws.

    With a single threshold the turned views of strangers are accepted too often or those of the right person never.
    """

    far: float
    overall: float
    """That of all ranges together."""
    thresholds: Mapping[str, float]
    """By the name of the range."""

    def of(self, yaw: Array) -> Array:
        """The threshold of each probe."""
        names = [bucket_name(low, high) for low, high in BUCKETS]
        places = np.searchsorted([high for _, high in BUCKETS], np.abs(yaw), "right").clip(max=len(BUCKETS) - 1)
        return np.array([self.thresholds.get(names[place], self.overall) for place in places])


def calibrated(found: Trials, far: float = 1e-3) -> Calibration:
    """Thresholds of trials with persons that are used for nothing else.

    Raises:
        ValueError: a share outside (0, 1).
    """
    if not 0 < far < 1:
        raise ValueError(f"far: {far} is not in (0, 1); 0.001 is usual")
    parts = {bucket_name(*b): found.turned(*b) for b in BUCKETS}
    chosen = {label: threshold_at(part.impostor, far) for label, part in parts.items() if len(part.person)}
    return Calibration(far, threshold_at(found.impostor, far), chosen)


def false_acceptance(found: Trials, calibration: Calibration | float) -> dict[str, float]:
    """The share of impostors that is accepted in each range, at one threshold or by a calibration."""
    rates = {}
    for low, high in BUCKETS:
        part = found.turned(low, high)
        if len(part.person):
            limit = calibration.of(part.yaw)[:, None] if isinstance(calibration, Calibration) else calibration
            rates[bucket_name(low, high)] = float((part.impostor >= limit).mean())
    return rates


# ----------------------------------------------------------------------------------------------------- intervals


def interval(
    found: Trials, figure: Callable[[Trials], float], draws: int = 200, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """A bootstrap interval of a figure, over persons: the views of a person are no independent trials.

    Args:
        found: the trials.
        figure: such as `rank_one`; a draw that it refuses is left out.
        draws: bootstrap samples.
        level: share of them within.
        seed: of the draws.
    """
    rng = np.random.default_rng((seed, 17))
    people = np.unique(found.person)
    of_person = {p: np.flatnonzero(found.person == p) for p in people}
    values = []
    for _ in range(draws):
        drawn = rng.choice(people, len(people))
        part = found.rows(np.concatenate([of_person[p] for p in drawn]))
        columns = np.unique(drawn)  # a person who was drawn twice is no stranger to himself
        place = np.full(found.cosine.shape[1], -1)
        place[columns] = np.arange(len(columns))
        if len(columns) > 1:
            values.append(figure(Trials(part.cosine[:, columns], place[part.person], part.yaw)))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def fused(embeddings: Array, group: Sequence[int] | NDArray[np.int64], weight: Array | None = None) -> Array:
    """Templates: one unit embedding for each group of views, their weighted mean.

    Args:
        embeddings: (N, D).
        group: (N,) numbers from 0.
        weight: (N,), such as the quality of each view; None: alike.
    """
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    group = np.asarray(group)
    total = np.zeros((int(group.max()) + 1, embeddings.shape[1]))
    np.add.at(total, group, unit * (np.ones(len(unit)) if weight is None else np.asarray(weight))[:, None])
    return total / np.linalg.norm(total, axis=1, keepdims=True).clip(1e-12)
