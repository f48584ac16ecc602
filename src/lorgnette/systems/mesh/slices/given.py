"""Slices of a scan on which an organ is marked, checked and brought into one order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Given:
    """A scan and masks on some of its slices; the last axis is the one that goes through them.

    Attributes:
        scan: (X, Y, Z) values.
        spacing: (3,) mm between voxels along each axis.
        sections: (K, X, Y), the masks on the slices. Empty ones say where the organ is not.
        numbers: (K,) rising, which slices they are.
    """

    scan: NDArray[Any]
    spacing: Array
    sections: Mask
    numbers: NDArray[np.int64]

    @property
    def pixel(self) -> tuple[float, float]:
        """Millimetres between pixels of a slice."""
        return float(self.spacing[0]), float(self.spacing[1])

    @property
    def positions(self) -> Array:
        """(K,) where the slices lie along their axis, in mm."""
        return self.numbers * self.spacing[2]


def given_slices(
    scan: NDArray[Any], slices: NDArray[Any] | Mapping[int, NDArray[Any]], affine: NDArray[Any], axis: int | None = None
) -> tuple[Given, int]:
    """The slices, and the axis of the scan that they are numbered along.

    Args:
        scan: (X, Y, Z) values.
        slices: masks (two axes of the scan in their order) by the number of their slice; or a volume like the scan in
            which the slices are those that have any voxel.
        affine: (4, 4) from voxels to millimetres.
        axis: that the slices are numbered along. Unset: the last one; of a volume, the one with the fewest slices.

    Raises:
        ValueError: in one line: no slice is marked, one lies outside the scan or has another shape, several organs are
            marked, or the scan cannot be used.
    """
    affine = np.asarray(affine, float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if scan.ndim != 3 or scan.dtype.kind not in "iufb":
        raise ValueError(f"scan: {scan.ndim} dimensions of {scan.dtype}; three of numbers work")
    if scan.dtype.kind == "f" and not np.isfinite(scan).all():
        raise ValueError("scan: some of its voxels are no numbers")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9 * max(1e-9, spacing.prod()):
        raise ValueError("affine: singular or not finite, so nobody knows where the scan's voxels are")
    if axis not in (None, 0, 1, 2):
        raise ValueError(f"axis: {axis} is not known; 0, 1 and 2 are")
    if not isinstance(slices, Mapping):
        slices, axis = _of_volume(np.asarray(slices), scan.shape, axis)
    axis = 2 if axis is None else axis
    plane = tuple(side for number, side in enumerate(scan.shape) if number != axis)
    numbers = sorted(slices)
    sections = []
    for number in numbers:
        if not 0 <= number < scan.shape[axis]:
            raise ValueError(
                f"slices: {number} lies outside the scan, which has 0 to {scan.shape[axis] - 1} along axis {axis}"
            )
        section = np.asarray(slices[number])
        if section.shape != plane:
            raise ValueError(f"slices: the mask of slice {number} has shape {section.shape}, the scan's slices {plane}")
        sections.append(section)
    marked = np.unique(np.concatenate([section.ravel() for section in sections])) if sections else np.zeros(1)
    labels = marked[marked != 0]
    if not len(labels):
        raise ValueError("slices: the organ is marked on none; one slice or more are needed")
    if len(labels) > 1:
        names = ", ".join(f"{label:g}" for label in labels[:4])
        raise ValueError(f"slices: they hold the labels {names}; one organ is completed at a time")
    spacing = np.append(np.delete(spacing, axis), spacing[axis])
    return Given(np.moveaxis(scan, axis, 2), spacing, np.stack(sections) != 0, np.array(numbers)), axis


def _of_volume(mask: NDArray[Any], shape: tuple[int, ...], axis: int | None) -> tuple[dict[int, NDArray[Any]], int]:
    """The slices of a volume that have any voxel."""
    if mask.shape != shape:
        raise ValueError(f"slices: a volume of {mask.shape} voxels is on another grid than the scan's {shape}")
    marked = [np.flatnonzero(mask.any(tuple({0, 1, 2} - {number}))) for number in range(3)]
    if axis is None:
        axis = min((2, 1, 0), key=lambda number: len(marked[number]))
    return {int(number): mask.take(number, axis) for number in marked[axis]}, axis
