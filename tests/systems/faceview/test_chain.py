"""From pictures to embeddings, by small ONNX models whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.video.clips import make_clip

from lorgnette.cli import main
from lorgnette.images.file import Image, write_image
from lorgnette.systems.faceview import Data
from lorgnette.systems.faceview.chain import TEMPLATE, FaceModels, pose_of, similarity, strongest
from lorgnette.systems.faceview.faces import read_people
from lorgnette.systems.faceview.points import heads, rotations

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SIDE, STRIDES = 64, (8, 16, 32)
FIVE = np.array([[24, 24], [40, 24], [32, 32], [26, 42], [38, 42]], np.float32)


def save(path: Path, shape: list[int], nodes: list[Any], outputs: list[str], constants: dict[str, np.ndarray]) -> Path:
    h = onnx.helper
    graph = h.make_graph(
        nodes,
        "small",
        [h.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape)],
        [h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def detector(path: Path, twice: bool = False) -> Path:
    """Sure of one face, at (16, 16) to (48, 48) of 64 x 64, the surer the lighter the picture; or of it twice."""
    constants, nodes, names = {}, [], []
    node = onnx.helper.make_node
    nodes.append(node("ReduceMean", ["input"], ["mean"], keepdims=0))
    nodes.append(node("Add", ["mean", "one"], ["light"]))
    constants["one"] = np.array(1.0)
    for part, width in (("score", 1), ("box", 4), ("five", 10)):
        for stride in STRIDES:
            array = np.zeros((2 * (SIDE // stride) ** 2, width))
            if stride == 8:
                for row in [2 * (4 * 8 + 4), 2 * (4 * 8 + 3)][: 1 + twice]:
                    centre = np.array([(row // 2) % 8, (row // 2) // 8]) * 8
                    edges = np.array([*(centre - 16), *(48 - centre)])
                    array[row] = {"score": 0.9, "box": edges / 8, "five": ((FIVE - centre) / 8).ravel()}[part]
            name = f"{part}{stride}"
            constants[name] = array
            names.append(f"{name}_out")
            nodes.append(
                node("Mul", [name, "light"], [names[-1]]) if part == "score" else node("Identity", [name], [names[-1]])
            )
    return save(path, [1, 3, SIDE, SIDE], nodes, names, constants)


def landmarks(path: Path, pose: np.ndarray) -> Path:
    """The mean head in a pose, whatever the picture."""
    points = heads().neutral[:68] @ rotations(np.float32(pose)[None])[0].T * [1, -1, 1] / 20
    whole = np.concatenate([np.zeros((1035, 3)), points])
    node = onnx.helper.make_node("Identity", ["answer"], ["out"])
    return save(path, [1, 3, 192, 192], [node], ["out"], {"answer": whole.reshape(1, -1)})


def recognizer(path: Path) -> Path:
    nodes = [
        onnx.helper.make_node("AveragePool", ["input"], ["small"], kernel_shape=[14, 14], strides=[14, 14]),
        onnx.helper.make_node("Flatten", ["small"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "weights"], ["out"]),
    ]
    weights = np.random.default_rng(0).normal(size=(192, 512))
    return save(path, [1, 3, 112, 112], nodes, ["out"], {"weights": weights})


POSE = np.deg2rad([5.0, 40.0, -3.0])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    made = {
        "detector": detector(folder / "det.onnx"),
        "landmarks": landmarks(folder / "lm.onnx", POSE),
        "recognizer": recognizer(folder / "rec.onnx"),
    }
    return {name: str(file) for name, file in made.items()}


def picture(seed: int = 0, side: int = 128) -> np.ndarray:
    return np.random.default_rng(seed).integers(150, 256, (side, side, 3), dtype=np.uint8)


def test_a_face_is_found_where_it_is(files: dict[str, str]):
    models = FaceModels(**files)
    (face,) = models.faces(picture())
    assert face.score > 0.9
    assert face.side == pytest.approx(64)  # of a picture twice as large as the detector's
    assert np.allclose(face.pose, POSE, atol=1e-3)
    five = heads().neutral @ rotations(np.float32(POSE)[None])[0].T
    five = np.stack([five[36:42].mean(0), five[42:48].mean(0), five[30], five[48], five[54]])
    five -= five.mean(0)
    assert np.allclose(face.keypoints, five / np.sqrt(np.square(five).sum(1).mean()), atol=1e-3)
    assert face.embedding.shape == (512,)
    assert models.faces(np.zeros((128, 128, 3), np.uint8)) == []
    assert np.allclose(models.faces(picture())[0].embedding, face.embedding)
    assert not np.allclose(models.faces(picture(1))[0].embedding, face.embedding)


def test_wide_pictures_and_twice_the_same_face(files: dict[str, str], tmp_path: Path):
    twice = files | {"detector": str(detector(tmp_path / "twice.onnx", twice=True))}
    wide = np.concatenate([picture(), np.full((128, 72, 3), 200, np.uint8)], 1)
    (face,) = FaceModels(**twice).faces(wide)
    assert face.side == pytest.approx(100)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_similarities_come_back(seed: int):
    rng = np.random.default_rng(seed)
    angle, scale = rng.uniform(-3, 3), rng.uniform(0.2, 5)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = TEMPLATE @ turn.T + rng.normal(size=2) * 50
    found = similarity(moved, TEMPLATE)
    assert np.allclose(moved @ found[:, :2].T + found[:, 2], TEMPLATE, atol=1e-6)
    assert np.linalg.det(found[:, :2]) > 0


@given(st.tuples(st.floats(-1, 1), st.floats(-1.4, 1.4), st.floats(-1, 1)))
@settings(max_examples=25, deadline=None)
def test_poses_come_back(pose: tuple[float, float, float]):
    seen = heads().neutral[:68] @ rotations(np.float32(pose)[None])[0].T * [1, -1, 1] * 7 + [300, 200, 10]
    assert np.allclose(pose_of(seen), pose, atol=1e-4)


def test_overlapping_boxes():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 3, 3]], float)
    assert strongest(boxes, np.array([0.8, 0.9, 0.7, 0.6])) == [1, 2, 3]
    assert strongest(boxes[:0], np.array([])) == []


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, number in (("anna", 3), ("bert", 2)):
        for i in range(number):
            write_image(tmp_path / "in" / name / f"{i}.png", Image(picture(number + i)))
    write_image(tmp_path / "in" / "anna" / "dark.png", Image(np.zeros((128, 128, 3), np.uint8)))
    (tmp_path / "in" / "anna" / "notes.txt").write_text("hello")
    (tmp_path / "in" / "bert" / "broken.png").write_bytes(b"no picture")
    make_clip(tmp_path / "in" / "bert" / "clip.mp4", [picture(i, 96) for i in range(12)])
    return tmp_path / "in"


def options(files: dict[str, str]) -> list[str]:
    return [word for name, file in files.items() for word in (f"--{name}", file)]


def test_from_the_command_line(files: dict[str, str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    words = ["embed", str(photos), str(out), *options(files), "--every", "5"]
    assert main([*words, "--json", str(tmp_path / "e.json")]) == 0
    said = capsys.readouterr()
    assert said.out.count("sha256") == 3
    assert "licences" in said.out
    assert "left out, no face: anna/dark.png" in said.err
    assert "neither a picture nor a clip: anna/notes.txt" in said.err
    counts = json.loads((tmp_path / "e.json").read_text())
    assert counts["people"] == {"anna": {"front": 0, "video": 3}, "bert": {"front": 0, "video": 2 + 3}}
    assert set(counts["left_out"]) == {"anna/dark.png", "anna/notes.txt", "bert/broken.png"}
    assert sorted(file.name for file in out.iterdir()) == ["video_anna.npz", "video_bert.npz"]
    assert main(words) == 2
    assert "there already" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--front", "45"]) == 0  # all of them are frontal now
    assert sorted(file.name for file in out.iterdir()) == ["front_anna.npz", "front_bert.npz"]


def test_what_is_written_is_what_is_read(files: dict[str, str], photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    frontal = files | {"landmarks": str(landmarks(tmp_path / "front.onnx", np.zeros(3)))}
    assert main(["embed", str(photos), str(out), *options(files)]) == 0
    assert main(["embed", str(photos), str(tmp_path / "ahead"), *options(frontal)]) == 0
    for file in (tmp_path / "ahead").iterdir():
        file.rename(out / file.name)
    people, left_out = read_people(out, Data())
    assert list(people) == ["anna", "bert"]
    assert left_out == {}
    assert np.allclose(people["anna"].video.pose, POSE, atol=1e-3)
    assert torch.from_numpy(people["anna"].front.pose).abs().max() < 1e-3


def test_small_and_blurred_faces_are_left_out(files: dict[str, str], photos: Path, tmp_path: Path, capsys):
    words = ["embed", str(photos), str(tmp_path / "out"), *options(files)]
    assert main([*words, "--least-side", "65"]) == 2
    said = capsys.readouterr().err
    assert "a face smaller than 65 pixels" in said
    assert "no face was good enough" in said
    assert main([*words, "--least-sharpness", "1e9"]) == 2
    assert "left out, a blurred face" in capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_wrong_is_named(
    files: dict[str, str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    start = ["embed", str(photos), str(tmp_path / "out")]
    assert "--detector: no such file" in refused(capsys, *start, *options(files | {"detector": "none.onnx"}))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert "is no ONNX model" in refused(capsys, *start, *options(files | {"recognizer": str(tmp_path / "bad.onnx")}))
    swapped = refused(capsys, *start, *options(files | {"detector": files["recognizer"]}))
    assert "has 1 outputs; SCRFD with keypoints has 9" in swapped
    assert "no such folder" in refused(capsys, "embed", str(tmp_path / "none"), "out", *options(files))
    (tmp_path / "empty").mkdir()
    assert "has no subfolders" in refused(capsys, "embed", str(tmp_path / "empty"), "out", *options(files))
    assert "--landmarks" in refused(capsys, "embed", "a", "b", "--detector", "c", "--recognizer", "d")


def test_models_of_another_kind(
    files: dict[str, str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The name of the input does not matter; its number, type and size do."""
    h = onnx.helper

    def flattening(file: str, shape: list[int], kind: str = "FLOAT", names: tuple[str, ...] = ("any name",)) -> str:
        of = getattr(onnx.TensorProto, kind)
        inputs = [h.make_tensor_value_info(name, of, shape) for name in names]
        output = h.make_tensor_value_info("out", of, None)
        graph = h.make_graph([h.make_node("Flatten", [names[0]], ["out"])], "flat", inputs, [output])
        onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9), str(tmp_path / file))
        return str(tmp_path / file)

    def words(recognizer: str) -> list[str]:
        out = str(tmp_path / Path(recognizer).stem)
        return ["embed", str(photos), out, *options(files | {"recognizer": recognizer})]

    assert main(words(flattening("named.onnx", [1, 3, 112, 112]))) == 0
    assert main(words(flattening("half.onnx", [1, 3, 112, 112], "FLOAT16"))) == 0
    other = flattening("other.onnx", [1, 3, 224, 224])
    assert "other.onnx does not answer a picture of 112 x 112" in refused(capsys, *words(other))
    levels = flattening("levels.onnx", [1, 3, 112, 112], "UINT8")
    assert "of tensor(uint8); pictures (1, 3, H, W) of floats alone work" in refused(capsys, *words(levels))
    two = flattening("two.onnx", [1, 3, 112, 112], names=("image", "mask"))
    assert "takes image [1, 3, 112, 112] of tensor(float) and mask" in refused(capsys, *words(two))
    last = flattening("last.onnx", [1, 112, 112, 3])
    assert "takes any name [1, 112, 112, 3]" in refused(capsys, *words(last))
