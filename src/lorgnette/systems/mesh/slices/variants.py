"""Many organs from few: each turned, stretched, bent and mirrored, with noise in the scan and any axis sliced."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorgnette.systems.mesh.lattice import ndimage
from lorgnette.systems.mesh.slices.given import Array, Given, Mask
from lorgnette.systems.mesh.slices.inputs import Values, box_around, inputs, sampled

ROOM = 0.6
"""Around an organ that is cut out, as a share of its size, at each side."""
MOST = 50**3
"""Cells of what is cut out; they are no finer than the scan's voxels."""
COUNTS = (1, 1, 2, 3, 3, 4, 5)
"""How many slices are given, each as often as it stands here."""
ENDS = 0.2
"""How often empty slices beyond both ends are given too."""
NOISE = 24.0
"""Standard deviation of the noise that is added, at most, in the scan's units."""


@dataclass(frozen=True)
class Source:
    """An organ with its surroundings in cells of one size: the scan's values, and signed distances in mm."""

    name: str
    scan: Values
    distances: Values
    cell: float


def source_of(name: str, scan: NDArray[Any], mask: Mask, spacing: Array) -> Source:
    """An organ, cut out of a volume."""
    found = np.argwhere(mask)
    low, high = found.min(0), found.max(0) + 1
    size = (high - low) * spacing
    room = ROOM * np.maximum(size, size.mean() / 2)
    wide = np.ceil(room / spacing).astype(int) + 1
    first = np.maximum(low - wide, 0)
    part = tuple(slice(a, b) for a, b in zip(first, high + wide, strict=True))
    scan, mask = scan[part], mask[part]
    half, image = spacing.min() / 2, ndimage()
    outer, inner = (image.distance_transform_edt(side, sampling=spacing) for side in (~mask, mask))
    signed = image.gaussian_filter(np.where(mask, half - inner, outer - half).astype(np.float32), 0.6)
    cell = max(float(spacing.min()), float(((size + 2 * room).prod() / MOST) ** (1 / 3)))
    places = [np.arange(0, n - 0.5, cell / s) for n, s in zip(mask.shape, spacing, strict=True)]
    return Source(name, sampled(scan, places), sampled(signed, places), cell)


def variant(source: Source, rng: np.random.Generator) -> Source:
    """Another organ like this one: turned, stretched, bent, with noise; in every fourth bright and dark change places.

    It is bent by a cube of 4 x 4 x 4 points (free-form deformation, Sederberg and Parry, SIGGRAPH 1986).
    """
    shape = np.array(source.scan.shape)
    axes = [np.linspace(0, 1, n) for n in shape]
    basis = [np.stack([comb(3, k) * t**k * (1 - t) ** (3 - k) for k in range(4)], 1) for t in axes]
    bend = np.einsum("ai,bj,ck,dijk->dabc", *basis, rng.normal(0, 0.12 * shape.mean(), (3, 4, 4, 4)), optimize=True)
    turn = np.linalg.qr(np.eye(3) + _skew(rng.normal(0, 0.2, 3)))[0]
    turn *= np.sign(np.diag(turn))
    matrix = turn @ np.diag(np.exp(rng.normal(0, 0.12, 3)))
    middle = (shape - 1).reshape(3, 1, 1, 1) / 2
    places = np.tensordot(matrix, np.indices(source.scan.shape) - middle, 1) + middle + bend
    scan, distances = (
        ndimage().map_coordinates(volume, places, order=1, mode="nearest") for volume in (source.scan, source.distances)
    )
    scan = scan * rng.choice([1, 1, 1, -1]) + rng.normal(0, rng.uniform(0, NOISE), shape)
    return Source(source.name, scan.astype(np.float32), distances, source.cell)


def example(source: Source, rng: np.random.Generator) -> tuple[Values, Values] | None:
    """(inputs, share of each cell that lies inside) with slices across any axis; None where the organ is too thin."""
    order, flips = rng.permutation(3), tuple(axis for axis in range(3) if rng.random() < 0.5)
    scan, distances = (np.flip(volume.transpose(order), flips) for volume in (source.scan, source.distances))
    given = cut(scan, distances < 0, np.full(3, source.cell), int(rng.choice(COUNTS)), rng, rng.random() < ENDS)
    if given is None:
        return None
    box = box_around(given)
    share = np.clip(0.5 - sampled(distances, box.places) / float((box.step * source.cell).mean()), 0, 1)
    for axis, (at, n) in enumerate(zip(box.places, scan.shape, strict=True)):
        share[(slice(None),) * axis + ((at < -0.5) | (at > n - 0.5),)] = 0
    return inputs(given, box), share


def cut(
    scan: NDArray[Any],
    mask: Mask,
    spacing: Array,
    count: int,
    rng: np.random.Generator | None = None,
    ends: bool = False,
) -> Given | None:
    """Slices of a whole mask along its last axis: of `count` equal parts the middle ones, or any of each with `rng`.

    With `ends` also the first empty one beyond each end. None where the organ has no more slices than `count`, or but
    specks on those.
    """
    there = np.flatnonzero(mask.any((0, 1)))
    if len(there) <= count:
        return None
    shares = (np.arange(count) + (0.5 if rng is None else rng.uniform(0.15, 0.85, count))) / count
    numbers = there[0] + (shares * (there[-1] + 1 - there[0])).astype(int)
    numbers = numbers[mask[:, :, numbers].sum((0, 1)) > 3]
    if not len(numbers):
        return None
    if ends:
        numbers = np.append(numbers, (there[0] - 1, there[-1] + 1))
    numbers = np.unique(numbers[(numbers >= 0) & (numbers < mask.shape[2])])
    return Given(scan, spacing, np.moveaxis(mask[:, :, numbers], 2, 0), numbers)


def _skew(turn: Array) -> Array:
    x, y, z = turn
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
