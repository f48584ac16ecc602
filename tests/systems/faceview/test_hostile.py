"""Files as people have them by accident: other types, odd names, numbers that no float32 holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.systems.faceview.test_faces import PEOPLE, write_files

from lorgnette.systems.faceview import Data, loaders
from lorgnette.systems.faceview.data import FaceViews
from lorgnette.systems.faceview.faces import read_people
from lorgnette.train.batches import Draw

FIRST = next(iter(PEOPLE))
N = len(PEOPLE[FIRST].video)


def changed(folder: Path, array: np.ndarray, part: str = "") -> Path:
    """The folder of all persons, one array of the first one's video replaced."""
    write_files(folder)
    np.save(folder / f"video_{FIRST}{part}.npy", array, allow_pickle=array.dtype == object)
    return folder


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{"a": 1}] * N, dtype=object), "no intact array of numbers"),
        (np.full((N, 512), 1e300), "not all finite numbers of a usual size"),
        (np.full((N, 512), 1e25, np.float32), "not all finite numbers of a usual size"),
        (np.full((N, 512), 1e-30), "an embedding is all zero"),
        (np.ones((N, 512), complex), "not all finite numbers"),
    ],
    ids=["pickled", "double", "square", "tiny", "complex"],
)
def test_numbers_that_do_not_do(array: np.ndarray, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message) as refusal:
        read_people(changed(tmp_path, array), Data())
    assert "\n" not in str(refusal.value)


def test_one_zero_embedding_and_keypoints_in_one_place(tmp_path: Path):
    embedding = PEOPLE[FIRST].video.embedding.copy()
    embedding[1] = 0
    with pytest.raises(ValueError, match="an embedding is all zero"):
        read_people(changed(tmp_path, embedding), Data())
    keypoints = PEOPLE[FIRST].video.keypoints
    assert keypoints is not None
    keypoints = keypoints.copy()
    keypoints[1] = keypoints[1, :1]
    with pytest.raises(ValueError, match="keypoints of a view are all in one place"):
        read_people(changed(tmp_path, keypoints, "_kps3d"), Data())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_of_floats(dtype: type, tmp_path: Path):
    write_files(tmp_path)
    for file in tmp_path.glob("*.npy"):
        np.save(file, np.load(file).astype(dtype))
    people, _ = read_people(tmp_path, Data())
    assert people[FIRST].video.embedding.dtype == np.float32
    assert np.allclose(people[FIRST].video.embedding, PEOPLE[FIRST].video.embedding, atol=1e-3)


def test_names_of_all_kinds(tmp_path: Path):
    """Nobody is taken for a file that lies beside another, nor the other way round."""
    names = ["Anna Maria", "a_pose", "b_kps3d", "-", "山田", "c;d"]
    write_files(tmp_path, dict(zip(names, PEOPLE.values(), strict=False)))
    people, left_out = read_people(tmp_path, Data())
    assert sorted(people) == sorted(names)
    assert left_out == {}
    assert people["a_pose"].digest == list(PEOPLE.values())[1].digest


def test_persons_of_one_frame_each(tmp_path: Path):
    """A row alone may be written without its first axis."""
    write_files(tmp_path)
    for file in tmp_path.glob("*.npy"):
        np.save(file, np.load(file)[0])
    batches, test = loaders(Data(root=str(tmp_path), holdout=0.5))
    assert len(batches.dataset) + test.samples == len(PEOPLE)  # pyright: ignore[reportArgumentType]


def test_views_beyond_the_profile(tmp_path: Path):
    """From behind there is nothing to see, but nothing to refuse either; a limit leaves them out."""
    pose = np.tile(np.deg2rad([0.0, 120.0, 0.0]), (N, 1))
    people, _ = read_people(changed(tmp_path, pose, "_pose"), Data())
    views = sum(len(person.video) for person in people.values())
    assert len(FaceViews(people, Data())) == views
    assert len(FaceViews(people, Data(max_yaw=89.0))) < views - N + 1


def test_keypoints_count_by_their_shape_alone(tmp_path: Path):
    """In pixels and anywhere: what is learnt from is what `rotate` gives the network."""
    keypoints = PEOPLE[FIRST].video.keypoints
    assert keypoints is not None
    people, _ = read_people(changed(tmp_path, 80 * keypoints + [300, -200, 5], "_kps3d"), Data())
    from_pixels, plain = (FaceViews(found, Data()) for found in (people, PEOPLE))
    drawn = [views[Draw(0, 0, 0, 0)]["keypoints"] for views in (from_pixels, plain)]
    assert torch.allclose(*drawn, atol=1e-4)
