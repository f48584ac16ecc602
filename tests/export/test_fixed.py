"""Files for squares of one size make the pictures that files of any size make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.export.test_manifest import MANIFEST
from tests.export.test_pictures import picture

from lorgnette.cli import main
from lorgnette.export import Exported, export, read_manifest
from lorgnette.export.fixed import of_size
from lorgnette.export.manifest import Manifest
from lorgnette.export.parity import differences
from lorgnette.export.tiles import in_tiles, largest_tile, names
from lorgnette.systems import room
from lorgnette.systems.protocol import OnPictures

FREELY = OnPictures(tile=40, halo=6, blend=3, most_scale=32.0, trained_scale=4.0)


def nearest(how: OnPictures, given: dict[str, Any]) -> np.ndarray:
    """Colours of the nearest pixels: all that a tile sees wrongly shows."""
    image = given["image"]
    assert image.shape[0] == 1
    assert image.shape[2:] == (how.side, how.side)
    if how.factor:
        return image.repeat(how.factor, 2).repeat(how.factor, 3)
    assert len(given["y"]) == len(given["x"]) == how.out_side
    y, x = (
        np.floor((given[name].astype(float) + 1) / 2 * how.side + 1e-3).clip(0, how.side - 1).astype(int)
        for name in "yx"
    )
    return image[:, :, y[:, None], x]


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    scale=st.tuples(st.floats(1, 5), st.floats(1, 5)),
    side=st.integers(48, 70),
    wide=st.floats(1, 4),
    factor=st.sampled_from([None, None, 1, 2]),
)
def test_tiles_of_one_size_fit_together(
    size: tuple[int, int], scale: tuple[float, float], side: int, wide: float, factor: int | None
):
    tile = largest_tile(side, 6, 3)
    how = replace(FREELY, side=side, out_side=None if factor else round(side * wide), factor=factor, tile=tile)
    planes = np.random.default_rng(0).random((2, 3, *size), np.float32)
    out = tuple(n * factor if factor else round(n * s) for n, s in zip(size, scale, strict=True))
    got = in_tiles(lambda given: nearest(how, given), how, "it", planes, (out[0], out[1]), tile, 6)
    y, x = (
        np.floor((np.arange(m) + 0.5) * n / m + 5e-4).astype(int).clip(0, n - 1) for n, m in zip(size, out, strict=True)
    )
    np.testing.assert_allclose(got, planes[:, :, y[:, None], x], atol=1e-5)


@pytest.mark.parametrize(("name", "scale", "shape"), [("superres", 2.0, (70, 41)), ("restore", 1.0, (64, 64))])
def test_as_the_package_makes_them(name: str, scale: float, shape: tuple[int, int], trained: Any):
    task, _, test = trained(name)
    free = room(name).program(task.eval())
    program = of_size(free, 64, 2.0 if name == "superres" else None)
    assert program.pictures is not None
    assert {tuple(x.shape for x in program.example(number)) for number in range(6)} == {
        tuple(x.shape for x in program.example(0))
    }
    assert max(differences(program, program.module).values()) == 0
    how, image = program.pictures, picture(*shape)
    planes = image.pixels.transpose(2, 0, 1)[None][:, : how.channels]

    def run(given: dict[str, Any]) -> np.ndarray:
        with torch.no_grad():
            return program.module(*(torch.from_numpy(given[name]) for name in names(how))).numpy()

    out = round(shape[0] * scale), round(shape[1] * scale)
    got = in_tiles(run, how, "it", planes, out, how.tile, how.halo)
    home: Any = room(name)
    wanted = home.enhance(task, replace(image, grey=how.channels == 1), scale=scale).pixels
    if how.channels == 3:
        assert np.abs(got[0].transpose(1, 2, 0) - wanted).mean() < (2e-3 if name == "superres" else 1e-5)  # one square
    with torch.no_grad():  # scored as a program of any size is
        predicted = program.answering(program.module).predict(test[0])
        assert (predicted - task.predict(test[0])).abs().mean() < 2e-2  # they are smaller, and mirrored


def test_what_does_not_do(trained: Any, tmp_path: Path):
    task, recipe, _ = trained("superres")
    program, file = room("superres").program(task), tmp_path / "a.onnx"
    for side, scale, said in (
        (16, None, r"^size: 16 does not work; 32 to 1024 pixels do"),
        (64, 0.5, r"^scale: 0\.5 does not work; 1 to 32 does"),
        (64, 33.0, r"^scale: 33 does not work; 1 to 32 does"),
    ):
        with pytest.raises(ValueError, match=said):
            of_size(program, side, scale)
    with pytest.raises(ValueError, match=r"^scale: goes with size"):
        export(task, recipe, file, scale=2.0)
    with pytest.raises(ValueError, match=r"^size: this room takes no pictures that are cut into tiles; leave it out"):
        export(*trained("clip")[:2], file, size=64)
    with pytest.raises(ValueError, match=r"^scale: this network makes pictures 1 times as large; leave it out"):
        of_size(room("restore").program(trained("restore")[0]), 64, 2.0)
    with pytest.raises(ValueError, match=r"^int8: .*: program files are in float32; \.onnx and \.pte ones can be int8"):
        export(task, recipe, tmp_path / "a.pt2", int8="weights")
    assert list(tmp_path.iterdir()) == []
    how = replace(FREELY, side=64, out_side=128)
    planes = np.zeros((1, 3, 100, 100), np.float32)
    with pytest.raises(ValueError, match=r"^tile: 60 and a halo of 6 do not fit into the 64 .*; tile: 42 does"):
        in_tiles(lambda given: nearest(how, given), how, "it", planes, (200, 200), 60, 6)
    with pytest.raises(ValueError, match=r"^tile: 60 and a halo of 30 do not fit into the 64 .*; halo: 14 does"):
        in_tiles(lambda given: nearest(how, given), how, "it", planes, (200, 200), 60, 30)
    with pytest.raises(ValueError, match=r"^scale: it has 128 rows and columns to fill, too few"):
        in_tiles(lambda given: nearest(how, given), how, "it", planes, (3000, 3000), 40, 6)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"side": 8, "out_side": 8}, "pictures.side is 8; 32 to 1024 works"),
        ({"side": 64}, "pictures.out_side belongs to a side"),
        ({"side": 64, "out_side": 64, "factor": 1}, "pictures.out_side belongs to a side"),
        ({"side": 64, "out_side": 10**9}, "pictures.out_side is 1000000000; 1 to 32768 works"),
    ],
)
def test_manifests_that_lie_about_squares(changed: dict[str, Any], said: str):
    assert MANIFEST.pictures is not None
    manifest = replace(MANIFEST, pictures=replace(MANIFEST.pictures, **changed))
    with pytest.raises(ValueError, match=said):
        Manifest.from_json(manifest.to_json(), "a.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".ts"])
@pytest.mark.parametrize("name", ["superres", "restore"])
def test_exported_for_one_size(name: str, suffix: str, trained: Any, tmp_path: Path):
    task, recipe, _ = trained(name)
    file = tmp_path / f"a{suffix}"
    report = export(task, recipe, file, size=32)
    assert report.difference <= 1e-5
    manifest = read_manifest(file)
    assert manifest is not None
    assert manifest.pictures is not None
    assert manifest.pictures.side == 32
    if suffix == ".onnx":
        home: Any = room(name)
        got, wanted = Exported(file).enhance(picture(40, 30)), home.enhance(task, picture(40, 30))
        assert np.abs(got.pixels - wanted.pixels).mean() < 5e-3


def test_files_for_phones_are_named_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "a.pte"
    file.write_bytes(b"no program")
    assert main(["enhance", str(file), "in.png", "out.png"]) == 2
    assert "in.png" in capsys.readouterr().err
