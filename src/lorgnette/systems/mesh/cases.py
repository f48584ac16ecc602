"""Which organs folders of volumes hold, and samples of them, computed once and kept on disk. Imports no torch.

A case is a folder as TotalSegmentator has it: a scan and `segmentations/ORGAN.nii.gz`, one file each; or a scan and
masks, or one file of labels, beside it. A folder of cases may have a `meta.csv`, with a `split` for each.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.common.files import atomic_write, make_folder, read_json, write_json
from lorgnette.common.parts import LeftOut
from lorgnette.images.folders import PassedOver
from lorgnette.systems.mesh.recipe import Data
from lorgnette.systems.mesh.volumes import read_image, read_labels, subjects
from lorgnette.systems.mesh.volumes.labels import same_grid
from lorgnette.systems.mesh.volumes.totalsegmentator import IMAGES, mask_files

if TYPE_CHECKING:
    from lorgnette.systems.mesh.samples import Sample

KEPT = ".lorgnette-mesh"
FEW = "has fewer voxels than data.min_voxels"
_FORMAT = 1


@dataclass(frozen=True)
class Case:
    """One patient's volumes."""

    name: str
    scan: Path
    masks: Path
    """The folder of organs' masks, or the file of all labels."""
    split: str = ""
    """'train', 'val' or 'test' where a table says so."""


@dataclass(frozen=True)
class Organ:
    """An organ of a case, whose sample lies in a file."""

    case: str
    organ: str
    file: str
    split: str = ""
    voxels: int = 0

    @property
    def name(self) -> str:
        """Of the sample."""
        return f"{self.case} {self.organ}"


def find_cases(root: str | Path) -> list[Case]:
    """The cases in a folder, or the one that the folder is, sorted by name.

    Raises:
        FileNotFoundError: no such folder, or no case in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"data.root: no such folder: {root}")
    if scan := next((root / name for name in IMAGES if (root / name).is_file()), None):
        return [_case(root, scan, "")]
    try:
        found, skipped = subjects(root)
    except ValueError as error:
        raise ValueError(f"data.root: {error}; or such a folder itself") from None
    if told := [line for line in skipped if not line.startswith(".")]:
        warnings.warn(PassedOver(f"passed over in {root}: {'; '.join(told[:3])}, {len(told)} in all"), stacklevel=2)
    return [_case(root / each.name, each.image, each.split) for each in found]


def organs_of(root: str | Path, data: Data, progress: Callable[[Sequence[Case]], Iterable[Case]] = iter) -> list[Organ]:
    """Samples of all organs in a folder, computed where that was not done before.

    Args:
        root: a folder of cases.
        data: settings; what is kept belongs to those that a sample depends on.
        progress: wraps the cases that are gone through, such as `tqdm.tqdm`.

    Returns:
        The organs, by case and name.

    Raises:
        FileNotFoundError: no such folder, no case.
        ValueError: no organ that does, or a file that cannot be read.

    Warns:
        PassedOver: of masks that are empty or small, with their numbers.
        LeftOut: of masks that cannot be used, and why.
    """
    settings = {name: getattr(data, name) for name in ("resolution", "features", "window", "min_voxels")}
    key = hashlib.blake2b(json.dumps([_FORMAT, settings]).encode(), digest_size=8).hexdigest()
    cases = find_cases(root)
    folder = _cache(root, data) / key
    found: list[Organ] = []
    left_out: dict[str, str] = {}
    empty: list[str] = []
    for case in progress(cases):
        index = _index(case, folder, data)
        found += [Organ(**organ) for organ in index["organs"]]
        left_out |= {f"{case.name} {organ}".strip(): reason for organ, reason in index["left_out"].items()}
        empty += [f"{case.name}: {note}" for note in index["notes"]]
    few = {name: reason for name, reason in left_out.items() if reason == FEW}
    wrong = {name: reason for name, reason in left_out.items() if name not in few}
    if not found:
        raise ValueError(f"data.root: {root} has no organ of {data.min_voxels} voxels ({_counted(left_out)})")
    if few or empty:  # of all organs that are looked for, a scan has some
        told = [_counted(few)] if few else []
        told += (
            [f"{'; '.join(empty[:3])}{f'; and so on in {len(empty)} cases' if len(empty) > 3 else ''}"] if empty else []
        )
        warnings.warn(PassedOver(f"passed over in {root}: {'; '.join(told)}"), stacklevel=2)
    if wrong:
        warnings.warn(LeftOut(f"left out of {root}: {_counted(wrong)}", wrong), stacklevel=2)
    return found


def read_sample(organ: Organ) -> Sample:
    """What was computed of an organ."""
    import numpy as np

    from lorgnette.systems.mesh.samples import from_arrays

    with np.load(organ.file, allow_pickle=False) as arrays:
        return from_arrays(arrays)


def _index(case: Case, folder: Path, data: Data) -> dict[str, Any]:
    """The case's organs and what is left out of it; made, with its samples, where sources are not what they were."""
    files = sorted(case.masks.iterdir()) if case.masks.is_dir() else [case.masks]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in (*files, case.scan)]
    source = hashlib.blake2b(repr((str(case.masks.resolve()), stats)).encode(), digest_size=8).hexdigest()
    file = folder / f"{case.name}-{source}.json"
    if file.is_file():
        return read_json(file)
    import numpy as np

    from lorgnette.systems.mesh.samples import as_arrays, make_sample

    make_folder(folder)
    index: dict[str, Any] = {"organs": [], "left_out": {}, "notes": []}
    try:
        scan, labels = read_image(case.scan), read_labels(case.masks)
        if not same_grid(scan.affine, scan.values.shape, labels.affine, labels.shape):
            raise ValueError(f"{case.masks} is on another grid than {case.scan}")
    except ValueError as error:  # not kept: what is wrong may be put right
        return index | {"left_out": {"": str(error)}}
    index["notes"] = list(labels.notes)
    for organ in labels.organs:
        try:
            if organ.voxels < data.min_voxels:
                raise ValueError(FEW)
            mask = labels.whole(organ)
            name = f"{case.name} {organ.name}"
            values = None if data.features == "mask" else scan.values
            sample = make_sample(mask, labels.affine, values, data.resolution, data.features, data.window, name)
            kept = folder / f"{case.name}-{source}-{organ.name}.npz"
            with atomic_write(kept) as temporary:
                np.savez_compressed(temporary, allow_pickle=False, **as_arrays(sample))
            index["organs"].append(asdict(Organ(case.name, organ.name, str(kept), case.split, organ.voxels)))
        except ValueError as error:
            index["left_out"][organ.name] = str(error)
    write_json(file, index)
    return index


def _case(folder: Path, scan: Path, split: str) -> Case:
    masks = mask_files(folder)
    if not masks:
        raise ValueError(f"data.root: {folder} has a scan, but no mask")
    return Case(
        folder.resolve().name,
        scan,
        masks[0] if masks[0].parent == folder and len(masks) == 1 else masks[0].parent,
        split,
    )


def _cache(root: str | Path, data: Data) -> Path:
    if data.cache is not None:
        return Path(data.cache)
    folder = Path(root) / KEPT
    try:
        return make_folder(folder)
    except ValueError as error:
        raise ValueError(f"{error}; data.cache names another folder for what is computed of organs") from None


def _counted(left_out: dict[str, str]) -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        reasons.setdefault(reason.removeprefix(f"{name}: "), []).append(name)
    said = (f"{len(names)} of which each {reason} ({', '.join(names[:2])})" for reason, names in reasons.items())
    return "; ".join(said) or "there is no mask"
