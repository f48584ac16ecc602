"""Folders of face embeddings: both layouts, and everything that is wrong with one, in one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lorgnette.common.parts import LeftOut, Parts
from lorgnette.systems.faceview import Data, invented, loaders
from lorgnette.systems.faceview.data import mean_front, test_batch as held_out_batch
from lorgnette.systems.faceview.faces import Person, read_people
from lorgnette.train.batches import Draw
from lorgnette.train.config import TrainConfig

PEOPLE = invented(6, 4, seed=3)


def write_files(folder: Path, people: dict[str, Person] = PEOPLE, npz: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for name, person in people.items():
        for kind, views in (("front", person.front), ("video", person.video)):
            arrays = {"embedding": views.embedding, "pose": views.pose, "kps3d": views.keypoints}
            if npz:
                np.savez(folder / f"{kind}_{name}.npz", **arrays)
            else:
                np.save(folder / f"{kind}_{name}.npy", arrays.pop("embedding"))
                for part, array in arrays.items():
                    np.save(folder / f"{kind}_{name}_{part}.npy", array)
    return folder


def write_rows(folder: Path, people: dict[str, Person] = PEOPLE) -> Path:
    folder.mkdir(exist_ok=True)
    for kind in ("front", "video"):
        views = [(name, getattr(person, kind)) for name, person in people.items()]
        np.save(folder / f"{kind}_feature.npy", np.concatenate([v.embedding for _, v in views]))
        np.save(folder / f"{kind}_keypoints.npy", np.concatenate([v.keypoints for _, v in views]))
        names = [{"person_name": name} for name, v in views for _ in range(len(v))]
        poses = np.concatenate([v.pose for _, v in views]).tolist()
        meta = {"num_samples": len(names), "feature_dim": 512, "metadata": names, "poses": poses}
        (folder / f"{kind}_metadata.json").write_text(json.dumps(meta))
    return folder


def same(a: Person, b: Person) -> bool:
    return a.digest == b.digest


@pytest.mark.parametrize("write", [write_files, write_rows, lambda folder: write_files(folder, npz=True)])
def test_what_was_written_is_read(write: Callable[[Path], Path], tmp_path: Path):
    people, left_out = read_people(write(tmp_path), Data())
    assert left_out == {}
    assert people.keys() == PEOPLE.keys()
    assert all(same(people[name], PEOPLE[name]) for name in PEOPLE)


def test_degrees(tmp_path: Path):
    write_files(tmp_path)
    for file in tmp_path.glob("*_pose.npy"):
        np.save(file, np.rad2deg(np.load(file)))
    people, _ = read_people(tmp_path, Data(angle_unit="deg"))
    name = next(iter(people))
    assert np.allclose(people[name].video.pose, PEOPLE[name].video.pose, atol=1e-6)
    with pytest.raises(ValueError, match=r"beyond 2 pi radians; are these degrees.*--data\.angle_unit deg"):
        read_people(tmp_path, Data())


def test_without_keypoints_or_pose(tmp_path: Path):
    write_files(tmp_path)
    for file in tmp_path.glob("*_kps3d.npy"):
        file.unlink()
    people, _ = read_people(tmp_path, Data())
    assert all(p.video.keypoints is None and p.front.keypoints is None for p in people.values())
    for file in tmp_path.glob("*_pose.npy"):
        file.unlink()
    with pytest.raises(ValueError, match=r"its views have no pose.*allow_missing_pose"):
        read_people(tmp_path, Data())
    people, _ = read_people(tmp_path, Data(allow_missing_pose=True))
    assert not next(iter(people.values())).video.pose.any()


def one_wrong(name: str, array: np.ndarray, message: str):
    return pytest.param(name, array, message, id=message)


N = len(next(iter(PEOPLE.values())).video)


@pytest.mark.parametrize(
    ("part", "array", "message"),
    [
        one_wrong("_kps3d", np.ones((N, 68, 3)), r"not \(4, 5, 3\); keypoints_from_68 makes five of 68"),
        one_wrong("_kps3d", np.ones((N + 1, 5, 3)), r"its keypoints have shape \(5, 5, 3\), not \(4, 5, 3\)"),
        one_wrong("_pose", np.ones((N, 2)), r"its pose have shape \(4, 2\), not \(4, 3\)"),
        one_wrong("_pose", np.full((N, 3), np.nan), "its poses are not all finite numbers"),
        one_wrong("", np.full((N, 512), np.nan), "its embeddings are not all finite numbers"),
        one_wrong("", np.full((N, 512), np.inf), "its embeddings are not all finite"),
        one_wrong("", np.zeros((N, 512)), "an embedding is all zero"),
        one_wrong("", np.ones((N, 2, 512)), r"embeddings have shape \(4, 2, 512\)"),
        one_wrong("", np.ones((0, 512)), r"embeddings have shape \(0, 512\)"),
        one_wrong("", np.array([["a"] * 512] * N), "not all finite numbers|no intact array"),
        one_wrong("", np.ones((N, 128)), "embeddings of different lengths"),
    ],
)
def test_one_wrong_array(part: str, array: np.ndarray, message: str, tmp_path: Path):
    write_files(tmp_path)
    np.save(tmp_path / f"video_{next(iter(PEOPLE))}{part}.npy", array)
    with pytest.raises(ValueError, match=message) as refusal:
        read_people(tmp_path, Data())
    assert "\n" not in str(refusal.value)


def test_what_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_people(tmp_path / "none", Data())
    with pytest.raises(FileNotFoundError, match="holds no faces"):
        read_people(tmp_path, Data())
    write_rows(tmp_path)
    (tmp_path / "front_metadata.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"front_metadata\.json"):
        read_people(tmp_path, Data())


def test_files_that_lie(tmp_path: Path):
    write_rows(tmp_path)
    meta = json.loads((tmp_path / "front_metadata.json").read_text())
    for change, message in [
        ({"metadata": meta["metadata"][:-1]}, "12 rows, and 11 persons are named"),
        ({"metadata": [{}] * 12}, "no 'person_name'"),
        ({"metadata": "all"}, "names no persons"),
    ]:
        (tmp_path / "front_metadata.json").write_text(json.dumps(meta | change))
        with pytest.raises(ValueError, match=message):
            read_people(tmp_path, Data())
    (tmp_path / "front_metadata.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        read_people(tmp_path, Data())
    (tmp_path / "front_metadata.json").write_text(json.dumps(meta))
    np.save(tmp_path / "front_feature.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="no intact array of numbers"):  # nothing of it is run
        read_people(tmp_path, Data())
    (tmp_path / "front_feature.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="no intact array of numbers"):
        read_people(tmp_path, Data())


def test_front_and_video_of_different_persons(tmp_path: Path):
    write_files(tmp_path)
    for file in tmp_path.glob("front_*"):
        file.rename(file.with_name(file.name.replace("front_", "front_x")))
    with pytest.raises(ValueError, match="front and video are of different persons: front of x3-0000"):
        read_people(tmp_path, Data())
    write_files(tmp_path, dict(list(PEOPLE.items())[:3]))
    with pytest.warns(LeftOut, match=r"9 of 12 persons left out|persons left out: .* has no front"):
        loaders(Data(root=str(tmp_path), holdout=0.4))


def test_nobody_is_in_both_parts(tmp_path: Path):
    write_files(tmp_path)
    seen = set()
    for seed in range(4):
        batches, test = loaders(Data(root=str(tmp_path), holdout=0.34), TrainConfig(seed=seed))
        assert isinstance(batches.parts, Parts)
        learnt, held = set(batches.parts.training), set(test.people)
        assert not learnt & held
        assert learnt | held == PEOPLE.keys()
        assert len(held) == 2
        assert len(batches) == 4 * 4
        seen.add(tuple(sorted(held)))
    assert len(seen) > 1
    (batch,) = test
    assert len(batch["src"]) == test.samples == 2 * (1 + 4)
    assert batch["gallery"].shape == (2, 512)
    with pytest.raises(ValueError, match=r"data\.test: .* are in data\.root as well"):
        loaders(Data(root=str(tmp_path), test=str(write_files(tmp_path / "again"))))
    own = loaders(Data(root=str(tmp_path)).all_held_out())[1]
    assert len(own.people) == 6


def test_who_was_held_out_stays_so(tmp_path: Path):
    write_files(tmp_path)
    data = Data(root=str(tmp_path), holdout=0.34)
    before = loaders(data)[0].parts
    write_files(tmp_path, PEOPLE | invented(2, 4, seed=9))
    with pytest.warns(LeftOut, match="was not there when the run began"):
        batches, test = loaders(data, None, before)
    assert batches.parts.training == before.training
    assert batches.parts.held_out == before.held_out
    assert list(test.people) == list(before.held_out)


def test_samples():
    data = Data(preset="points", people=5, views=3, holdout=0.2)
    batches, _ = loaders(data)
    dataset = batches.dataset
    assert len(dataset) == 4 * 3
    sample = dataset[Draw(0, 0, 0, 7)]
    person = dataset.persons[sample["person"]]
    assert np.allclose(sample["target"], mean_front(person))
    assert not sample["pose"].any()
    assert float(sample["src"].norm()) == pytest.approx(1, abs=1e-5)
    anywhere = loaders(Data(preset="points", people=5, views=3, holdout=0.2, targets="any"))[0].dataset
    drawn = [anywhere[Draw(0, step, 0, 7)] for step in range(30)]
    assert {bool(s["pose"].any()) for s in drawn} == {True, False}
    for s in drawn:
        if s["pose"].any():
            (row,) = np.flatnonzero((anywhere.views.pose == s["pose"].numpy()).all(1))
            assert anywhere.labels[row] == s["person"]
            assert np.allclose(anywhere.views.embedding[row], s["target"], atol=1e-6)


def test_yaws_can_be_chosen():
    few = loaders(Data(preset="points", people=8, min_yaw=45, max_yaw=70))[0].dataset
    yaw = np.rad2deg(np.abs(few.views.pose[:, 1]))
    assert yaw.min() >= 45
    assert yaw.max() <= 70
    with pytest.raises(ValueError, match=r"no view is turned by 89\.9 to 89\.99"):
        loaders(Data(preset="points", people=2, views=1, min_yaw=89.9, max_yaw=89.99))


def test_replay_comes_along(tmp_path: Path):
    write_files(tmp_path)
    batches, _ = loaders(Data(preset="points", people=4, replay=str(tmp_path)))
    sample = batches.dataset[Draw(0, 0, 0, 0)]
    known = np.concatenate([p.video.embedding for p in PEOPLE.values()])
    assert np.abs(known - sample["replay_src"].numpy()).sum(1).min() < 1e-4


def test_several_folders(tmp_path: Path):
    for place, seed in (("a", 1), ("b", 2)):
        write_files(tmp_path / place, invented(3, 2, seed=seed))
    batches, test = loaders(Data(root=[str(tmp_path / "a"), str(tmp_path / "b")], holdout=0.34))
    assert len(batches.dataset.persons) == 4
    assert {name.split("/")[0] for name in [*batches.parts.training, *test.people]} == {"a", "b"}


def test_one_person_alone(tmp_path: Path):
    write_files(tmp_path, dict(list(PEOPLE.items())[:1]))
    with pytest.raises(ValueError, match="there is one person only"):
        loaders(Data(root=str(tmp_path)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": "a", "preset": "points"}, "exclude each other"),
        ({"test": "a"}, r"data\.test: needs data\.root"),
        ({"holdout": 1.0}, r"data\.holdout: 1\.0 is outside"),
        ({"min_yaw": 50, "max_yaw": 40}, "not rising"),
        ({"people": 1}, "too few"),
        ({"angle_unit": "degrees"}, r"data\.angle_unit: 'degrees' does not work"),
    ],
)
def test_settings_that_do_not_work(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Data(**settings)


# ------------------------------------------------------------------------------------------------ invented heads


def test_invented_heads_are_like_faces():
    """Cosine with the own front falls with the turn; strangers are unlike; all of it in a second or two."""
    batch = held_out_batch(invented(150, 6, seed=5))
    cosine = (batch["src"] @ batch["gallery"].T).numpy()
    person, yaw = batch["person"].numpy(), np.rad2deg(np.abs(batch["angles"][:, 1].numpy()))
    own = cosine[np.arange(len(person)), person]
    means = [own[(yaw >= low) & (yaw < high)].mean() for low, high in ((0, 15), (25, 45), (45, 65), (65, 80), (80, 95))]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.8
    assert means[-1] < 0.4
    others = cosine[np.arange(cosine.shape[1]) != person[:, None]]
    assert abs(others.mean()) < 0.1
    assert np.allclose(np.linalg.norm(batch["keypoints"].numpy(), axis=-1).__pow__(2).mean(1), 1, atol=1e-5)


def test_heads_are_a_function_of_the_seed():
    again, other = invented(6, 4, seed=3), invented(6, 4, seed=4)
    assert all(same(again[name], PEOPLE[name]) for name in PEOPLE)
    assert not PEOPLE.keys() & other.keys()
    more = invented(8, 4, seed=3)
    assert all(same(more[name], PEOPLE[name]) for name in PEOPLE)
    worn, encoder = invented(2, 4, "points-worn", seed=3), invented(2, 4, seed=3, encoder_seed=1)
    name = "3-0000"
    assert np.allclose(worn[name].video.pose, PEOPLE[name].video.pose, atol=0.2)
    for changed in (worn, encoder):
        overlap = (changed[name].video.embedding * PEOPLE[name].video.embedding).sum(1)
        assert overlap.max() < 0.95


def test_keypoints_follow_the_pose():
    """Turned back by the true pose, the keypoints of all views of a person coincide, but for the error of the pose."""
    from lorgnette.systems.faceview.points import rotations

    for person in PEOPLE.values():
        views = person.video
        back = np.einsum("nji,nkj->nki", rotations(views.pose), views.keypoints)
        assert np.abs(back - back.mean(0)).max() < 0.35
        assert np.abs(views.keypoints - views.keypoints.mean(0)).max() > 0.3
