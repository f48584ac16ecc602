"""Mesh files: what is written is what others read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.systems.mesh.shapes import ball, labels_of

from lorgnette.systems.mesh.files import WRITERS, write_meshes
from lorgnette.systems.mesh.surface import Mesh, Surface, surfaces


@pytest.fixture(scope="module")
def meshes() -> list[Mesh]:
    values = ball(6, (8, 8, 8), 20).astype(int)
    values[ball(5, (13, 9, 8), 20) & (values == 0)] = 2
    affine = np.diag([2.0, 2, 3, 1])
    affine[:3, 3] = (-100, 50, 7)
    return list(surfaces(labels_of(values, affine, {1: "liver", 2: "right kidney"}), Surface(shared_walls=True)))


@pytest.mark.parametrize("suffix", [".stl", ".ply", ".obj", ".glb"])
def test_trimesh_reads_what_is_written(suffix: str, meshes: list[Mesh], tmp_path: Path):
    trimesh = pytest.importorskip("trimesh")
    write_meshes(tmp_path / f"one{suffix}", meshes[:1])
    loaded = trimesh.load(tmp_path / f"one{suffix}", force="mesh", merge_tex=True, merge_norm=True)
    assert loaded.is_watertight
    assert loaded.volume == pytest.approx(meshes[0].volume, rel=1e-5)
    np.testing.assert_allclose(loaded.bounds, [meshes[0].vertices.min(0), meshes[0].vertices.max(0)], atol=1e-3)


def test_a_scene_keeps_names_and_colours(meshes: list[Mesh], tmp_path: Path):
    trimesh = pytest.importorskip("trimesh")
    write_meshes(tmp_path / "scene.glb", meshes)
    scene = trimesh.load(tmp_path / "scene.glb")
    assert set(scene.geometry) == {"liver", "right kidney"}
    for mesh in meshes:
        loaded = scene.geometry[mesh.name]
        np.testing.assert_array_equal(loaded.faces, mesh.triangles)
        np.testing.assert_allclose(loaded.vertices, mesh.vertices, atol=1e-4)
        shown = 255 * (np.array(loaded.visual.material.baseColorFactor[:3]) / 255) ** (1 / 2.2)
        np.testing.assert_allclose(shown, mesh.color, atol=6)
    write_meshes(tmp_path / "scene.obj", meshes)
    assert [line for line in (tmp_path / "scene.obj").read_text().splitlines() if line.startswith("o ")] == [
        "o liver",
        "o right_kidney",
    ]
    write_meshes(tmp_path / "scene.ply", meshes)
    loaded = trimesh.load(tmp_path / "scene.ply")
    assert len(loaded.faces) == sum(len(mesh.triangles) for mesh in meshes)
    assert {tuple(color[:3]) for color in loaded.visual.vertex_colors} == {mesh.color for mesh in meshes}


def test_vtp_holds_the_triangles(meshes: list[Mesh], tmp_path: Path):
    import base64
    from xml.etree import ElementTree

    write_meshes(tmp_path / "scene.vtp", meshes)
    root = ElementTree.parse(tmp_path / "scene.vtp").getroot()
    arrays = {node.get("Name"): node for node in root.iter("DataArray")}

    def values(name: str, kind: str) -> np.ndarray:
        data = base64.b64decode(arrays[name].text or "")
        assert int.from_bytes(data[:8], "little") == len(data) - 8
        return np.frombuffer(data[8:], kind)

    points, faces = values("Points", "<f4").reshape(-1, 3), values("connectivity", "<i8").reshape(-1, 3)
    whole = Mesh("", points.astype(float), faces)
    assert whole.volume == pytest.approx(sum(mesh.volume for mesh in meshes), rel=1e-5)
    assert values("offsets", "<i8")[-1] == faces.size
    assert np.bincount(values("organ", "<i4")).tolist() == [len(mesh.triangles) for mesh in meshes]
    text = next(root.iter("Array")).text or ""
    assert bytes(map(int, text.split())).decode().split("\0")[:-1] == ["liver", "right kidney"]


def test_other_suffixes_are_refused(meshes: list[Mesh], tmp_path: Path):
    with pytest.raises(ValueError, match=r"\.step is no format of meshes.*; \.stl, \.ply"):
        write_meshes(tmp_path / "a.step", meshes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", list(WRITERS))
def test_a_disk_that_is_full_leaves_what_was_there(
    suffix: str, meshes: list[Mesh], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"before")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_meshes(path, meshes)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"before"
