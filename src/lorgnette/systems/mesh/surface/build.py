"""Masks in, meshes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lorgnette.nn.compiled import NUMBA
from lorgnette.systems.mesh.surface.cells import Array, Index, Net, extract, join, make_manifold
from lorgnette.systems.mesh.surface.crossings import crossing_quads
from lorgnette.systems.mesh.surface.decimate import decimate
from lorgnette.systems.mesh.surface.diagonals import choose
from lorgnette.systems.mesh.surface.fairing import Fairing
from lorgnette.systems.mesh.surface.folds import unfold
from lorgnette.systems.mesh.surface.mesh import Mesh
from lorgnette.systems.mesh.surface.settings import Surface
from lorgnette.systems.mesh.volumes import Labels, Organ

BATCH = 10000  # quadrilaterals that are made smooth together: small organs one by one would cost more than they need
TRIES = 8  # to mend what crosses and to restore the volume both; then the volume may be missed
COMPILED = 2**18  # voxels of all organs; for fewer, loading numba takes longer than it saves
Progress = Callable[[Sequence[Organ]], Iterable[Organ]]


def surfaces(labels: Labels, settings: Surface | None = None, progress: Progress = iter) -> Iterator[Mesh]:
    """The surface of each organ of a volume, in the order of `labels.organs`.

    The volume it encloses is that of the voxels, and no voxel's centre changes sides, but for the few voxels that are
    changed to make it a manifold. What the field of view cuts is closed there.

    Args:
        labels: a volume with its organs.
        settings: how; by default each organ by itself, with all its parts.
        progress: what the organs are gone through with, such as a bar.
    """
    settings = settings or Surface()
    if settings.shared_walls:
        yield from _with_shared_walls(labels, settings, progress)
        return
    batch: list[_Part] = []
    for organ in progress(labels.organs):
        kept, dropped = _largest(organ) if settings.largest else (organ, 0)
        part = _part(np.pad(kept.mask.astype(np.uint8), 1), kept.place - 1, [kept], [dropped])
        if batch and sum(len(p.net.quads) for p in [*batch, part]) > BATCH:
            yield from _finished(batch, labels, settings)
            batch = []
        batch.append(part)
    if batch:
        yield from _finished(batch, labels, settings)


def _with_shared_walls(labels: Labels, settings: Surface, progress: Progress) -> Iterator[Mesh]:
    """All organs as one net. Where masks overlap, the smaller organ has the voxels."""
    parts = {id(organ): _largest(organ) if settings.largest else (organ, 0) for organ in progress(labels.organs)}
    order = sorted(labels.organs, key=lambda organ: (-parts[id(organ)][0].voxels, organ.value))
    organs = [parts[id(organ)][0] for organ in order]
    low = np.min([organ.place for organ in organs], axis=0)
    high = np.max([organ.place + organ.mask.shape for organ in organs], axis=0)
    values = np.zeros(high - low + 2, np.min_scalar_type(len(organs)))
    for number, organ in enumerate(organs, start=1):
        start = organ.place - low + 1
        box = tuple(slice(a, a + n) for a, n in zip(start, organ.mask.shape, strict=True))
        values[box][organ.mask] = number
    part = _part(values, low - 1, organs, [parts[id(organ)][1] for organ in order])
    made = dict(zip(map(id, order), _finished([part], labels, settings), strict=True))
    for organ in labels.organs:
        yield made[id(organ)]


@dataclass(frozen=True)
class _Part:
    """The net of some organs, with what was done to their voxels."""

    net: Net
    organs: Sequence[Organ]
    notes: list[dict[str, int]]


def _part(values: npt.NDArray[Any], place: Index, organs: Sequence[Organ], dropped: Sequence[int]) -> _Part:
    """The net of organs 1, 2, ... of a volume whose border is empty and whose first voxel is at `place`.

    Raises:
        ValueError: an organ has no voxel that is not also one of a smaller organ.
    """
    voxels = np.bincount(values.ravel(), minlength=len(organs) + 1)[1:]
    if not voxels.all():
        raise ValueError(f"{organs[int(voxels.argmin())].name} lies within other organs altogether: leave it out")
    changes = make_manifold(values, len(organs))
    net = extract(values)
    notes = [
        {"voxels": int(v), "changed": int(c), "dropped": d} for v, c, d in zip(voxels, changes, dropped, strict=True)
    ]
    return _Part(replace(net, corners=net.corners + place[:, None]), organs, notes)


def _finished(parts: Sequence[_Part], labels: Labels, settings: Surface) -> Iterator[Mesh]:
    """The meshes of some organs, made smooth together."""
    organs = [organ for part in parts for organ in part.organs]
    notes = [note for part in parts for note in part.notes]
    linear, origin = labels.affine[:3, :3], labels.affine[:3, 3]
    compiled = NUMBA and sum(organ.voxels for organ in labels.organs) >= COMPILED
    volumes = np.array([note["voxels"] for note in notes], float)
    fairing = Fairing(join([part.net for part in parts]), volumes, not settings.shared_walls, compiled)
    x, triangles, crossing = _faired(fairing, linear)
    vertices = (linear @ x + origin[:, None]).T
    sides = np.tile(fairing.net.sides, (2, 1))
    crossing = np.bincount(fairing.net.sides[crossing].ravel() + 1, minlength=len(organs) + 1)[1:]
    for number, organ in enumerate(organs):
        faces = np.concatenate([triangles[sides[:, 0] == number], triangles[sides[:, 1] == number][:, ::-1]])
        used = np.zeros(len(vertices), bool)
        used[faces] = True
        faces = (np.cumsum(used) - 1)[faces[:, ::-1] if np.linalg.det(linear) < 0 else faces]
        note = notes[number] | {"crossing": int(crossing[number])}
        mesh = Mesh(organ.name, vertices[used], faces, organ.color, note)
        yield mesh if settings.error is None else decimate(mesh, settings.error, settings.triangles)


def _faired(fairing: Fairing, linear: Array) -> tuple[Array, Index, Index]:
    """The vertices of a net (3, N), smooth; its triangles; and the quadrilaterals that still cross."""
    x = fairing.smooth()
    diagonal = choose(fairing, linear @ x)
    back_to = fairing.net.corners
    if not fairing.apart:
        back_to, x = x, unfold(fairing, x, diagonal, linear)
    x, areas = fairing.restore(x, diagonal)
    fixed = np.zeros(x.shape[1], bool)
    crossing = crossing_quads(fairing, x, diagonal, areas)
    attempt = 0
    while crossing.size and attempt < 10 * TRIES:
        # What crosses goes back, with shared walls to before it was unfolded; what still does, half the way to the
        # voxels' own corners; in the end all of it, and the volume is let go
        back = np.unique(fairing.net.quads[crossing])
        fixed[back] = True
        half = 2 if back_to is fairing.net.corners and attempt < TRIES else 1
        x[:, back] += (back_to[:, back] - x[:, back]) / half
        back_to = fairing.net.corners
        if attempt < TRIES:
            x, areas = fairing.restore(x, diagonal, fixed)
        else:
            areas = fairing.at_vertices(x, fairing.cut(diagonal))
        crossing = crossing_quads(fairing, x, diagonal, areas)
        attempt += 1
    return x, fairing.triangles(diagonal), crossing


def _largest(organ: Organ) -> tuple[Organ, int]:
    """The largest part of an organ that is connected by faces of voxels, and how many voxels the others had."""
    from scipy.ndimage import find_objects, label

    parts, count = label(organ.mask)  # type: ignore[misc]
    if count == 1:
        return organ, 0
    sizes = np.bincount(parts.ravel())[1:]
    number = int(sizes.argmax()) + 1
    box = find_objects(parts)[number - 1]
    mask = np.ascontiguousarray(parts[box] == number)
    place = organ.place + [part.start for part in box]
    return replace(organ, mask=mask, place=place, voxels=int(sizes.max())), int(sizes.sum() - sizes.max())
