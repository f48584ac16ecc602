"""Surfaces beside the published extractor's, closed, manifold, without a second wall."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.systems.mesh import goldens
from tests.systems.mesh.shells import shell
from torch import Tensor

from lorgnette.systems.mesh.cube_cases import EDGES, cases
from lorgnette.systems.mesh.flexicubes import Surface, extract
from lorgnette.systems.mesh.lattice import Lattice
from lorgnette.systems.mesh.weights import from_upstream

trimesh = pytest.importorskip("trimesh")
scipy_spatial = pytest.importorskip("scipy.spatial")


def solid(surface: Surface):
    return trimesh.Trimesh(surface.vertices.detach().numpy(), surface.faces.numpy(), process=False)


def assert_same(surface: Surface, vertices: Tensor, faces: Tensor, attributes: Tensor | None = None) -> None:
    """The same triangles, however numbered and from whichever corner on."""
    assert surface.vertices.shape == vertices.shape
    apart, number = scipy_spatial.cKDTree(vertices.numpy()).query(surface.vertices.detach().numpy())
    assert apart.max() < 1e-4
    assert len(set(number)) == len(vertices)
    assert triangles(number[surface.faces.numpy()]) == triangles(faces.numpy())
    if attributes is not None and surface.attributes is not None:
        assert np.abs(surface.attributes.numpy() - attributes.numpy()[number]).max() < 1e-4


def triangles(faces: np.ndarray) -> list[tuple[int, ...]]:
    return sorted(tuple(np.roll(face, -face.argmin())) for face in faces)


def test_a_surface_equals_the_published_extractors():
    shapes, golden = goldens.cut()
    model = from_upstream(goldens.state(shapes["full_attention"]), resolution=8, attn_mode="full")
    with torch.no_grad():
        coords, values = model.features(golden["coords"], golden["feats"])
        lattice = Lattice(coords[:, 1:])
        surface = extract(lattice, values, 32, fill="outside")
        assert_same(surface, golden["eval_vertices"], golden["eval_faces"], golden["eval_attrs"])
        surface = extract(lattice, values, 32, training=True, fill="outside")
        assert_same(surface, golden["train_vertices"], golden["train_faces"])
        assert surface.regularisation.item() == pytest.approx(golden["train_reg_loss"].item(), rel=1e-5)


@goldens.needs_goldens
@pytest.mark.parametrize("case", goldens.CASES)
def test_surfaces_equal_the_published_extractors_in_whole(case: str):
    told, golden = goldens.whole(case)
    for item in golden["coords"][:, 0].unique().tolist():
        mine = golden["up1_coords"][:, 0] == item
        lattice = Lattice(golden["up1_coords"][mine, 1:])
        for mode in ("eval", "train"):
            side = 4 * told["config"]["resolution"]
            surface = extract(lattice, golden["out_feats"][mine], side, mode == "train", "outside")
            name = f"mesh{item}_{mode}_"
            assert_same(surface, *(golden.get(name + part) for part in ("vertices", "faces", "attrs")))
            if mode == "train":
                assert surface.regularisation.item() == pytest.approx(golden[name + "reg_loss"].item(), rel=1e-5)
                torch.testing.assert_close(surface.points, golden[name + "tsdf_v"])
                torch.testing.assert_close(surface.distances, golden[name + "tsdf_s"])


def test_a_closed_shell_is_one_wall_where_the_naive_fill_makes_two():
    cubes, values = shell(64, (20,))
    lattice = Lattice(cubes)
    assert lattice.regions == 2
    ours, naive = (extract(lattice, values, 64, fill=fill) for fill in ("inward", "outside"))
    volume = 4 / 3 * math.pi * (20 / 64) ** 3
    assert solid(ours).is_watertight
    assert solid(ours).body_count == 1
    assert solid(ours).volume == pytest.approx(volume, rel=1.5e-2)
    assert solid(naive).is_watertight  # which is why nobody notices
    assert solid(naive).body_count == 2
    assert solid(naive).volume < 0.7 * volume


def test_a_hollow_organ_keeps_its_hollow():
    cubes, values = shell(96, (40, 16))
    lattice = Lattice(cubes)
    assert lattice.regions == 3
    body = solid(extract(lattice, values, 96))
    assert body.body_count == 2
    assert body.volume == pytest.approx(4 / 3 * math.pi * (40**3 - 16**3) / 96**3, rel=1.5e-2)


def test_a_surface_at_the_border_of_the_grid_is_closed():
    cubes, values = shell(32, (19,))
    body = solid(extract(Lattice(cubes), values, 32))
    assert body.is_watertight
    assert body.bounds.min() < -0.5 < 0.5 < body.bounds.max()


def test_all_outside_and_all_inside_are_no_surface_or_a_closed_one():
    cubes, values = shell(32, (10,))
    values[:, :8] = 1
    nothing = extract(Lattice(cubes), values.requires_grad_(), 32, training=True)
    assert nothing.vertices.shape == nothing.faces.shape == (0, 3)
    nothing.regularisation.backward()
    values = torch.full_like(values, -1.0).detach()
    assert solid(extract(Lattice(cubes), values, 32)).body_count == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(0, 10**6), st.booleans(), st.sampled_from(["inward", "outside"]))
def test_random_values_give_closed_manifold_surfaces(count: int, seed: int, training: bool, fill):
    """Every edge belongs to two triangles, which run along it in opposite directions; around a vertex is one fan."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(*[torch.arange(9)] * 3)
    cubes = grid[torch.randperm(len(grid), generator=generator)[:count]]
    surface = extract(Lattice(cubes), torch.randn(count, 53, generator=generator), 9, training, fill)
    edges = surface.faces[:, [0, 1, 1, 2, 2, 0]].view(-1, 2)
    assert len(edges.unique(dim=0)) == len(edges)
    assert torch.equal(edges.unique(dim=0), edges.flip(1).unique(dim=0))
    assert surface.faces.unique().numel() == len(surface.vertices)
    turns = surface.faces.numel() - len(surface.vertices)
    fans = trimesh.graph.connected_components(_links(surface.faces.numpy()), nodes=np.arange(surface.faces.numel()))
    assert turns == 0 or len(fans) == len(surface.vertices)


