"""What a network sees of a scan and of masks on a few of its slices: a box of cells around the organ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorgnette.systems.mesh.lattice import ndimage
from lorgnette.systems.mesh.slices.between import ends, interpolated, nearest
from lorgnette.systems.mesh.slices.given import Array, Given

CELLS = 32
"""Of a box along each axis."""
CHANNELS = 7
_BINS = 40

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Box:
    """`CELLS` along each axis: the centre of the first is at `start` (3,), the next one `step` (3,) on, in voxels."""

    start: Array
    step: Array

    @property
    def places(self) -> list[Array]:
        """Where the cells' centres lie along each axis, in voxels."""
        return [a + np.arange(CELLS) * s for a, s in zip(self.start, self.step, strict=True)]

    def at_voxels(self, shape: Sequence[int]) -> list[Array]:
        """Where the voxels lie along each axis, in cells."""
        return [(np.arange(n) - a) / s for n, a, s in zip(shape, self.start, self.step, strict=True)]


def box_around(given: Given) -> Box:
    """A box that the organ lies in, as far as its slices let one guess."""
    found = np.argwhere(given.sections.any(0))
    low, high = found.min(0), found.max(0) + 1
    marked = given.positions[given.sections.any((1, 2))]
    bottom, top = ends(given)
    one = len(marked) == 1
    bottom, top = (end + (end - near) * (1.2 if one else 0.5) for end, near in ((bottom, marked[0]), (top, marked[-1])))
    flat = (high - low) * given.pixel * (1.5 if one else 1.25) + 0.1 * (top - bottom)
    sides = np.array([*flat, top - bottom]) / given.spacing
    middle = np.array([*(low + high - 1), (top + bottom) / given.spacing[2]]) / 2
    return Box(middle - sides / 2 * (1 - 1 / CELLS), sides / CELLS)


def inputs(given: Given, box: Box) -> Values:
    """(`CHANNELS`, CELLS, CELLS, CELLS) in [-1, 1].

    The scan's values, by how they compare with those inside the masks, so that their unit does not matter: in multiples
    of what they vary by inside, and in and around the organ; and by how much more often they are met inside than
    around it. Signed distances between the slices, and in the nearest one; how far that is; whether it is beyond all.
    """
    given, box = _cut(given, box)
    places, size = box.places, float((box.step * given.spacing).mean())
    values = sampled(_no_finer(given.scan, box.step), places)
    inside, around = _values_on_slices(given)
    middle, at = np.median(inside), places[2] * given.spacing[2]
    apart = np.abs(at[:, None] - given.positions).min(1)
    beyond = (at < given.positions[0]) | (at > given.positions[-1])
    return np.stack([
        np.tanh((values - middle) / (2 * max(float(inside.std()), 1e-3))),
        np.tanh((values - middle) / (2 * max(float(around.std()), 1e-3))),
        _likelihood(values, inside, around),
        np.tanh(sampled(interpolated(given, at), places[:2]) / (4 * size)),
        np.tanh(sampled(nearest(given, at), places[:2]) / (4 * size)),
        np.broadcast_to(np.minimum(apart / (16 * size), 1), values.shape),
        np.broadcast_to(beyond, values.shape),
    ]).astype(np.float32)  # fmt: skip


def sampled(volume: NDArray[Any], places: Sequence[Array]) -> Values:
    """The volume linearly between voxels, on the grid of the places along its first axes; beyond, the last voxel's."""
    result: NDArray[Any] = volume.astype(np.float32)
    for axis, at in enumerate(places):
        at = np.clip(at, 0, volume.shape[axis] - 1)
        low = np.floor(at).astype(int)
        share = np.expand_dims((at - low).astype(np.float32), tuple(range(1, result.ndim - axis)))
        high = np.minimum(low + 1, volume.shape[axis] - 1)
        result = result.take(low, axis) * (1 - share) + result.take(high, axis) * share
    return result


def _cut(given: Given, box: Box) -> tuple[Given, Box]:
    """Both in the part of the scan's plane that the box and the sections need."""
    found = np.argwhere(given.sections.any(0))
    ends = np.stack([box.start, box.start + box.step * (CELLS - 1)])[:, :2]
    low = np.maximum(np.floor(np.minimum(ends[0], found.min(0))).astype(int) - 2, 0)
    high = np.ceil(np.maximum(ends[1], found.max(0))).astype(int) + 3
    part = slice(low[0], high[0]), slice(low[1], high[1])
    cut = replace(given, scan=given.scan[part], sections=given.sections[:, *part])
    return cut, Box(box.start - [*low, 0], box.step)


def _no_finer(scan: NDArray[Any], step: Array) -> NDArray[Any]:
    """Means over as many voxels as a cell is wide, where that is two or more."""
    for axis, width in enumerate(step.astype(int)):
        if width > 1:
            scan = ndimage().uniform_filter1d(scan.astype(np.float32), width, axis, mode="nearest")
    return scan


def _values_on_slices(given: Given) -> tuple[NDArray[Any], NDArray[Any]]:
    """The scan's values inside the masks, and beside them in the rectangle around all, with a third of room."""
    found = np.argwhere(given.sections.any(0))
    room = np.maximum((np.ptp(found, axis=0) + 1) // 3, 2)
    low, high = np.maximum(found.min(0) - room, 0), found.max(0) + 1 + room
    part = slice(low[0], high[0]), slice(low[1], high[1])
    values = np.moveaxis(given.scan[..., given.numbers], 2, 0)[:, *part].astype(np.float32)
    mask = given.sections[:, *part]
    return values[mask], values[~mask] if not mask.all() else values[mask]


def _likelihood(values: Values, inside: NDArray[Any], around: NDArray[Any]) -> Values:
    """log p(value | inside) - log p(value | around) by smoothed histograms: 1 for 3 and more."""
    low, high = np.percentile(np.concatenate([inside, around]), (1, 99))
    edges = np.linspace(low, max(high, low + 1e-3), _BINS - 1)
    logs = []
    for part in (inside, around):
        counts = np.bincount(np.digitize(part, edges), minlength=_BINS).astype(float)
        smooth = ndimage().gaussian_filter1d(counts, 1.5, mode="nearest") + 0.5
        logs.append(np.log(smooth / smooth.sum()))
    return np.clip((logs[0] - logs[1]) / 3, -1, 1)[np.digitize(values, edges)]
