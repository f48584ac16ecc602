"""What a folder of face embeddings holds, read strictly: shapes, numbers, persons."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from lorgnette.common.files import read_json
from lorgnette.systems.faceview.recipe import Data

Array = NDArray[np.float32]
MAX_BYTES = 8 * 2**30
SIDECARS = ("_pose", "_kps3d")
KEYPOINTS = (5, 3)


@dataclass(frozen=True)
class Views:
    """Embeddings of one person."""

    embedding: Array
    """(N, D)."""
    pose: Array
    """(N, 3) radians: pitch, yaw, roll."""
    keypoints: Array | None
    """(N, 5, 3), or None where there are none."""

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, rows: Any) -> Views:
        keypoints = None if self.keypoints is None else self.keypoints[rows]
        return Views(self.embedding[rows], self.pose[rows], keypoints)


@dataclass(frozen=True)
class Person:
    """Frontal views, which are the truth, and others, which are to be mapped to them."""

    front: Views
    video: Views

    @property
    def digest(self) -> str:
        """A hash of all of it."""
        arrays = [a for v in (self.front, self.video) for a in (v.embedding, v.pose, v.keypoints) if a is not None]
        return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:16]


def read_people(folder: str | Path, data: Data) -> tuple[dict[str, Person], dict[str, str]]:
    """The persons of a folder, and those that are left out, each with the reason.

    Two layouts are read: for each person `front_NAME` and `video_NAME` as .npz with `embedding`, `pose` and `kps3d`, or
    as .npy with `video_NAME_pose.npy` and `video_NAME_kps3d.npy` beside it; or all persons in `front_feature.npy`,
    `front_keypoints.npy`, `front_metadata.json` and the same of `video`. A front without a pose is frontal.

    Args:
        folder: that holds the files.
        data: unit of the angles, and whether a pose may be missing.

    Raises:
        FileNotFoundError: no such folder, or nothing in it.
        ValueError: an array of another shape or with numbers that are none, or no person with both.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    together = (folder / "front_feature.npy").exists() or (folder / "video_feature.npy").exists()
    kinds = {kind: dict((_rows if together else _files)(folder, kind, data)) for kind in ("front", "video")}
    if not any(kinds.values()):
        raise FileNotFoundError(f"{folder} holds no faces: front_NAME.npy and video_NAME.npy are looked for")
    both = [name for name in kinds["front"] if name in kinds["video"]]
    if not both:
        shown = {kind: ", ".join(list(found)[:3]) or "none" for kind, found in kinds.items()}
        raise ValueError(
            f"{folder}: front and video are of different persons: front of {shown['front']}; video of {shown['video']}"
        )
    people = {name: Person(kinds["front"][name], kinds["video"][name]) for name in both}
    _check_alike([(name, v) for name, p in people.items() for v in (p.front, p.video)], folder)
    left_out = {
        name: f"{name} has no {'front' if kind == 'video' else 'video'}"
        for kind, found in kinds.items()
        for name in found
        if name not in people
    }
    return people, left_out


def _files(folder: Path, kind: str, data: Data) -> Iterator[tuple[str, Views]]:
    """One file for each person."""
    for file in sorted([*folder.glob(f"{kind}_*.npy"), *folder.glob(f"{kind}_*.npz")]):
        name = file.stem.removeprefix(f"{kind}_")
        if file.suffix == ".npy" and any(_beside(file, suffix) for suffix in SIDECARS):
            continue
        if file.suffix == ".npz":
            arrays = _load(file)
            if "embedding" not in arrays:
                raise ValueError(f"{file} has no array 'embedding'; it has {', '.join(arrays) or 'none'}")
            parts = {part: arrays.get(part) for part in ("embedding", "pose", "kps3d")}
        else:
            beside = {part: file.with_name(f"{kind}_{name}_{part}.npy") for part in ("pose", "kps3d")}
            parts = {part: _load(path)[""] if path.exists() else None for part, path in beside.items()}
            parts["embedding"] = _load(file)[""]
        yield name, _views(file, parts["embedding"], parts["pose"], parts["kps3d"], kind, data)


def _beside(file: Path, suffix: str) -> bool:
    """Whether a file belongs to another one, and is not that of a person whose name ends like this."""
    return file.stem.endswith(suffix) and file.with_name(f"{file.stem.removesuffix(suffix)}.npy").exists()


