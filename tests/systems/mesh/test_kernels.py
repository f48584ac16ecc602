"""Loops that numba compiles do what the functions of arrays do."""

from __future__ import annotations

import numpy as np
import pytest
from tests.systems.mesh.shapes import ball, labels_of

from lorgnette.systems.mesh.surface import Surface, build, crossings, diagonals, surfaces
from lorgnette.systems.mesh.surface.cells import extract, make_manifold
from lorgnette.systems.mesh.surface.fairing import Fairing

pytest.importorskip("numba", reason="needs the extra 'fast'")


def two_organs() -> np.ndarray:
    """Two organs that touch, each with a rim of noise: also vertices of six neighbours, and some that fold."""
    values = ball(9, (12, 12, 12), 30).astype(np.uint8)
    values[ball(8, (20, 14, 13), 30) & (values == 0)] = 2
    specks = np.random.default_rng(0).random(values.shape) < 0.2
    values[specks & ball(11, (12, 12, 12), 30) & (values == 0)] = 1
    return np.pad(values, 1)


@pytest.mark.parametrize("apart", [True, False])
def test_each_loop_is_its_function_of_arrays(apart: bool):
    values = two_organs()
    if apart:
        values[values == 2] = 0
    organs = int(values.max())
    make_manifold(values, organs)
    net, volumes = extract(values), np.bincount(values.ravel())[1:].astype(float)
    of = Fairing(net, volumes, apart)
    x = np.clip(net.corners + np.random.default_rng(1).normal(0, 0.3, net.corners.shape), of.low, of.high)
    diagonal = np.random.default_rng(2).random(len(net.quads)) < 0.5

    def found(of: Fairing) -> dict[str, np.ndarray]:
        areas = of.at_vertices(x, of.cut(diagonal))
        corners = np.argsort(net.quads.ravel(), kind="stable")
        pairs = np.stack([corners[:-1], corners[1:]], axis=1)
        pairs = pairs[net.quads.ravel()[pairs[:, 0]] == net.quads.ravel()[pairs[:, 1]]]
        triangles = np.stack([pairs[:, 0] // 4, pairs[:, 1] // 4 + len(net.quads)], axis=1)
        both, alone = diagonals._costs(of, x, *diagonals.twins(of))
        return {
            "smooth": of.smooth(),
            "areas": areas,
            "both": both,
            "alone": alone,
            "choice": diagonals.choose(of, x),
            "folded": crossings._folded(of, x, areas),
            "apart": crossings._on_two_sides(of, x, areas, pairs),
            "crossing": crossings.crossing(x, of.triangles(diagonal), triangles, of.compiled),
        }

    compiled, arrays = found(Fairing(net, volumes, apart, compiled=True)), found(of)
    for name in ("folded", "choice", "crossing") if apart else ("folded", "choice", "crossing", "apart"):
        assert 0 < arrays[name].mean() < 0.95, name
    assert np.abs(arrays["smooth"] - net.corners).max() > 0.4
    for name, values in arrays.items():
        if values.dtype == bool:
            assert (values == compiled[name]).mean() > 0.999, name  # what is all but even may fall the other way
        else:
            np.testing.assert_allclose(compiled[name], values, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("shared", [True, False])
def test_without_numba_meshes_are_the_same(shared: bool, monkeypatch: pytest.MonkeyPatch):
    labels = labels_of(two_organs(), np.diag([1.0, 1.2, 2.0, 1.0]))
    arrays = list(surfaces(labels, Surface(shared_walls=shared)))
    monkeypatch.setattr(build, "COMPILED", 0)
    compiled = list(surfaces(labels, Surface(shared_walls=shared)))
    for one, other in zip(compiled, arrays, strict=True):
        assert one.notes == other.notes
        assert one.volume == pytest.approx(other.volume, rel=1e-4)
        assert one.roughness == pytest.approx(other.roughness, rel=1e-2)
        assert one.manifold
        assert other.manifold
