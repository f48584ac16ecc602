"""From voxels to quadrilaterals: the faces between voxels of different organs, and where they would not be a manifold.

A *cell* is the place where eight voxels meet; the net has one vertex in each cell that sees two values. A cell has the
flat index of its last voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

REACH = 0.49  # voxels that a vertex may go from its cell's middle along each axis; below a half, cells stay apart


@dataclass(frozen=True)
class Net:
    """The faces between voxels of different organs, as quadrilaterals.

    `corners` (3, N): index coordinates of the cells, voxel centres lying at whole numbers. `quads` (F, 4): a face's
    vertices, counter-clockwise as seen from its second side. `sides` (F, 2): the organs on its first and second side,
    -1 for none. `reach` (N,): how far a vertex may go from its cell's middle, along each axis.
    """

    corners: Array
    quads: Index
    sides: Index
    reach: Array


def extract(organs: npt.NDArray[np.integer]) -> Net:
    """The net of a volume of organs 1, 2, ...; 0 is none, and the outermost voxels have to be 0."""
    flat, strides = organs.ravel(), _strides(organs.shape)
    quads, sides = [], []
    for axis, step in enumerate(strides):
        face = np.flatnonzero(flat[:-step] != flat[step:])
        u, v = strides[(axis + 1) % 3], strides[(axis + 2) % 3]
        quads.append(face[:, None] + np.array([step, step + u, step + u + v, step + v]))
        sides.append(np.stack([flat[face], flat[face + step]], axis=1).astype(np.int64) - 1)
    cells = np.concatenate(quads)
    used = np.zeros(flat.size, bool)
    used[cells] = True
    place = np.flatnonzero(used)
    number = np.empty(flat.size, np.int32)
    number[place] = np.arange(place.size, dtype=np.int32)
    corners = np.stack(np.unravel_index(place, organs.shape)).astype(np.float64) - 0.5
    # Not quite the same for all: vertices at their bound would touch triangles whose vertices are at theirs
    reach = REACH * (1 - 1e-3 * (np.arange(place.size, dtype=np.float64) * 0.6180339887 % 1))
    return Net(corners, number[cells].astype(np.int64), np.concatenate(sides), reach)


def join(nets: Sequence[Net]) -> Net:
    """Several nets as one, in which no two share a vertex; their organs are counted on."""
    if len(nets) == 1:
        return nets[0]
    vertices = np.cumsum([0, *(net.corners.shape[1] for net in nets)])
    organs = np.cumsum([0, *(int(net.sides.max()) + 1 for net in nets)])
    quads = np.concatenate([net.quads + first for net, first in zip(nets, vertices[:-1], strict=True)])
    sides = [np.where(net.sides < 0, -1, net.sides + first) for net, first in zip(nets, organs[:-1], strict=True)]
    corners, reach = np.concatenate([net.corners for net in nets], axis=1), np.concatenate([net.reach for net in nets])
    return Net(corners, quads, np.concatenate(sides), reach)


# A cell's voxels are numbered in binary: bit 2 for the first axis, bit 0 for the last. A contact is
# (voxels of the organ that touches itself, voxels around that are of others).
_SQUARES = [(base, base | u, base | v, base | u | v) for u, v in ((1, 2), (1, 4), (2, 4)) for base in (0, 7 - u - v)]
_OPPOSITE = [((corner, 7 - corner), tuple({*range(8)} - {corner, 7 - corner})) for corner in range(4)]
_CONTACTS = [
    *[((a, d), (b, c)) for a, b, c, d in _SQUARES],
    *[((b, c), (a, d)) for a, b, c, d in _SQUARES],
    *_OPPOSITE,
    *[(rest, pair) for pair, rest in _OPPOSITE],
]
_IS_CONTACT = np.array(
    [
        any(all(code >> n & 1 for n in own) and not any(code >> n & 1 for n in others) for own, others in _CONTACTS)
        for code in range(256)
    ]
)


def make_manifold(organs: npt.NDArray[np.integer], count: int) -> Index:
    """Change single voxels, in place, until the surface of every organ is a manifold.

    It is one where no organ touches itself only along an edge or in a corner of voxels ("well-composed": Latecki,
    Eckhardt and Rosenfeld, Computer Vision and Image Understanding 61, 1995). A voxel always passes to an organ of a
    higher number: that ends, and who numbers organs from large to small lets the small ones keep what they have.

    Args:
        organs: a volume (X, Y, Z) in C order, of organs 1 to `count`; the outermost voxels have to be 0.
        count: how many organs there are.

    Returns:
        (count,): how many voxels each organ got or lost.
    """
    flat, strides = organs.reshape(-1), _strides(organs.shape)
    assert organs.flags.c_contiguous
    before: dict[int, int] = {}
    offsets = np.array([-((not n & 4) * strides[0] + (not n & 2) * strides[1] + (not n & 1)) for n in range(8)])
    around = np.array([-strides[0], strides[0], -strides[1], strides[1], -1, 1])
    cells = _mixed(flat, strides)
    while cells.size:
        values = flat[cells + offsets[:, None]]
        if count == 1:
            codes = np.bitwise_or.reduce(np.left_shift(values, np.arange(8, dtype=np.uint8)[:, None]))
            at = np.flatnonzero(_IS_CONTACT[codes])
            cells, values = cells[at], values[:, at]
            if not at.size:
                break
        found = [(own, rest, _only(values, own, rest)) for own, rest in _CONTACTS]
        changes = [_changes(values, *contact) for contact in found if contact[2].size]
        if not changes:
            break
        contact, corner, value = (np.concatenate(part) for part in zip(*changes, strict=True))
        where = cells[contact] + offsets[corner]
        support = (flat[where + around[:, None]] == value).sum(0)
        order = np.lexsort((where, -support, contact))
        first = order[np.unique(contact[order], return_index=True)[1]]  # the voxel that more of that organ surround
        for place, new in zip(where[first].tolist(), value[first].tolist(), strict=True):
            if new > flat[place]:
                before.setdefault(place, int(flat[place]))
                flat[place] = new
        cells = np.unique(where[first][:, None] - offsets)
    pairs = [(old, int(flat[place])) for place, old in before.items() if flat[place] != old]
    return np.bincount(np.array(pairs, np.int64).ravel(), minlength=count + 1)[1:]


def _mixed(flat: npt.NDArray[np.integer], strides: tuple[int, int, int]) -> Index:
    """The cells that see more than one value."""
    mixed = np.zeros(flat.size, bool)
    for axis, step in enumerate(strides):
        face = np.flatnonzero(flat[:-step] != flat[step:]) + step
        u, v = strides[(axis + 1) % 3], strides[(axis + 2) % 3]
        for corner in (0, u, v, u + v):
            mixed[face + corner] = True
    return np.flatnonzero(mixed)


def _only(values: npt.NDArray[np.integer], alike: tuple[int, ...], others: tuple[int, ...]) -> Index:
    """The cells in which the voxels `alike` are of one organ, and none of `others` is."""
    first = values[alike[0]]
    good = first > 0
    for n in alike[1:]:
        good &= values[n] == first
    for n in others:
        good &= values[n] != first
    return np.flatnonzero(good)


def _changes(
    values: npt.NDArray[np.integer], own: tuple[int, ...], around: tuple[int, ...], cells: Index
) -> tuple[Index, Index, npt.NDArray[np.integer]]:
    """(cell, voxel of it, new value): each change to a higher number that ends a contact."""
    organ = values[own[0], cells]
    near = values[np.array(around)[:, None], cells]
    corner, which = np.nonzero(near < organ)
    given = (cells[which], np.array(around)[corner], organ[which])
    stuck = np.flatnonzero((near > organ).all(0))  # all around win: then one of them takes a voxel of the organ
    taken = (cells[stuck], np.full(stuck.size, own[0]), near[0, stuck])
    return tuple(np.concatenate(pair) for pair in zip(given, taken, strict=True))  # type: ignore[return-value]


def _strides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return shape[1] * shape[2], shape[2], 1
