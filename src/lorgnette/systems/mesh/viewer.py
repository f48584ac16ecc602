"""A page in which meshes turn: one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lorgnette.common.files import write_text
from lorgnette.systems.mesh.surface import Mesh


def write_viewer(path: Path, title: str, meshes: Sequence[Mesh]) -> None:
    """Write a self-contained page that draws meshes by WebGL; positions are rounded to 1/65535 of an organ's extent."""
    home = resources.files("lorgnette.systems.mesh")
    script = (home / "viewer.js").read_text(encoding="utf-8")
    parts = {
        "TITLE": escape(title),
        "HASH": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "ORGANS": json.dumps([_packed(mesh) for mesh in meshes]).replace("<", "\\u003c"),
        "SCRIPT": script,
    }
    page = (home / "viewer.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"@{name}@", text)
    write_text(path, page)


def _packed(mesh: Mesh) -> dict[str, Any]:
    low = mesh.vertices.min(0)
    size = np.maximum(np.ptp(mesh.vertices, axis=0), 1e-9)
    points = np.rint((mesh.vertices - low) / size * 65535).astype("<u2")
    return {
        "name": mesh.name,
        "volume": f"{mesh.volume / 1000:.1f} ml",
        "color": mesh.color,
        "low": low.tolist(),
        "size": size.tolist(),
        "points": _text(points),
        "faces": _text(mesh.triangles.astype("<u4")),
    }


def _text(values: npt.NDArray[np.generic]) -> str:
    return base64.b64encode(values.tobytes()).decode()
