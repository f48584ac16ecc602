"""What a volume and a mask are, once they are read."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Affine = npt.NDArray[np.float64]
MOST_VOXELS = 2**30  # of a volume: 1024 in each direction
MOST_BYTES = 2**32  # of its values as the file has them: a gigabyte of zeros is packed into a megabyte
MOST_LABELS = 4096


@dataclass(frozen=True, eq=False)
class Volume:
    """`values` (X, Y, Z), whose axes point right, anterior and superior as nearly as the grid allows.

    `affine` (4, 4) takes indices of voxels to millimetres in the patient's axes (RAS+). `notes`: what was assumed.
    """

    values: npt.NDArray[Any]
    affine: Affine
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Organ:
    """One label: `mask` is the part of the volume that holds it, and starts at voxel `place`."""

    name: str
    value: int
    mask: npt.NDArray[np.bool_]
    place: npt.NDArray[np.int64]
    voxels: int
    color: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Labels:
    """The organs of a volume of `shape`, with its affine; `notes`: what was skipped or assumed, a line each."""

    organs: tuple[Organ, ...]
    shape: tuple[int, ...]
    affine: Affine
    notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> npt.NDArray[np.float64]:
        """Millimetres between voxels along each axis."""
        return np.sqrt((self.affine[:3, :3] ** 2).sum(0))

    def whole(self, organ: Organ) -> npt.NDArray[np.bool_]:
        """The mask of one of the organs on the whole grid."""
        mask = np.zeros(self.shape, bool)
        mask[tuple(slice(p, p + n) for p, n in zip(organ.place, organ.mask.shape, strict=True))] = organ.mask
        return mask


def canonical(values: npt.NDArray[Any], affine: npt.ArrayLike, source: Path | str) -> Volume:
    """The volume with its axes turned to right, anterior, superior; nothing is resampled.

    Raises:
        ValueError: it is not three-dimensional, or the affine does not place it.
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    affine = np.asarray(affine, np.float64)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        shape = "x".join(map(str, values.shape))
        raise ValueError(f"{source} has {values.ndim} dimensions ({shape}): a volume of three is expected")
    if not np.isfinite(affine).all():
        raise ValueError(f"{source}: its affine has values that are no numbers, so nobody knows where its voxels are")
    if abs(np.linalg.det(affine[:3, :3])) <= 1e-9 * np.prod(np.sqrt((affine[:3, :3] ** 2).sum(0))):
        raise ValueError(f"{source}: its affine is singular: voxels of no size")
    turned = io_orientation(affine)
    if np.isnan(turned).any():
        raise ValueError(f"{source}: its affine is too oblique to tell the axes from each other")
    return Volume(apply_orientation(values, turned), affine @ inv_ornt_aff(turned, values.shape))


def same_grid(one: Affine, shape: Sequence[int], other: Affine, other_shape: Sequence[int]) -> bool:
    """Whether two volumes have their voxels in the same places, to a hundredth of a voxel's size."""
    size = np.sqrt((one[:3, :3] ** 2).sum(0)).min()
    far = np.array([*shape, 1.0])  # the affines' difference grows towards the far corner
    apart = np.abs((one - other) @ np.stack([far, [0, 0, 0, 1]], axis=1)).max()
    return tuple(shape) == tuple(other_shape) and bool(apart < 0.01 * size)


def whole_numbers(volume: Volume, source: Path | str) -> npt.NDArray[np.integer]:
    """The values as labels: 0 and above, in the smallest type that holds them.

    Raises:
        ValueError: some are no whole numbers, or are negative, or too large.
    """
    values = volume.values
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{source}: its voxels are {values.dtype}, not labels")
    low, high = values.min(initial=0), values.max(initial=0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{source}: some of its voxels are no numbers; a mask holds 0 and the numbers of labels")
    if values.dtype.kind == "f" and (odd := values[values != np.rint(values)]).size:
        raise ValueError(f"{source} holds {odd[0]:.4g}, which is no label: give a mask, such as this one above 0.5")
    if low < 0:
        raise ValueError(f"{source} holds {low:g}: labels are 0 and above; is it the picture instead of the mask?")
    if high > 65535:
        raise ValueError(f"{source} holds {high:g}: labels up to 65535 are read")
    return values.astype(np.uint8 if high < 256 else np.uint16)


def organs_of(
    values: npt.NDArray[np.integer],
    names: Mapping[int, str],
    source: Path | str,
    colors: Mapping[int, tuple[int, int, int]] | None = None,
) -> tuple[Organ, ...]:
    """The organs of a volume of labels, in the order of their numbers.

    Raises:
        ValueError: there is none, or so many that it is no mask.
    """
    from scipy.ndimage import find_objects

    found = {value: box for value, box in enumerate(find_objects(values), start=1) if box is not None}
    if not found:
        raise ValueError(f"{source} is empty: all of its voxels are 0")
    if len(found) > MOST_LABELS:
        raise ValueError(f"{source} holds {len(found)} labels; is it the picture instead of the mask?")
    organs = []
    for value, box in found.items():
        mask = np.ascontiguousarray(values[box] == value)
        place = np.array([part.start for part in box])
        color = (colors or {}).get(value) or color_of(value)
        organs.append(Organ(names.get(value, f"label_{value}"), value, mask, place, int(mask.sum()), color))
    return distinct(organs)


def distinct(organs: Sequence[Organ]) -> tuple[Organ, ...]:
    """The organs, with their numbers added to names that occur twice."""
    names = [organ.name.lower() for organ in organs]  # files on some disks do not tell A from a
    taken = {name for name in names if names.count(name) == 1}
    found = []
    for organ, lower in zip(organs, names, strict=True):
        name = organ.name
        if lower not in taken:
            name = f"{name}_{organ.value}"
            while name.lower() in taken:
                name += "_"
            taken.add(name.lower())
        found.append(replace(organ, name=name))
    return tuple(found)


def color_of(value: int) -> tuple[int, int, int]:
    """A colour of its own for each label: hues a golden angle apart."""
    hue, kind = (value * 0.61803398875) % 1, value % 3
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.55, 0.75, 0.4)[kind], (0.9, 0.8, 1.0)[kind])
    return round(255 * red), round(255 * green), round(255 * blue)
