"""What is learnt of an organ: active voxels with features, signed distances in mm, points on its surface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FINE = 4
"""Fine cubes along an edge of an active voxel."""
CUT_OFF = 4.0
"""Signed distances are cut off this many fine cubes from the surface, where they are -1 and 1."""
MARGIN = 0.06
"""Room around an organ, as a share of the grid, at each side."""
POINTS = 2048
_PAD = 3
"""Voxels around the mask that distances are computed of."""

Affine = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """An organ on its grid of R voxels along an axis, 4 R fine cubes, and S = 4 R + 1 corners.

    Attributes:
        coords: (N, 3) int32, the active voxels, through which the surface goes.
        feats: (N, 8) float32, of the eight parts of each voxel, z fastest.
        distances: (S, S, S) float16 in [-1, 1] at the corners, negative inside, in units of `CUT_OFF` fine cubes.
        points: (P, 3) float32 on the surface, in [-0.5, 0.5].
        to_world: (4, 4) from places in [-0.5, 0.5] to millimetres.
        name: of the organ in its case.
    """

    coords: NDArray[np.int32]
    feats: NDArray[np.float32]
    distances: NDArray[np.float16]
    points: NDArray[np.float32]
    to_world: Affine
    name: str

    @property
    def side_mm(self) -> float:
        """Of the whole grid."""
        return float(np.linalg.norm(self.to_world[:3, 0]))


def make_sample(
    mask: NDArray[np.bool_],
    affine: Affine,
    scan: NDArray[Any] | None,
    resolution: int,
    features: Literal["mask", "scan"] = "scan",
    window: tuple[float, float] | None = (-160.0, 240.0),
    name: str = "",
    found: NDArray[np.bool_] | None = None,
) -> Sample:
    """An organ of a volume.

    Args:
        mask: (X, Y, Z). Where it ends at the border of the volume, the organ is closed there.
        affine: (4, 4) from voxels to millimetres, of any orientation and spacing.
        scan: (X, Y, Z) values, on the same grid.
        resolution: R, of active voxels.
        features: 'mask': -1 and 1 by whether a part of a voxel lies inside; 'scan': its value in `window`, as -1 to 1.
        window: see `Data.window`.
        name: what it is called.
        found: a mask that says where the organ is looked for instead of `mask`, which stays the truth: the grid, the
            active voxels and, with features 'mask', those.

    Raises:
        ValueError: an empty mask, a scan that is missing or on another grid, an affine that is no place in space.
    """
    if not mask.any() or (found is not None and not found.any()):
        raise ValueError(f"{name}: the mask is empty")
    if features == "scan" and (scan is None or scan.shape != mask.shape):
        raise ValueError(f"{name}: the scan has shape {getattr(scan, 'shape', None)}, the mask {mask.shape}")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9 * max(1e-9, spacing.prod()):
        raise ValueError(f"{name}: the affine is singular or not finite")
    to_world = _grid(mask if found is None else found, affine, resolution)
    to_voxel = np.linalg.inv(affine) @ to_world
    distances = _cut_off(mask, affine, to_world, resolution)
    seen = distances if found is None else _cut_off(found, affine, to_world, resolution)
    coords = _active(seen, resolution)
    parts = octants(coords, resolution)
    if features == "mask":
        feats = np.where(_sampled(seen, parts * FINE * resolution + FINE * resolution / 2) < 0, 1.0, -1.0)
    else:
        assert scan is not None
        low, high = window if window is not None else np.percentile(scan, (1, 99))
        values = _sampled(scan.astype(np.float32), _moved(parts, to_voxel))
        feats = np.clip(2 * (values - low) / max(high - low, 1e-6) - 1, -1, 1)
    points = _surface_points(distances, coords if found is None else _active(distances, resolution), resolution)
    return Sample(coords, feats.astype(np.float32), distances.astype(np.float16), points, to_world, name)


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Samples as one batch: `coords` (N, 4) with the item before x, y, z, `feats` (N, 8), and side by side `distances`
    (B, S, S, S), `points` (B, P, 3), `to_world` (B, 4, 4), `name`."""
    items = [np.insert(sample.coords, 0, number, 1) for number, sample in enumerate(samples)]
    return {
        "coords": torch.from_numpy(np.concatenate(items).astype(np.int64)),
        "feats": torch.from_numpy(np.concatenate([sample.feats for sample in samples])),
        "distances": torch.from_numpy(np.stack([sample.distances for sample in samples]).astype(np.float32)),
        "points": torch.from_numpy(np.stack([sample.points for sample in samples])),
        "to_world": torch.from_numpy(np.stack([sample.to_world for sample in samples])),
        "name": [sample.name for sample in samples],
    }


def octants(coords: NDArray[np.int32], resolution: int) -> NDArray[np.float64]:
    """(N, 8, 3): the middle of each voxel's eight parts, z fastest, in [-0.5, 0.5]."""
    return (2 * coords[:, None] + np.indices((2, 2, 2)).reshape(3, 8).T + 0.5) / (2 * resolution) - 0.5


def world(vertices: Tensor, to_world: Tensor) -> Tensor:
    """(V, 3) places in [-0.5, 0.5] as millimetres."""
    return vertices.double() @ to_world[:3, :3].double().t() + to_world[:3, 3].double()


def as_arrays(sample: Sample) -> dict[str, NDArray[Any]]:
    """What a file of a sample holds."""
    return {name: np.asarray(getattr(sample, name)) for name in Sample.__dataclass_fields__}


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Sample:
    """What `as_arrays` gave."""
    found: dict[str, Any] = {name: arrays[name] for name in Sample.__dataclass_fields__}
    found["name"] = str(found["name"])
    return Sample(**found)


