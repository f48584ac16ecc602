"""What a file says of itself is read without its program, and whatever a stranger writes is one line."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.export.manifest import ARCHIVED, KEY, MAX_BYTES, Manifest, read_manifest
from lorgnette.systems.protocol import OnPictures

MANIFEST = Manifest(
    room="superres",
    recipe={"model": {"encoder": "edsr"}},
    weights="0" * 32,
    inputs={"image": {"2": "height"}},
    output="enlarged",
    version="1.0",
    pictures=OnPictures(tile=320, halo=37, blend=8, most_scale=32.0),
)


def onnx_file(path: Path, text: str, key: str = KEY) -> Path:
    """The least file there can be, with metadata before and behind the graph's other entries."""
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]))
    onnx.helper.set_model_props(model, {"author": "somebody", key: text})
    path.write_bytes(model.SerializeToString())
    return path


def zipped(path: Path, text: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("name/extra/other.json", "{}")
        archive.writestr(f"name/extra/{ARCHIVED}", text)
    return path


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2", "a.pt"])
def test_it_comes_back(name: str, tmp_path: Path):
    write = onnx_file if name.endswith("onnx") else zipped
    for manifest in (MANIFEST, replace(MANIFEST, pictures=None, facts={"classes": ["a", "ä"]})):
        assert read_manifest(write(tmp_path / name, manifest.to_json())) == manifest


def test_other_files_have_none(tmp_path: Path):
    assert read_manifest(onnx_file(tmp_path / "a.onnx", "{}", key="other")) is None
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("a/data.pkl", "")
    assert read_manifest(tmp_path / "a.pt2") is None


def test_no_file_and_no_kind(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_manifest(tmp_path / "none.onnx")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.txt is no intact exported file \(\.onnx, "):
        read_manifest(tmp_path / "a.txt")


def changed(**entries: Any) -> str:
    return json.dumps(json.loads(MANIFEST.to_json()) | entries)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "'format_version' is missing"),
        ("[" * 100_000, "damaged"),
        (changed(format_version=99), "format_version is 99; this program reads 1"),
        (changed(pictures={"tile": 10**9, "halo": 1, "blend": 1}), r"pictures\.tile is 1000000000; 16 to 4096 works"),
        (changed(pictures={"tile": 64.0, "halo": 1, "blend": 1}), r"pictures\.tile is 64\.0"),
        (changed(pictures={"tile": True, "halo": 1, "blend": 1}), r"pictures\.tile is True"),
        (changed(pictures={"tile": 64, "halo": -1, "blend": 1}), r"pictures\.halo is -1"),
        (changed(pictures={"tile": 64, "halo": 1, "blend": 1, "factor": 0}), r"pictures\.factor is 0"),
        (changed(pictures={"tile": 64, "halo": 1, "blend": 1, "channels": 2}), r"pictures\.channels is 2"),
        (changed(pictures={"tile": 64, "halo": 1, "blend": 1, "most_scale": 1e9}), r"most_scale is 1000000000\.0"),
        (changed(pictures={"tile": 64, "halo": 1, "blend": 1, "most_scale": "NaN"}), r"most_scale is 'NaN'"),
        (changed(pictures={"tile": 64, "nonsense": 1}), "unexpected keyword"),
    ],
)
def test_manifests_that_do_not_do(text: str, said: str, tmp_path: Path):
    for file in (onnx_file(tmp_path / "a.onnx", text), zipped(tmp_path / "a.pt2", text)):
        with pytest.raises(ValueError, match=said) as refusal:
            read_manifest(file)
        assert str(refusal.value).startswith(str(file))
        assert "\n" not in str(refusal.value)


def test_a_manifest_without_an_end_is_not_read(tmp_path: Path):
    file = zipped(tmp_path / "a.pt2", " " * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match=f"has {MAX_BYTES + 1} bytes; {MAX_BYTES} are the most"):
        read_manifest(file)
    file = onnx_file(tmp_path / "a.onnx", " " * MAX_BYTES)
    with pytest.raises(ValueError, match=f"{MAX_BYTES} are the most"):
        read_manifest(file)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_are_one_line_or_read(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("damaged")
    whole = onnx_file(folder / "whole.onnx", MANIFEST.to_json()).read_bytes()
    where = data.draw(st.integers(0, len(whole) - 1))
    piece = data.draw(st.one_of(st.just(b""), st.binary(max_size=12)))
    damaged = whole[:where] + piece + (b"" if data.draw(st.booleans()) else whole[where + len(piece) :])
    (folder / "a.onnx").write_bytes(damaged)
    with contextlib.suppress(ValueError), told(folder / "a.onnx"):
        found = read_manifest(folder / "a.onnx")
        assert found is None or found.room


@contextlib.contextmanager
def told(file: Path) -> Iterator[None]:
    """Whatever is refused is so in one line that names the file."""
    try:
        yield
    except ValueError as error:
        if "\n" in str(error) or str(file) not in str(error):
            raise AssertionError(f"no line about {file}: {error}") from error
        raise
