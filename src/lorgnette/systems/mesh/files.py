"""Mesh files: STL, PLY, OBJ, GLB and VTP, in millimetres, whole or not at all."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lorgnette.common.files import atomic_write
from lorgnette.common.text import nearest
from lorgnette.systems.mesh.surface import Mesh


def write_meshes(path: Path, meshes: Sequence[Mesh]) -> None:
    """Write one mesh, or several as a scene, in the format that the suffix names.

    Coordinates are millimetres in the patient's axes (RAS+) in every format; positions are rounded to 32 bits. Names
    and colours are kept but in STL, which has room for neither.

    Raises:
        ValueError: the suffix is of no format that is written, or the file cannot be.
    """
    write = WRITERS[check_suffix(path)]
    with atomic_write(path) as temporary:
        temporary.write_bytes(write(meshes))


def check_suffix(path: Path) -> str:
    """The suffix of a mesh file; a one-line ValueError where it is none."""
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"{path}: {suffix or 'no suffix'} is no format of meshes{nearest(suffix, WRITERS)}; "
                         f"{', '.join(WRITERS)} are written")  # fmt: skip
    return suffix


def _stl(meshes: Sequence[Mesh]) -> bytes:
    """Binary STL: all triangles in one file."""
    parts = []
    for mesh in meshes:
        length = np.linalg.norm(mesh.normals, axis=1, keepdims=True)
        triangles = np.zeros(len(mesh.triangles), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("unused", "<u2")])
        triangles["normal"] = mesh.normals / np.maximum(length, 1e-30)
        triangles["corners"] = mesh.vertices[mesh.triangles]
        parts.append(triangles)
    body = np.concatenate(parts)
    return b"millimetres, RAS".ljust(80) + struct.pack("<I", len(body)) + body.tobytes()


def _ply(meshes: Sequence[Mesh]) -> bytes:
    """Binary PLY: colours at the vertices; of several meshes, each triangle's mesh by number, and names as comments."""
    several = len(meshes) > 1
    vertices = np.zeros(sum(len(m.vertices) for m in meshes), [("at", "<f4", 3), ("color", "u1", 3)])
    vertices["at"] = np.concatenate([m.vertices for m in meshes])
    vertices["color"] = np.concatenate([np.tile(np.array(m.color, np.uint8), (len(m.vertices), 1)) for m in meshes])
    kind = [("count", "u1"), ("corners", "<i4", 3), *([("organ", "<i4")] if several else [])]
    triangles = np.zeros(sum(len(m.triangles) for m in meshes), kind)
    triangles["count"], triangles["corners"] = 3, _joined(meshes)
    if several:
        triangles["organ"] = _owner(meshes)
    names = "".join(f"comment organ {number}: {' '.join(m.name.split())}\n" for number, m in enumerate(meshes))
    head = (
        f"ply\nformat binary_little_endian 1.0\ncomment millimetres, RAS\n{names}element vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        f"element face {len(triangles)}\nproperty list uchar int vertex_indices\n"
    ) + ("property int organ\n" if several else "")
    return f"{head}end_header\n".encode("utf-8", "replace") + vertices.tobytes() + triangles.tobytes()


def _obj(meshes: Sequence[Mesh]) -> bytes:
    """OBJ: an object for each mesh, colours after the coordinates of vertices."""
    lines, first = ["# millimetres, RAS"], 1
    for mesh in meshes:
        lines.append(f"o {'_'.join(mesh.name.split())}")
        color = " ".join(f"{part / 255:.3f}" for part in mesh.color)
        lines += [f"v {x:.4f} {y:.4f} {z:.4f} {color}" for x, y, z in mesh.vertices.tolist()]
        lines += [f"f {a} {b} {c}" for a, b, c in (mesh.triangles + first).tolist()]
        first += len(mesh.vertices)
    return ("\n".join(lines) + "\n").encode()


