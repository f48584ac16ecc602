"""Each loss pulls towards the organ's true shape."""

from __future__ import annotations

import pytest
import torch
from tests.systems.mesh.shells import shell

from lorgnette.systems.mesh.flexicubes import extract, inside
from lorgnette.systems.mesh.lattice import Lattice
from lorgnette.systems.mesh.losses import distances_at, losses_of

SIDE = 32


@pytest.fixture(scope="module")
def ball():
    """A ball of radius 10 cubes: the grid's cut-off distances, and points on it."""
    axis = torch.linspace(-SIDE / 2, SIDE / 2, SIDE + 1)
    away = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    points = torch.randn(2048, 3, generator=torch.Generator().manual_seed(0))
    return ((away - 10) / 4).clamp(-1, 1), points / points.norm(dim=1, keepdim=True) * 10 / SIDE


def dice(lattice: Lattice, values: torch.Tensor, volume: torch.Tensor) -> float:
    found = inside(lattice, extract(lattice, values, SIDE).distances, SIDE + 1)
    return float(2 * (found & (volume < 0)).sum() / (found.sum() + (volume < 0).sum()))


def smaller() -> tuple[Lattice, torch.Tensor]:
    """Cubes around the true ball, with the distances of one whose radius is 8.5."""
    cubes, values = shell(SIDE, (10,))
    values[:, :8] = values[:, :8] * SIDE / 4 + 1.5 / 4 - 1 / 4 + 1 / SIDE
    return Lattice(cubes), values


@pytest.mark.parametrize("name", ["distance", "dice", "chamfer"])
def test_a_loss_alone_brings_the_shape_nearer(ball, name: str):
    volume, points = ball
    lattice, values = smaller()
    values.requires_grad_()
    before = dice(lattice, values, volume)
    optimizer = torch.optim.Adam([values], lr=0.08)
    for _ in range(8):
        optimizer.zero_grad()
        losses_of(extract(lattice, values, SIDE, training=True), lattice, volume, points)[name].backward()
        optimizer.step()
    assert before < 0.8
    assert dice(lattice, values, volume) > before + 0.1


def test_the_truth_costs_next_to_nothing(ball):
    volume, points = ball
    cubes, values = shell(SIDE, (10,))
    values[:, :8] = (values[:, :8] * SIDE - 1) / 4 + 1 / SIDE
    lattice = Lattice(cubes)
    true = losses_of(extract(lattice, values, SIDE, training=True), lattice, volume, points)
    wrong = losses_of(extract(*smaller(), SIDE, training=True), lattice, volume, points)
    limits = {"distance": 1e-3, "dice": 0.2, "eikonal": 0.01, "normal": 0.01, "chamfer": 0.5, "regular": 0.05}
    assert {name for name, limit in limits.items() if true[name] > limit} == set()
    for name in ("distance", "dice", "chamfer"):
        assert true[name] < wrong[name] / 1.5


def test_slopes_and_normals_count(ball):
    volume, points = ball
    cubes, values = shell(SIDE, (10,))
    values[:, :8] = (values[:, :8] * SIDE - 1) / 4
    lattice = Lattice(cubes)
    true = losses_of(extract(lattice, values, SIDE, training=True), lattice, volume, points)
    flat = values * torch.tensor([0.5] * 8 + [1.0] * 45)
    assert losses_of(extract(lattice, flat, SIDE, training=True), lattice, volume, points)["eikonal"] > 0.2
    tilted = values.clone()
    tilted[:, :8] += 0.3 * torch.sin(cubes[:, :1].float())
    assert losses_of(extract(lattice, tilted, SIDE, training=True), lattice, volume, points)["normal"] > (
        5 * true["normal"] + 0.01
    )


def test_true_distances_are_read_between_corners(ball):
    volume, _ = ball
    points = torch.tensor([[10.5, 0, 0], [0, 9, 0], [0, 0, -12.0]]) / SIDE
    torch.testing.assert_close(distances_at(volume, points), torch.tensor([0.125, -0.25, 0.5]), atol=0.01, rtol=0)


def test_nothing_found_still_has_a_gradient(ball):
    volume, points = ball
    lattice, values = smaller()
    values = torch.full_like(values, 2.0).requires_grad_()
    losses = losses_of(extract(lattice, values, SIDE, training=True), lattice, volume, points)
    sum(losses.values()).backward()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()
    assert values.grad[:, :8].any()