def _rows(folder: Path, kind: str, data: Data) -> Iterator[tuple[str, Views]]:
    """One row of common files for each view."""
    features = folder / f"{kind}_feature.npy"
    meta = read_json(folder / f"{kind}_metadata.json", 2**30)
    if not isinstance(meta, dict) or not isinstance(meta.get("metadata"), list):
        raise ValueError(f"{folder / f'{kind}_metadata.json'} names no persons: a list 'metadata' is looked for")
    try:
        names = [str(row["person_name"]) for row in meta["metadata"]]
    except (TypeError, KeyError):
        raise ValueError(f"{folder / f'{kind}_metadata.json'}: a row of 'metadata' has no 'person_name'") from None
    keypoints = folder / f"{kind}_keypoints.npy"
    poses = meta.get("poses")
    whole = _views(
        features,
        _load(features)[""],
        None if poses is None else np.asarray(poses, dtype=np.float64),
        _load(keypoints)[""] if keypoints.exists() else None,
        kind,
        data,
    )
    if len(names) != len(whole):
        raise ValueError(f"{features} has {len(whole)} rows, and {len(names)} persons are named for them")
    place = np.array(names)
    for name in dict.fromkeys(names):
        yield name, whole[place == name]


def _load(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz, or that of a .npy under ''. No code is run."""
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file} has {file.stat().st_size} bytes; more than {MAX_BYTES} are not read")
    try:
        with file.open("rb") as opened:  # numpy leaves it open where it is damaged
            loaded = np.load(opened, allow_pickle=False)
            return {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, BadZipFile) as error:
        raise ValueError(f"{file} is no intact array of numbers ({str(error).splitlines()[0]})") from None


def _views(
    file: Path,
    embedding: NDArray[Any] | None,
    pose: NDArray[Any] | None,
    keypoints: NDArray[Any] | None,
    kind: str,
    data: Data,
) -> Views:
    """Arrays that are checked."""
    assert embedding is not None
    embedding = np.atleast_2d(embedding)
    n = len(embedding)
    if embedding.ndim != 2 or n == 0:
        raise ValueError(f"{file}: embeddings have shape {embedding.shape}; (N, 512) is expected")
    if pose is None and kind == "video" and not data.allow_missing_pose:
        raise ValueError(
            f"{file}: its views have no pose; a file {file.stem}_pose.npy of (N, 3) is looked for"
            " (--data.allow_missing_pose true takes them as frontal)"
        )
    pose = np.zeros((n, 3)) if pose is None else np.atleast_2d(pose)
    if keypoints is not None and keypoints.ndim == 2:
        keypoints = keypoints[None]
    expected = {"pose": (pose, (n, 3)), "keypoints": (keypoints, (n, *KEYPOINTS))}
    for what, (array, shape) in expected.items():
        if array is not None and array.shape != shape:
            hint = "; keypoints_from_68 makes five of 68" if array.shape[1:] == (68, 3) else ""
            raise ValueError(f"{file}: its {what} have shape {array.shape}, not {shape}{hint}")
    embedding, pose = _numbers(file, "embeddings", embedding), _numbers(file, "poses", pose)
    if not np.linalg.norm(embedding, axis=1).all():
        raise ValueError(f"{file}: an embedding is all zero, which has no direction")
    if keypoints is not None:
        keypoints = _numbers(file, "keypoints", keypoints)
        if not np.ptp(keypoints, axis=1).any(1).all():
            raise ValueError(f"{file}: the keypoints of a view are all in one place")
    if data.angle_unit == "deg":
        pose = np.deg2rad(pose)
    elif np.abs(pose).max() > 2 * np.pi:
        raise ValueError(
            f"{file}: a pose of {np.abs(pose).max():.4g} is beyond 2 pi radians; are these degrees, as InsightFace"
            " gives them? --data.angle_unit deg reads them"
        )
    return Views(embedding, pose.astype(np.float32), keypoints)


def _numbers(file: Path, what: str, array: NDArray[Any]) -> Array:
    """In float32, where the size of each row is still a number."""
    with np.errstate(over="ignore"):
        found = array.astype(np.float32) if array.dtype.kind in "fiu" else np.full(1, np.nan, np.float32)
        if not np.isfinite(np.square(found).sum(-1)).all():
            raise ValueError(f"{file}: its {what} are not all finite numbers of a usual size")
    return found


def _check_alike(views: Sequence[tuple[str, Views]], folder: Path) -> None:
    widths = {v.embedding.shape[1]: name for name, v in views}
    if len(widths) > 1:
        said = ", ".join(f"{width} of {name}" for width, name in widths.items())
        raise ValueError(f"{folder}: embeddings of different lengths, as of different encoders: {said}")
    if len({v.keypoints is None for _, v in views}) > 1:
        raise ValueError(f"{folder}: some views have keypoints and others none; give them to all, or to none")


def stacked(views: Sequence[Views]) -> Views:
    """All rows, one after another."""
    keypoints = [v.keypoints for v in views if v.keypoints is not None]
    return Views(
        np.concatenate([v.embedding for v in views]),
        np.concatenate([v.pose for v in views]),
        np.concatenate(keypoints) if keypoints else None,
    )
