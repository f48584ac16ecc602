"""Meshes of masks, beside those of other programs: volume, smoothness, distance from the mask, time.

    python benchmarks/mesh_peers.py                          # 45 organs of TotalSegmentator's example, 3 mm
    python benchmarks/mesh_peers.py --skull Cranium.inv3     # the CT of Debian's package invesalius-examples

The organs are those above 500 voxels of `medical/totalsegmentator/example_ct/example_seg_fast_force_split.nii.gz` in
the folder that LORGNETTE_DATA names. Each method makes all organs in one process, on one thread, by turns; a time is
that of the processor, the least of the rounds, without reading and writing. Peers are tried where they are installed:
scikit-image, vtk, serra-mesh, niftimesh (pip install --target FOLDER, and PYTHONPATH).

volume: its error against the voxels', in percent. rough: the mean angle between neighbouring triangles. Dice: the
mesh turned into voxels again, against the mask. crossing: pairs of triangles that go through each other.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import plistlib
import statistics
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from parts.data import data

from lorgnette.common.text import table
from lorgnette.systems.mesh.surface import Mesh, Surface, surfaces, voxels
from lorgnette.systems.mesh.surface.crossings import all_crossings
from lorgnette.systems.mesh.volumes import Labels, read_labels
from lorgnette.systems.mesh.volumes.labels import organs_of

ROUNDS = 3
Way = Callable[[Labels], list[Mesh]]


def in_world(labels: Labels, number: int, points: Any, faces: Any, place: Any = 0) -> Mesh:
    """A mesh from index coordinates; `place` is where they begin."""
    vertices = (np.asarray(points, np.float64) + place) @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    mesh = Mesh(labels.organs[number].name, vertices, np.asarray(faces, np.int64))
    return mesh if mesh.volume > 0 else replace(mesh, triangles=mesh.triangles[:, ::-1])


def padded(labels: Labels) -> list[Any]:
    return [np.pad(organ.mask, 3).astype(np.uint8) for organ in labels.organs]


def marching_cubes(labels: Labels) -> list[Mesh]:
    from skimage.measure import marching_cubes

    meshes = []
    for number, mask in enumerate(padded(labels)):
        points, faces, *_ = marching_cubes(mask.astype(np.float32), 0.5)
        meshes.append(in_world(labels, number, points, faces, labels.organs[number].place - 3))
    return meshes


def serra(labels: Labels, **options: Any) -> list[Mesh]:
    import serra_mesh

    meshes = []
    for number, mask in enumerate(padded(labels)):
        mesher = serra_mesh.Mesher(threads=1, **options)
        mesher.mesh(mask)
        found = mesher.get(1)
        meshes.append(in_world(labels, number, found.vertices, found.faces, labels.organs[number].place - 3))
    return meshes


def polygons(found: Any) -> tuple[Any, Any]:
    from vtkmodules.util.numpy_support import vtk_to_numpy

    faces = vtk_to_numpy(found.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    return vtk_to_numpy(found.GetPoints().GetData()), faces


def windowed_sinc(labels: Labels) -> list[Mesh]:
    """As 3D Slicer makes closed surfaces: flying edges, windowed sinc of 20 iterations and pass band 0.01."""
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkFiltersCore import vtkWindowedSincPolyDataFilter
    from vtkmodules.vtkFiltersGeneral import vtkDiscreteFlyingEdges3D

    meshes = []
    for number, mask in enumerate(padded(labels)):
        image = vtkImageData()
        image.SetDimensions(*mask.shape)
        image.GetPointData().SetScalars(numpy_to_vtk(mask.ravel(order="F"), deep=True))
        edges = vtkDiscreteFlyingEdges3D()
        edges.SetInputData(image)
        edges.SetValue(0, 1)
        smooth = vtkWindowedSincPolyDataFilter()
        smooth.SetInputConnection(edges.GetOutputPort())
        smooth.SetNumberOfIterations(20)
        smooth.SetPassBand(0.01)
        smooth.BoundarySmoothingOff()
        smooth.FeatureEdgeSmoothingOff()
        smooth.NonManifoldSmoothingOn()
        smooth.NormalizeCoordinatesOn()
        smooth.Update()
        points, faces = polygons(smooth.GetOutput())
        meshes.append(in_world(labels, number, points, faces, labels.organs[number].place - 3))
    return meshes


def niftimesh(labels: Labels) -> list[Mesh]:
    from niftimesh import reconstruct

    meshes, spacing = [], tuple(float(step) for step in labels.spacing)
    for number, mask in enumerate(padded(labels)):
        found = reconstruct(mask.transpose(2, 1, 0).copy(), spacing=spacing, mode="independent")
        points, faces = polygons(found[1])
        meshes.append(in_world(labels, number, points, faces, labels.organs[number].place - 3))
    return meshes


WAYS: dict[str, tuple[str, Way]] = {
    "lorgnette, each by itself": ("", lambda labels: list(surfaces(labels))),
    "lorgnette, shared walls": ("", lambda labels: list(surfaces(labels, Surface(shared_walls=True)))),
    "marching cubes (scikit-image)": ("skimage", marching_cubes),
    "serra, no smoothing": ("serra_mesh", serra),
    "serra, recommended": ("serra_mesh", lambda labels: serra(labels, fairing=20, fairing_taubin=True)),
    "flying edges, windowed sinc (VTK)": ("vtkmodules", windowed_sinc),
    "niftimesh, independent": ("niftimesh", niftimesh),
}


def scores(labels: Labels, meshes: Sequence[Mesh]) -> dict[str, Any]:
    """The figures of all organs of one method."""
    voxel = abs(np.linalg.det(labels.affine[:3, :3]))
    errors, dice = [], []
    for mesh, organ in zip(meshes, labels.organs, strict=True):
        errors.append(abs(100 * (mesh.volume / (organ.voxels * voxel) - 1)))
        inside = np.zeros(labels.shape, bool)
        inside[tuple(slice(a, a + n) for a, n in zip(organ.place, organ.mask.shape, strict=True))] = organ.mask
        again = voxels(mesh, labels.affine, labels.shape)
        dice.append(2 * np.count_nonzero(again & inside) / (np.count_nonzero(again) + organ.voxels))
    closed = [mesh for mesh in meshes if mesh.watertight]
    return {
        "volume median %": statistics.median(errors),
        "volume worst %": max(errors),
        "watertight": len(closed),
        "manifold": sum(mesh.manifold for mesh in meshes),
        "crossing": sum(all_crossings(mesh.vertices.T, mesh.triangles) for mesh in meshes),
        "rough deg": statistics.mean(mesh.roughness for mesh in closed) if closed else None,
        "Dice mean": statistics.mean(dice),
        "Dice worst": min(dice),
    }


def skull(path: Path) -> tuple[Labels, list[Mesh]]:
    """The first mask of an InVesalius project, which is a threshold, and the mesh that the program made of it."""
    from vtkmodules.vtkFiltersCore import vtkTriangleFilter
    from vtkmodules.vtkIOXML import vtkXMLPolyDataReader

    with tarfile.open(path) as archive:
        files = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}

        def content(name: str) -> bytes:
            stream = archive.extractfile(files[name])
            assert stream is not None
            return stream.read()

        about = plistlib.loads(content("main.plist"))
        low, high = plistlib.loads(content("mask_0.plist"))["threshold_range"]
        image = np.frombuffer(content("matrix.dat"), np.int16).reshape(about["matrix"]["shape"])
        reader, triangles = vtkXMLPolyDataReader(), vtkTriangleFilter()  # the program keeps strips
        reader.ReadFromInputStringOn()
        reader.SetInputString(content("surface_0.vtp").decode())
        triangles.SetInputConnection(reader.GetOutputPort())
        triangles.Update()
    spacing = about["spacing"]
    values = ((image >= low) & (image <= high)).astype(np.uint8).transpose(2, 1, 0)
    labels = Labels(organs_of(values, {1: "skull"}, path), values.shape, np.diag([*spacing, 1.0]))
    points, faces = polygons(triangles.GetOutput())
    return labels, [in_world(labels, 0, points / spacing * (1, -1, 1), faces)]  # its second axis points the other way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skull", type=Path, help="Cranium.inv3 instead of the organs")
    parser.add_argument("--json", type=Path, help="kept row by row; methods that stand in it are not run again")
    parser.add_argument("--only", nargs="+", help="methods whose names begin so")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    if options.json and options.json.is_file():
        rows = json.loads(options.json.read_text())
    if options.skull:
        labels, theirs = skull(options.skull)
        if "InVesalius, as it ships" not in rows:
            rows["InVesalius, as it ships"] = scores(labels, theirs) | {"ms an organ": None}
            _tell(rows, "InVesalius, as it ships", options.json)
    else:
        folder = data("medical", "totalsegmentator", "example_ct")
        labels = read_labels(folder / "example_seg_fast_force_split.nii.gz")
        labels = replace(labels, organs=tuple(organ for organ in labels.organs if organ.voxels > 500))
    ways = {name: way for name, (needs, way) in WAYS.items() if not needs or importlib.util.find_spec(needs)}
    ways = {
        name: way for name, way in ways.items() if name not in rows and name.startswith(tuple(options.only or [""]))
    }
    if len(labels.organs) == 1:
        ways.pop("lorgnette, shared walls", None)
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            meshes = way(labels)
            best[name] = min(best[name], time.process_time() - start)
            if turn == 0:
                rows[name] = scores(labels, meshes)
            rows[name]["ms an organ"] = 1000 * best[name] / len(labels.organs)
            _tell(rows, name, options.json)
    names = list(next(iter(rows.values())))
    cells = [[name, *(_cell(row[column]) for column in names)] for name, row in rows.items()]
    print(table([f"{len(labels.organs)} organs", *names], cells))


def _tell(rows: dict[str, dict[str, Any]], name: str, kept: Path | None) -> None:
    """One row, as it stands so far."""
    print(f"{name}: {', '.join(f'{column} {_cell(value)}' for column, value in rows[name].items())}", flush=True)
    if kept:
        kept.write_text(json.dumps(rows, indent=2))


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) and value < 1 else f"{value:.4g}"


if __name__ == "__main__":
    main()