def _links(faces: np.ndarray) -> np.ndarray:
    """Pairs of corners of triangles that lie at the same vertex beside the same edge."""
    corner = np.arange(faces.size).reshape(-1, 3)
    along: dict[tuple[int, int], tuple[int, int]] = {}
    for row, numbers in zip(faces, corner, strict=True):
        for i in range(3):
            along[row[i], row[(i + 1) % 3]] = numbers[i], numbers[(i + 1) % 3]
    return np.array([pair for (a, b), (x, y) in along.items() for pair in ((x, along[b, a][1]), (y, along[b, a][0]))])


@pytest.mark.parametrize("training", [False, True])
def test_vertices_have_the_gradients_that_differences_give(training: bool):
    torch.manual_seed(0)
    cubes = torch.cartesian_prod(*[torch.arange(3)] * 3)
    values = torch.randn(27, 101, dtype=torch.float64, requires_grad=True)
    lattice = Lattice(cubes)
    target = torch.randn_like(extract(lattice, values, 3, training).vertices)

    def loss(v: Tensor) -> Tensor:
        surface = extract(lattice, v, 3, training)
        assert surface.attributes is not None
        return ((surface.vertices - target) ** 2).sum() + surface.attributes.sum() + surface.regularisation

    (grad,) = torch.autograd.grad(loss(values), values)
    assert {name: bool(grad[:, part].any()) for name, part in PARTS.items()} == dict.fromkeys(PARTS, True) | {
        "cube": training
    }
    direction = torch.randn_like(values)
    step = 1e-6
    with torch.no_grad():
        slope = (loss(values + step * direction) - loss(values - step * direction)) / (2 * step)
    assert slope.item() == pytest.approx((grad * direction).sum().item(), rel=1e-5)


PARTS = {"distance": slice(8), "shift": slice(8, 32), "edge": slice(32, 44), "corner": slice(44, 52)}
PARTS |= {"cube": slice(52, 53), "colour": slice(53, 101)}


def test_the_table_of_cases_holds_what_is_known_of_it():
    table = cases()
    assert table.loops.bincount().tolist() == [2, 162, 82, 8, 2]
    assert int(table.meets.any(1).sum()) == 36
    for case in range(256):
        inside = torch.tensor([case >> corner & 1 for corner in range(8)])
        crossed = inside[EDGES].sum(1) == 1
        assert torch.equal(table.loop_of_edge[case] >= 0, crossed)
        sizes = table.loop_of_edge[case][crossed].bincount()
        assert not len(sizes) or 3 <= sizes.min() <= sizes.max() <= 7
        if table.meets[case].any():  # the other way is free of doubt there
            assert table.loops[255 - case] > table.loops[case]


MEASURED = """
import torch
from lorgnette.systems.mesh.flexicubes import extract
from lorgnette.systems.mesh.lattice import Lattice
from tests.systems.mesh.shells import shell
import scipy.ndimage
torch.set_num_threads(1)
def status(name):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(name))
cubes, values = shell(256, (100,), (1, 0.8, 0.6))
extract(Lattice(cubes[:64]), values[:64], 256)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
with torch.no_grad():
    surface = extract(Lattice(cubes), values, 256)
print(len(surface.faces), status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_organ_in_a_grid_of_256_takes_300_megabytes_at_most():
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, cwd=goldens.ROOT
    )
    faces, megabytes = map(float, done.stdout.split())
    assert faces > 200_000
    assert megabytes < 300
