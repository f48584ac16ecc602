"""Complete an organ: from a scan and masks on a few of its slices to a mask of all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from lorgnette.common.text import nearest
from lorgnette.systems.mesh.lattice import ndimage
from lorgnette.systems.mesh.slices.between import ends, extruded, interpolated, linear, signed
from lorgnette.systems.mesh.slices.given import Given, Mask, given_slices
from lorgnette.systems.mesh.slices.inputs import CELLS, Values, box_around, inputs, sampled
from lorgnette.systems.mesh.slices.network import Completer, whole
from lorgnette.systems.mesh.slices.weights import load_completer
from lorgnette.systems.mesh.volumes import Labels, Organ, Volume
from lorgnette.systems.mesh.volumes.labels import same_grid

NAMES = ("sagittal", "coronal", "axial")
"""Slices across each axis, of volumes whose axes point right, anterior, superior."""
SMOOTH = 0.7
"""Standard deviation, in voxels, of what makes the network's surface smooth: it knows each slice by itself only."""
Progress = Callable[[Sequence[Organ]], Iterable[Organ]]
Method = Literal["network", "interpolate", "extrude"]


def complete(
    scan: NDArray[Any],
    slices: NDArray[Any] | Mapping[int, NDArray[Any]],
    affine: NDArray[Any],
    axis: int | None = None,
    method: Method = "network",
    network: Completer | None = None,
) -> Mask:
    """The whole organ, of which a few slices are given; those stay as they are.

    Args:
        scan: (X, Y, Z), a CT or MR.
        slices: masks by the number of their slice, along `axis`; empty ones say where the organ is not. Or a volume
            like the scan, in which the slices are those with any voxel.
        affine: (4, 4) from voxels to millimetres.
        axis: of the slices. Unset: the last one; of a volume, the one with the fewest slices.
        method: 'network' looks at the scan; 'interpolate' and 'extrude' at the slices alone (see `between`).
        network: unset: the one that ships.

    Returns:
        (X, Y, Z) bool, on the scan's grid.

    Raises:
        ValueError: see `given_slices`; or a method that is not known.
    """
    if method not in get_args(Method):
        known = get_args(Method)
        raise ValueError(f"method: {method!r} is not known{nearest(method, known)}; {', '.join(known)} are")
    given, axis = given_slices(np.asarray(scan), slices, affine, axis)
    return np.moveaxis(completed(given, method, network), 2, axis)


def complete_labels(
    labels: Labels,
    scan: Volume,
    method: Method = "network",
    progress: Progress = iter,
) -> Labels:
    """Organs of which a few slices are labelled, whole, each by itself; the notes say of each from how many slices.

    Raises:
        ValueError: the scan is on another grid; or see `complete`.
    """
    if not same_grid(labels.affine, labels.shape, scan.affine, scan.values.shape):
        raise ValueError(f"the scan has {scan.values.shape} voxels on another grid than the slices' {labels.shape}")
    network = load_completer() if method == "network" else None
    organs, notes = [], []
    for organ in progress(labels.organs):
        given, axis = given_slices(scan.values, labels.whole(organ), labels.affine)
        mask = np.moveaxis(completed(given, method, network), 2, axis)
        low, high = (np.array([end(axis) for axis in np.nonzero(mask)]) for end in (np.min, np.max))
        part = np.ascontiguousarray(mask[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))])
        organs.append(replace(organ, mask=part, place=low, voxels=int(part.sum())))
        count = f"{len(given.numbers)} of {scan.values.shape[axis]} {NAMES[axis]} slices"
        notes.append(f"{organ.name}: guessed from {count}, by {method}")
    return replace(labels, organs=tuple(organs), notes=(*labels.notes, *notes))


def completed(given: Given, method: Method = "network", network: Completer | None = None) -> Mask:
    """`complete` for slices in their one order."""
    if method == "network":
        found = _found(given, load_completer() if network is None else network)
        return _joined(_corrected(found, given), given)
    part, at = _rectangle(np.logical_or.reduce(given.sections)), np.arange(given.scan.shape[2]) * given.spacing[2]
    near = replace(given, scan=given.scan[part], sections=given.sections[:, *part])
    result = np.zeros(given.scan.shape, bool)
    result[part] = (interpolated if method == "interpolate" else extruded)(near, at) < 0
    return result


def log_odds(given: Given, network: Completer) -> Values:
    """(CELLS, CELLS, CELLS): of the cells of `box_around`, how much rather they lie inside."""
    seen = torch.from_numpy(inputs(given, box_around(given)))[None]
    device = next(network.parameters()).device
    with torch.no_grad():
        return whole(network(seen.to(device)))[0, 0].float().cpu().numpy()


def _found(given: Given, network: Completer) -> Mask:
    """The mask that the network finds, with what lies beyond its box outside."""
    places = box_around(given).at_voxels(given.scan.shape)
    within = [np.flatnonzero((at >= -0.5) & (at <= CELLS - 0.5)) for at in places]
    values = sampled(log_odds(given, network), [at[part] for at, part in zip(places, within, strict=True)])
    found = np.zeros(given.scan.shape, bool)
    found[np.ix_(*within)] = values > 0
    return found


def _corrected(found: Mask, given: Given) -> Mask:
    """With the given slices as they are, and those between moved as the network was wrong on the given ones.

    What is added to the signed distances in each slice, so that the given ones come out right, is interpolated between
    them, and fades away beyond them.
    """
    part = _rectangle(np.logical_or(found.any(2), given.sections.any(0)))
    sections, place = given.sections[:, *part], given.positions
    truth = np.stack([signed(section, given.pixel) for section in sections])
    own = np.stack([signed(section, given.pixel) for section in np.moveaxis(found[part], 2, 0)])
    most = -truth.min() / 2  # a slice that the network left empty is infinitely wrong
    wrong = np.pad(truth.clip(-most, most) - own[given.numbers].clip(-most, most), ((1, 1), (0, 0), (0, 0)))
    bottom, top = ends(given)
    places = np.array([2 * bottom - place[0], *place, 2 * top - place[-1]])
    at = np.arange(found.shape[2]) * given.spacing[2]
    result = np.zeros_like(found)
    moved = np.moveaxis(own.clip(-most, most), 0, 2) + linear(wrong, places, at)
    result[part] = ndimage().gaussian_filter(moved, SMOOTH) < 0
    result[:, :, given.numbers] = np.moveaxis(given.sections, 0, 2)
    return result


def _rectangle(mask: NDArray[Any]) -> tuple[slice, slice]:
    """The part of a plane that holds a mask (X, Y), with two pixels around."""
    found = np.argwhere(mask)
    low, high = np.maximum(found.min(0) - 2, 0), found.max(0) + 3
    return slice(low[0], high[0]), slice(low[1], high[1])


def _joined(found: Mask, given: Given) -> Mask:
    """Without the parts that touch no given slice of the organ."""
    parts, _ = ndimage().label(found)
    marked = np.unique(parts[:, :, given.numbers])
    keep = np.zeros(int(parts.max()) + 1, bool)
    keep[marked[marked > 0]] = True
    return keep[parts]