def _glb(meshes: Sequence[Mesh]) -> bytes:
    """Binary glTF 2.0: a node with a name and a colour for each mesh."""
    views, accessors, blobs, at = [], [], [], 0
    nodes, shapes, materials = [], [], []

    def add(values: npt.NDArray[np.generic], target: int, component: int, kind: str, count: int) -> int:
        nonlocal at
        data = values.tobytes()
        views.append({"buffer": 0, "byteOffset": at, "byteLength": len(data), "target": target})
        accessors.append({"bufferView": len(views) - 1, "componentType": component, "count": count, "type": kind})
        blobs.append(data + b"\0" * (-len(data) % 4))
        at += len(blobs[-1])
        return len(accessors) - 1

    for number, mesh in enumerate(meshes):
        points = mesh.vertices.astype("<f4")
        position = add(points, 34962, 5126, "VEC3", len(points))
        accessors[position] |= {"min": points.min(0).tolist(), "max": points.max(0).tolist()}
        normal = add(vertex_normals(mesh).astype("<f4"), 34962, 5126, "VEC3", len(points))
        index = add(mesh.triangles.astype("<u4").ravel(), 34963, 5125, "SCALAR", mesh.triangles.size)
        color = [*(round((part / 255) ** 2.2, 4) for part in mesh.color), 1.0]  # glTF has colours in linear light
        look = {"baseColorFactor": color, "metallicFactor": 0.0, "roughnessFactor": 0.6}
        materials.append({"name": mesh.name, "pbrMetallicRoughness": look})
        primitive = {"attributes": {"POSITION": position, "NORMAL": normal}, "indices": index, "material": number}
        shapes.append({"name": mesh.name, "primitives": [primitive]})
        nodes.append({"name": mesh.name, "mesh": number})
    about = {
        "asset": {"version": "2.0", "generator": "Lorgnette", "extras": {"unit": "millimetre", "axes": "RAS"}},
        "scene": 0,
        "scenes": [{"nodes": list(range(len(nodes)))}],
        **{"nodes": nodes, "meshes": shapes, "materials": materials, "accessors": accessors, "bufferViews": views},
        "buffers": [{"byteLength": at}],
    }
    text = json.dumps(about, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", at, b"BIN\0") + b"".join(blobs)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _vtp(meshes: Sequence[Mesh]) -> bytes:
    """VTK's polygons as XML: the number and the colour of its mesh at each triangle, the names as field data."""
    colors = np.concatenate([np.tile(np.array(m.color, np.uint8), (len(m.triangles), 1)) for m in meshes])
    triangles, points = _joined(meshes), np.concatenate([m.vertices for m in meshes]).astype("<f4")

    def array(name: str, kind: str, values: npt.NDArray[np.generic], width: int = 1) -> str:
        data = values.tobytes()
        packed = base64.b64encode(struct.pack("<Q", len(data)) + data).decode()
        return (
            f'<DataArray type="{kind}" Name="{name}" NumberOfComponents="{width}" format="binary">{packed}</DataArray>'
        )

    names = " ".join(str(code) for m in meshes for code in [*m.name.encode(), 0])
    ends = np.arange(3, 3 * len(triangles) + 1, 3, dtype="<i8")
    return (
        '<?xml version="1.0"?>\n'
        '<VTKFile type="PolyData" version="1.0" byte_order="LittleEndian" header_type="UInt64">\n<PolyData>\n'
        f'<FieldData><Array type="String" Name="organs" NumberOfTuples="{len(meshes)}" format="ascii">{names}</Array>'
        f'</FieldData>\n<Piece NumberOfPoints="{len(points)}" NumberOfPolys="{len(triangles)}">\n'
        f"<Points>{array('Points', 'Float32', points, 3)}</Points>\n"
        f"<CellData>{array('organ', 'Int32', _owner(meshes).astype('<i4'))}"
        f"{array('color', 'UInt8', colors, 3)}</CellData>\n"
        f"<Polys>{array('connectivity', 'Int64', triangles.astype('<i8'))}{array('offsets', 'Int64', ends)}</Polys>\n"
        "</Piece>\n</PolyData>\n</VTKFile>\n"
    ).encode()


WRITERS: dict[str, Callable[[Sequence[Mesh]], bytes]] = {
    ".stl": _stl,
    ".ply": _ply,
    ".obj": _obj,
    ".glb": _glb,
    ".vtp": _vtp,
}


def vertex_normals(mesh: Mesh) -> npt.NDArray[np.float64]:
    """(V, 3): unit normals, each the mean of the triangles around by their area."""
    sums = [np.bincount(mesh.triangles.ravel(), np.repeat(part, 3), len(mesh.vertices)) for part in mesh.normals.T]
    normals = np.stack(sums, axis=1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)


def _joined(meshes: Sequence[Mesh]) -> npt.NDArray[np.int64]:
    first = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    return np.concatenate([m.triangles + start for m, start in zip(meshes, first[:-1], strict=True)])


def _owner(meshes: Sequence[Mesh]) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(len(meshes)), [len(m.triangles) for m in meshes])
