"""Exported files enhance pictures as the package does, where there is no PyTorch; and strangers' files are one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.export.conftest import Written
from tests.export.test_manifest import MANIFEST

from lorgnette.cli import main
from lorgnette.export import Exported
from lorgnette.export.manifest import KEY
from lorgnette.export.session import open_session
from lorgnette.images.file import Image, read_image, write_image
from lorgnette.systems import superres
from lorgnette.systems.protocol import OnPictures

SOURCE = Path(__file__).parents[2] / "src"
ALONE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Nothing())
from lorgnette.cli import main
sys.exit(main({words}))
"""
ABSENT = {"torch", "cv2", "tifffile", "yaml", "tqdm", "safetensors", "accelerate", "jsonargparse", "scipy", "skimage",
          "onnx", "onnxscript", "numba", "transformers", "av"}  # fmt: skip
"""All that is neither ONNX Runtime, NumPy nor Pillow."""


def picture(height: int, width: int, seed: int = 0) -> Image:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    rng = np.random.default_rng(seed)
    waves = [0.5 + 0.4 * np.sin(y * a + x * b + c) for a, b, c in rng.uniform(0.1, 1, (3, 3))]
    return Image(np.stack(waves, -1).astype(np.float32))


@pytest.fixture
def enlarging(written: Callable[[str, str], Written]) -> Written:
    return written("superres", ".onnx")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"scale": 3.3},
        {"scale": (1.5, 2.5)},
        {"scale": (0.5, 2.0)},
        {"scale": 0.4},
        {"size": (31, 90)},
        {"scale": 2.0, "tile": 16},
        {"scale": 6.0, "tile": 24, "halo": 4},
    ],
)
def test_as_the_package_enlarges(how: dict[str, Any], enlarging: Written):
    exported, image = Exported(enlarging.file), picture(30, 41)
    mine = exported.enhance(image, **how)
    wanted = superres.enhance(enlarging.task, image, **how)
    assert mine.pixels.shape == wanted.pixels.shape
    np.testing.assert_allclose(mine.pixels, wanted.pixels, rtol=0, atol=2e-5)


def test_alpha_and_grey_are_kept(enlarging: Written):
    image = picture(20, 24)
    alpha = np.linspace(0.1, 1, 20 * 24, dtype=np.float32).reshape(20, 24)
    image = replace(image, pixels=np.repeat(image.pixels[..., :1], 3, -1), grey=True, alpha=alpha)
    mine, wanted = Exported(enlarging.file).enhance(image, 2.0), superres.enhance(enlarging.task, image, 2.0)
    assert mine.grey
    np.testing.assert_allclose(mine.alpha, wanted.alpha, rtol=0, atol=1e-6)
    np.testing.assert_allclose(mine.pixels, wanted.pixels, rtol=0, atol=2e-5)


