"""Scores of masks, beside those of MONAI and surface-distance."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from tests.systems.mesh.shapes import ball

from lorgnette.systems.mesh.metrics import chamfer, overlap_scores, surface_scores


def pair(seed: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Two blobs that overlap in part, with holes, and an anisotropic spacing."""
    rng = np.random.default_rng(seed)
    x, y, z = rng.uniform(0.5, 3, 3).tolist()
    spacing = (x, y, z)
    size = 26
    masks = []
    for _ in range(2):
        mask = np.zeros((size,) * 3, bool)
        for _ in range(3):
            center = rng.uniform(8, 18, 3) * spacing
            mask |= ball(float(rng.uniform(3, 6)) * min(spacing) + 2, tuple(center), size, spacing)
        masks.append(mask & (rng.random(mask.shape) > 0.02))
    return masks[0], masks[1], spacing


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_surface_distance(seed: int):
    oracle = pytest.importorskip("surface_distance")
    one, other, spacing = pair(seed)
    with warnings.catch_warnings(action="ignore"):
        distances = oracle.compute_surface_distances(other, one, spacing)
    ours = surface_scores(one, other, spacing, tolerance=1.5, surface="elements")
    assert ours["hd95"] == pytest.approx(oracle.compute_robust_hausdorff(distances, 95), abs=1e-4)
    assert ours["nsd"] == pytest.approx(oracle.compute_surface_dice_at_tolerance(distances, 1.5), abs=1e-4)
    areas = distances["surfel_areas_gt"], distances["surfel_areas_pred"]
    sums = sum(
        (distances[name] * area).sum()
        for name, area in zip(("distances_gt_to_pred", "distances_pred_to_gt"), areas, strict=True)
    )
    assert ours["assd"] == pytest.approx(sums / sum(area.sum() for area in areas), abs=1e-4)
    assert overlap_scores(one, other)["dice"] == pytest.approx(oracle.compute_dice_coefficient(other, one), abs=1e-9)


@pytest.mark.filterwarnings("ignore")  # MONAI's own
@pytest.mark.parametrize("seed", range(20))
def test_equal_to_monai(seed: int):
    metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    one, other, spacing = pair(seed)
    a, b = (torch.from_numpy(mask)[None, None] for mask in (one, other))
    ours = surface_scores(one, other, spacing, tolerance=1.5) | overlap_scores(one, other)
    theirs = {
        "hd95": metrics.compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing),
        "assd": metrics.compute_average_surface_distance(
            a, b, include_background=True, symmetric=True, spacing=spacing
        ),
        "nsd": metrics.compute_surface_dice(a, b, class_thresholds=[1.5], include_background=True, spacing=spacing),
        "dice": metrics.compute_dice(a.float(), b.float()),
        "iou": metrics.compute_iou(a.float(), b.float()),
    }
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(float(value), abs=1e-4), name


def test_what_is_known_by_heart():
    one, other = ball(6, (10, 10, 10), 22), ball(6, (12, 10, 10), 22)
    scores = surface_scores(one, other, (1, 1, 1), tolerance=2)
    assert scores["nsd"] == 1
    assert 0.5 < scores["assd"] < 2
    assert surface_scores(one, one, (1, 2, 3)) == {"hd95": 0, "assd": 0, "nsd": 1}
    assert overlap_scores(one, other)["volume error %"] == 0
    assert chamfer(np.zeros((1, 3)), np.array([[3.0, 4, 0]])) == 10


def test_empty_masks():
    one, nothing = ball(3, (5, 5, 5), 11), np.zeros((11,) * 3, bool)
    assert surface_scores(one, nothing, (1, 1, 1)) == {"hd95": math.inf, "assd": math.inf, "nsd": 0}
    assert all(math.isnan(value) for value in surface_scores(nothing, nothing, (1, 1, 1)).values())
    assert math.isnan(overlap_scores(nothing, nothing)["dice"])
