"""Pictures, and the page where meshes turn."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.systems.mesh.shapes import ball, labels_of

from lorgnette.systems.mesh.picture import BACKGROUND, draw
from lorgnette.systems.mesh.surface import Mesh, surfaces
from lorgnette.systems.mesh.viewer import write_viewer


@pytest.fixture(scope="module")
def meshes() -> list[Mesh]:
    values = ball(6, (8, 8, 8), 24).astype(int)
    values[ball(3, (18, 14, 16), 24)] = 2
    return list(surfaces(labels_of(values, names={1: "a </script> b", 2: "small"})))


def test_a_picture_shows_the_patient_from_the_front(meshes: list[Mesh]):
    """What lies to the right of the patient is on the left, what is above is above, and what is in front covers."""
    picture = draw(meshes, 100, turn=0, tilt=0).astype(int)
    shown = [np.argwhere((np.abs(picture - np.array(mesh.color) * 0.9) < 40).all(-1)).mean(0) for mesh in meshes]
    assert shown[1][1] < shown[0][1]  # +R
    assert shown[1][0] < shown[0][0]  # +S
    assert (picture == BACKGROUND).all(-1).mean() > 0.3
    front, back = (
        Mesh(name, meshes[0].vertices + np.array([0, y, 0]), meshes[0].triangles, color)
        for name, y, color in (("front", 30, (255, 0, 0)), ("back", 0, (0, 0, 255)))
    )
    for order in ([front, back], [back, front]):
        seen = draw(order, 60, turn=0, tilt=0)
        assert (seen[..., 0] > 60).any()
        assert not ((seen[..., 2] > 100) & (seen[..., 0] < 50)).any()


def test_a_ball_is_as_round_as_it_is(meshes: list[Mesh]):
    picture = draw(meshes[:1], 200)
    covered = (picture != BACKGROUND).any(-1).sum()
    assert covered == pytest.approx(np.pi * (0.92 * 200 / 2) ** 2, rel=0.06)


def test_the_page_holds_the_meshes_and_loads_nothing(meshes: list[Mesh], tmp_path: Path):
    write_viewer(tmp_path / "view.html", "Organs of <x>", meshes)
    page = (tmp_path / "view.html").read_text(encoding="utf-8")
    assert "<h1>Organs of &lt;x&gt;</h1>" in page
    for word in ("src=", "href=", "http:", "https:", "import(", "fetch("):
        assert word not in page
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    organs = json.loads(page.partition('id="organs">')[2].partition("</script>")[0])
    assert [organ["name"] for organ in organs] == [mesh.name for mesh in meshes]


def test_the_script_unpacks_what_was_packed(meshes: list[Mesh], tmp_path: Path):
    """The page's own functions, run by Node.js: points to a thousandth of a voxel, faces, normals outwards, turns."""
    if shutil.which("node") is None:
        pytest.skip("needs Node.js")
    write_viewer(tmp_path / "view.html", "t", meshes)
    page = (tmp_path / "view.html").read_text(encoding="utf-8")
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    (tmp_path / "organs.json").write_text(page.partition('id="organs">')[2].partition("</script>")[0])
    (tmp_path / "try.js").write_text(
        script
        + """
const organs = JSON.parse(require('fs').readFileSync(process.argv[2]));
console.log(JSON.stringify(organs.map(function (o) {
  const m = unpack(o);
  return { points: Array.from(m.points), faces: Array.from(m.faces), normals: Array.from(normals(m.points, m.faces)) };
}).concat([turned(FRONT, 0.4, 0.3)])));
"""
    )
    done = subprocess.run(
        ["node", tmp_path / "try.js", tmp_path / "organs.json"], capture_output=True, text=True, check=True, timeout=60
    )
    *found, turn = json.loads(done.stdout)
    for mesh, organ in zip(meshes, found, strict=True):
        points = np.reshape(organ["points"], (-1, 3))
        np.testing.assert_allclose(points, mesh.vertices, atol=1e-3)
        np.testing.assert_array_equal(np.reshape(organ["faces"], (-1, 3)), mesh.triangles)
        assert ((points - points.mean(0)) * np.reshape(organ["normals"], (-1, 3))).sum(1).min() > 0
    matrix = np.reshape(turn, (3, 3))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