def alone(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line where nothing but ONNX Runtime, NumPy and Pillow is installed."""
    code = ALONE.format(absent=ABSENT, words=list(words))
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)


def test_a_container_without_torch_enhances(enlarging: Written, tmp_path: Path):
    write_image(tmp_path / "in.png", picture(30, 41))
    done = alone("enhance", str(enlarging.file), str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--scale", "3.3")
    assert (done.returncode, done.stderr) == (0, "")
    wanted = Exported(enlarging.file).enhance(read_image(tmp_path / "in.png"), 3.3)
    write_image(tmp_path / "wanted.png", wanted)
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "wanted.png").read_bytes()
    write_image(tmp_path / "in" / "in.png", picture(30, 41))
    many = alone("enhance", str(enlarging.file), str(tmp_path / "in"), str(tmp_path / "all"), "--scale", "3.3")
    assert (many.returncode, many.stderr) == (0, "")
    assert (tmp_path / "all" / "in.png").read_bytes() == (tmp_path / "out.png").read_bytes()
    told = alone("info", str(enlarging.file))
    assert told.returncode == 0
    assert "room          superres" in told.stdout
    lacking = alone("enhance", str(tmp_path / "in.png"), str(tmp_path / "two.png"))
    assert lacking.returncode != 0  # the package's own model does need it: so it was not there


def test_a_folder_and_what_goes_with_clips(enlarging: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in "ab":
        write_image(tmp_path / "in" / f"{name}.png", picture(16, 20, ord(name)))
    model, folder, out = str(enlarging.file), str(tmp_path / "in"), str(tmp_path / "out")
    assert main(["enhance", model, folder, out, "--width", "33"]) == 0
    assert read_image(tmp_path / "out" / "b.png").pixels.shape == (26, 33, 3)
    one, target = str(tmp_path / "in" / "a.png"), str(tmp_path / "p.png")
    for words, said in (
        (["--preview"], "enhances pictures; clips and --preview take an adapter"),
        (["--cmsr", "--tile", "64"], "--cmsr: an exported file renders exactly; leave --cmsr out"),
        (["--precision", "bf16"], "precision: 'bf16' does not work"),
        (["--strength", "0.5"], "strength: the adapter is folded into"),
        (["--device", "cuda"], "--device: an exported file runs on the processor"),
        (["--room", "restore"], "is of the room superres, not restore"),
        (["--size", "2000x9", "--stretch"], "size: 2000x9 is more than 32 times"),
    ):
        capsys.readouterr()
        assert main(["enhance", "--adapter", model, *words, one, target]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


# ----------------------------------------------------------------------------------------------------- strangers' files

HALVED = OnPictures(tile=64, halo=4, blend=2, factor=1)


def stranger(path: Path, how: OnPictures | None = HALVED, op: str = "Mul", kind: int = onnx.TensorProto.FLOAT) -> Path:
    """A network of one operation: the image by a half, or something else."""
    node = onnx.helper.make_node(op, ["image", "half"] if op in ("Mul", "Pow") else ["image"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, kind, None) for name in ("image", "y"))
    half = onnx.numpy_helper.from_array(np.float32(0.5), "half")
    graph = onnx.helper.make_graph([node], "g", [x], [y], [half] if op in ("Mul", "Pow") else [])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.helper.set_model_props(model, {KEY: replace(MANIFEST, room="restore", pictures=how).to_json()})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grey", [False, True])
def test_one_factor_and_channels_by_themselves(channels: int, grey: bool, tmp_path: Path):
    exported = Exported(stranger(tmp_path / "a.onnx", replace(HALVED, channels=channels)))
    image = picture(100, 70)
    image = replace(image, pixels=np.repeat(image.pixels[..., :1], 3, -1), grey=True) if grey else image
    np.testing.assert_allclose(exported.enhance(image).pixels, image.pixels / 2, atol=1e-6)
    np.testing.assert_allclose(exported.enhance(image, tile=16).pixels, image.pixels / 2, atol=1e-6)
    np.testing.assert_allclose(exported.enhance(image, strength=0.5).pixels, image.pixels * 0.75, atol=1e-6)
    assert exported.enhance(image, 0.5).pixels.shape == (50, 35, 3)
    with pytest.raises(ValueError, match=r"^scale: 2 does not work; 0\.01 to 1 does with this file"):
        exported.enhance(image, 2)
    with pytest.raises(ValueError, match=r"^size: 71x100 is more than 1 times the image's 70x100"):
        exported.enhance(image, size=(100, 71))
    with pytest.raises(ValueError, match="give either scale or size"):
        exported.enhance(image, 1, size=(100, 70))
    with pytest.raises(ValueError, match=r"^tile: 8 is too small"):
        exported.enhance(image, tile=8)
    image.pixels[3, 4, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        exported.enhance(image)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"how": None}, "is of the room restore, which does not enhance images"),
        ({"how": replace(HALVED, factor=None)}, "takes image where image, y, x, cell belong to its manifest"),
        ({"how": replace(HALVED, factor=2)}, "cannot give"),
        ({"op": "Transpose"}, "cut needs a whole-number scale|gives float32"),
        ({"op": "GlobalAveragePool"}, "cut needs a whole-number scale|gives float32"),
        ({"kind": onnx.TensorProto.DOUBLE, "op": "Identity"}, "cannot be run on this picture"),
    ],
)
def test_files_that_are_not_what_they_say(more: dict[str, Any], said: str, tmp_path: Path):
    file = stranger(tmp_path / "a.onnx", **more)
    with pytest.raises(ValueError, match=said) as refusal:
        Exported(file).enhance(picture(20, 33))
    assert "\n" not in str(refusal.value)


def test_files_that_are_none(tmp_path: Path):
    good = stranger(tmp_path / "a.onnx")
    (tmp_path / "cut.onnx").write_bytes(good.read_bytes()[:40])
    (tmp_path / "text.onnx").write_text("<html>404</html>")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("cut", "text", "empty"):
        with pytest.raises(ValueError, match=name) as refusal:
            Exported(tmp_path / f"{name}.onnx")
        assert "\n" not in str(refusal.value)
        with pytest.raises(ValueError, match=rf"{name}\.onnx is no ONNX file that can be run"):
            open_session(tmp_path / f"{name}.onnx")
    with pytest.raises(FileNotFoundError, match="no such file"):
        Exported(tmp_path / "none.onnx")


def test_no_file_beside_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ONNX lets a file name others for its weights: any of the disk."""
    model = onnx.load(str(stranger(tmp_path / "a.onnx")))
    (tmp_path / "weights").write_bytes(np.float32(0.25).tobytes())
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "weights"), ("offset", "0"), ("length", "4")):
        weight.external_data.add(key=key, value=value)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"a\.onnx is no ONNX file that can be run"):
        Exported("a.onnx")