def _grid(mask: NDArray[np.bool_], affine: Affine, resolution: int) -> Affine:
    """From [-0.5, 0.5] to millimetres: a cube around the mask, with its axes along those of the patient."""
    found = np.argwhere(mask)
    low, high = found.min(0) - 0.5, found.max(0) + 0.5
    ends = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3)
    ends = _moved(ends, affine)
    least, most = ends.min(0), ends.max(0)
    side = (most - least).max() / (1 - 2 * MARGIN)
    to_world = np.diag([side, side, side, 1.0])
    to_world[:3, 3] = (least + most) / 2
    return to_world


def _cut_off(mask: NDArray[np.bool_], affine: Affine, to_world: Affine, resolution: int) -> NDArray[np.float64]:
    """(S, S, S) signed distances at the corners in units of `CUT_OFF` fine cubes, in [-1, 1]."""
    side, corners = np.linalg.norm(to_world[:3, 0]), np.linspace(-0.5, 0.5, FINE * resolution + 1)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    millimetres = _distances(mask, spacing, np.linalg.inv(affine) @ to_world, corners)
    # Between voxels the surface cuts the mask's corners off: it is moved out until the volume is the mask's.
    within = (np.abs(_moved(np.argwhere(mask), np.linalg.inv(to_world) @ affine)) <= 0.5).all(1).sum()
    millimetres -= np.quantile(millimetres, min(1.0, within * abs(np.linalg.det(affine[:3, :3])) / side**3))
    return np.clip(millimetres / (CUT_OFF * side / (FINE * resolution)), -1, 1)


def _distances(
    mask: NDArray[np.bool_], spacing: NDArray[np.float64], to_voxel: Affine, corners: NDArray[np.float64]
) -> NDArray[np.float32]:
    """(S, S, S) signed distances in mm at the corners, negative inside."""
    from lorgnette.systems.mesh.lattice import ndimage

    found = np.argwhere(mask)
    low, high = found.min(0), found.max(0) + 1
    inside = np.pad(mask[tuple(map(slice, low, high))], _PAD)  # also where the volume ends: a closed surface
    half = 0.5 * spacing.min()  # centres of voxels lie about half a voxel from the surface between them
    image = ndimage()
    outer = image.distance_transform_edt(~inside, sampling=spacing)
    inner = image.distance_transform_edt(inside, sampling=spacing)
    signed = image.gaussian_filter(np.where(inside, half - inner, outer - half).astype(np.float32), 0.6)  # less stairs
    grid = np.stack(np.meshgrid(corners, corners, corners, indexing="ij"), -1)
    at = _moved(grid, to_voxel) - (low - _PAD)
    beyond = np.maximum(np.maximum(-at, at - (np.array(inside.shape) - 1)), 0)  # further out than the padding
    return _sampled(signed, at) + np.linalg.norm(beyond * spacing, axis=-1).astype(np.float32)


def _active(distances: NDArray[Any], resolution: int) -> NDArray[np.int32]:
    """(N, 3) voxels with corners on both sides of the surface, or nearly."""
    lowest, highest = (np.full((resolution,) * 3, end) for end in (np.inf, -np.inf))
    for offset in np.ndindex(FINE + 1, FINE + 1, FINE + 1):
        part = distances[tuple(slice(o, o + FINE * (resolution - 1) + 1, FINE) for o in offset)]
        lowest, highest = np.minimum(lowest, part), np.maximum(highest, part)
    slack = 0.5 / CUT_OFF
    return np.argwhere((lowest < slack) & (highest > -slack)).astype(np.int32)


def _surface_points(distances: NDArray[Any], coords: NDArray[np.int32], resolution: int) -> NDArray[np.float32]:
    """(P, 3): where the distance is zero, spread evenly over what FlexiCubes finds without shifts and weights."""
    from lorgnette.systems.mesh.cube_cases import CORNERS
    from lorgnette.systems.mesh.flexicubes import extract
    from lorgnette.systems.mesh.lattice import Lattice

    cubes = (FINE * coords[:, None] + np.indices((FINE,) * 3).reshape(3, -1).T).reshape(-1, 3)
    corner = cubes[:, None] + CORNERS.numpy()
    values = torch.zeros(len(cubes), 53)
    side = FINE * resolution
    values[:, :8] = torch.from_numpy(distances[tuple(np.moveaxis(corner, -1, 0))]).float() + 1 / side
    surface = extract(Lattice(torch.from_numpy(cubes)), values, side)
    if not len(surface.faces):
        raise ValueError("the organ is smaller than a voxel of its grid")
    a, b, c = surface.vertices[surface.faces].double().unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1).cumsum(0)
    at = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS * area[-1]
    face = torch.searchsorted(area, at).clamp(max=len(area) - 1)
    return ((a + b + c) / 3)[face].float().numpy()


def _moved(points: NDArray[Any], affine: Affine) -> NDArray[np.float64]:
    return points @ affine[:3, :3].T + affine[:3, 3]


def _sampled(volume: NDArray[Any], places: NDArray[Any]) -> NDArray[np.float32]:
    """Linearly between voxels; (..., 3) places -> (...)."""
    from lorgnette.systems.mesh.lattice import ndimage

    flat = places.reshape(-1, 3).T
    return (
        ndimage().map_coordinates(volume, flat, order=1, mode="nearest").reshape(places.shape[:-1]).astype(np.float32)
    )
