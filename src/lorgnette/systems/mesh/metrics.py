"""How alike two masks or two meshes are: overlap, distances between their surfaces, volume.

Two conventions are about for the surface of a mask. MONAI takes its border *voxels*, each as one point. DeepMind's
surface-distance takes *surface elements* between voxels, each with its area in square millimetres. `surface_scores`
has both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from lorgnette.systems.mesh.surface.cells import Array

Mask = npt.NDArray[np.bool_]


def overlap_scores(one: Mask, other: Mask) -> dict[str, float]:
    """Dice, IoU and the error of the volume in percent of the second's; NaN where both are empty.

    Args:
        one: (X, Y, Z), what was predicted.
        other: likewise, the truth.
    """
    a, b, both = (int(np.count_nonzero(mask)) for mask in (one, other, one & other))
    return {
        "dice": 2 * both / (a + b) if a + b else float("nan"),
        "iou": both / (a + b - both) if a + b else float("nan"),
        "volume error %": 100 * (a / b - 1) if b else float("nan"),
    }


def surface_scores(
    one: Mask,
    other: Mask,
    spacing: Sequence[float],
    tolerance: float = 1.0,
    surface: Literal["voxels", "elements"] = "voxels",
) -> dict[str, float]:
    """Distances between the surfaces of two masks, in millimetres.

    Args:
        one: (X, Y, Z), what was predicted.
        other: likewise, the truth.
        spacing: millimetres between voxels along each axis.
        tolerance: millimetres that do not count for NSD.
        surface: "voxels" as MONAI has it, "elements" as surface-distance does.

    Returns:
        `hd95`: the larger of both ways' 95th percentiles. `assd`: the mean over both surfaces. `nsd`: the share of
        both surfaces that is no farther than `tolerance` from the other. infinity, infinity and 0 where one mask is
        empty; NaN where both are.
    """
    if not one.any() or not other.any():
        nothing = float("nan") if one.any() == other.any() else float("inf")
        return {"hd95": nothing, "assd": nothing, "nsd": float("nan") if nothing != nothing else 0.0}
    one, other = _cropped(one, other)
    find = _border_voxels if surface == "voxels" else _elements
    (there, there_area), (here, here_area) = find(one, spacing), find(other, spacing)
    from scipy.ndimage import distance_transform_edt

    forth, back = (
        np.asarray(distance_transform_edt(~target, sampling=spacing))[source]
        for target, source in ((here, there), (there, here))
    )
    weights = [there_area[there], here_area[here]]
    total = sum(float(weight.sum()) for weight in weights)
    near = sum(float(w[d <= tolerance].sum()) for d, w in zip((forth, back), weights, strict=True))
    if surface == "voxels":
        hd95 = max(float(np.percentile(distances, 95)) for distances in (forth, back))
    else:
        hd95 = max(_percentile(d, w, 0.95) for d, w in zip((forth, back), weights, strict=True))
    mean = sum(float((d * w).sum()) for d, w in zip((forth, back), weights, strict=True)) / total
    return {"hd95": hd95, "assd": mean, "nsd": near / total}


def chamfer(one: Array, other: Array) -> float:
    """The mean distance of points (N, 3) from the nearest of others (M, 3), both ways added, in their unit."""
    from scipy.spatial import KDTree

    return float(KDTree(other).query(one)[0].mean() + KDTree(one).query(other)[0].mean())


def _cropped(one: Mask, other: Mask) -> tuple[Mask, Mask]:
    """Both masks in the box that holds them, with an empty voxel around: what lies farther makes no difference."""
    inside = np.nonzero(one | other)
    box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in inside)
    return np.pad(one[box], 1), np.pad(other[box], 1)


def _border_voxels(mask: Mask, spacing: Sequence[float]) -> tuple[Mask, Array]:
    """The voxels of a mask with a face on its outside, each of weight 1."""
    from scipy.ndimage import binary_erosion

    border = mask & ~np.asarray(binary_erosion(mask))
    return border, np.ones(mask.shape)


def _elements(mask: Mask, spacing: Sequence[float]) -> tuple[Mask, Array]:
    """The cells between eight voxels through which the surface goes, and its area in each, in square millimetres."""
    code = np.zeros([side - 1 for side in mask.shape], np.uint8)
    for n, start in enumerate(np.ndindex(2, 2, 2)):
        box = tuple(slice(first, first + side - 1) for first, side in zip(start, mask.shape, strict=True))
        code |= mask[box].astype(np.uint8) << n
    areas = _areas(float(spacing[0]), float(spacing[1]), float(spacing[2]))[code]
    return (code > 0) & (code < 255), areas


@lru_cache(maxsize=16)
def _areas(*spacing: float) -> Array:
    """(256,): the area of the surface in a cell, by which of its eight voxels are inside.

    Of marching cubes (Lorensen and Cline, SIGGRAPH 1987) with vertices in the middle of edges; as there, what is
    inside and what is outside may change places.
    """
    from skimage.measure import marching_cubes, mesh_surface_area

    areas = np.zeros(256)
    for code in range(1, 255):
        inside = np.array([code >> n & 1 for n in range(8)], np.float32).reshape(2, 2, 2)
        if inside.sum() > 4:
            inside = 1 - inside
        vertices, faces, *_ = marching_cubes(inside, 0.5, spacing=spacing, method="lorensen")
        areas[code] = mesh_surface_area(vertices, faces)
    return areas


def _percentile(distances: Array, areas: Array, share: float) -> float:
    """The distance within which that share of the area lies."""
    order = np.argsort(distances)
    reached = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order][min(int(np.searchsorted(reached, share)), order.size - 1)])
