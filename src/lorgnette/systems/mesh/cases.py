"""Which organs folders of volumes hold, and samples of them, computed once and kept on disk. Imports no torch.

A case is a folder as TotalSegmentator has it: a scan and `segmentations/ORGAN.nii.gz`, one file each, or one file of
labels. A folder of cases may have a `meta.csv`, with a `split` for each.
"""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.common.files import atomic_write, make_folder, read_json, write_json
from lorgnette.common.parts import LeftOut
from lorgnette.images.folders import PassedOver
from lorgnette.systems.mesh.recipe import Data

if TYPE_CHECKING:
    from lorgnette.systems.mesh.samples import Sample

SCANS = ("ct", "mri", "mr", "image", "scan")
LABELS = ("labels", "label", "segmentation", "seg", "mask")
_SUFFIXES = (".nii.gz", ".nii")
KEPT = ".lorgnette-mesh"
EMPTY, FEW = "is empty", "has fewer voxels than data.min_voxels"
_FORMAT = 1


@dataclass(frozen=True)
class Case:
    """One patient's volumes."""

    name: str
    scan: Path | None
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
    splits = _splits(root / "meta.csv")
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))]
    found = [case for folder in folders if (case := _case(folder, splits.get(folder.name, "")))]
    if not found:
        raise FileNotFoundError(
            f"data.root: {root} holds no case: a folder with {SCANS[0]}.nii.gz and segmentations/ORGAN.nii.gz, or with "
            f"{LABELS[0]}.nii.gz"
        )
    return found


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
    for case in progress(cases):
        index = _index(case, folder, data)
        found += [Organ(**organ) for organ in index["organs"]]
        left_out |= {f"{case.name} {organ}": reason for organ, reason in index["left_out"].items()}
    few = {name: reason for name, reason in left_out.items() if reason in (EMPTY, FEW)}
    wrong = {name: reason for name, reason in left_out.items() if name not in few}
    if not found:
        raise ValueError(f"data.root: {root} has no organ of {data.min_voxels} voxels ({_counted(left_out)})")
    if few:  # a table of all organs there are has many that a patient, or a scan, does not
        warnings.warn(PassedOver(f"passed over in {root}: {_counted(few)}"), stacklevel=2)
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
    sources = [case.masks, *sorted(case.masks.glob("*.nii*"))] if case.masks.is_dir() else [case.masks]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in (*sources, case.scan) if path]
    source = hashlib.blake2b(repr((str(case.masks.resolve()), stats)).encode(), digest_size=8).hexdigest()
    file = folder / f"{case.name}-{source}.json"
    if file.is_file():
        return read_json(file)
    import numpy as np

    from lorgnette.systems.mesh.samples import as_arrays, make_sample
    from lorgnette.systems.mesh.volumes import read_volume

    make_folder(folder)
    scan = read_volume(case.scan) if case.scan is not None else None
    index: dict[str, Any] = {"organs": [], "left_out": {}}
    for organ, mask, affine in _masks(case):
        count = int(mask.sum())
        try:
            if count < data.min_voxels:
                raise ValueError(FEW if count else EMPTY)
            if scan is not None and (
                scan.values.shape != mask.shape or not np.allclose(scan.affine, affine, atol=1e-3)
            ):
                raise ValueError("is on another grid than the scan")
            values = scan.values if scan is not None else None
            kept = folder / f"{case.name}-{source}-{organ}.npz"
            sample = make_sample(
                mask, affine, values, data.resolution, data.features, data.window, f"{case.name} {organ}"
            )
            with atomic_write(kept) as temporary:
                np.savez_compressed(temporary, allow_pickle=False, **as_arrays(sample))
            index["organs"].append(asdict(Organ(case.name, organ, str(kept), case.split, count)))
        except ValueError as error:
            index["left_out"][organ] = str(error)
    write_json(file, index)
    return index


def _masks(case: Case) -> Iterator[tuple[str, Any, Any]]:
    """(organ, mask, affine) of each organ."""
    from lorgnette.systems.mesh.volumes import label_names, read_volume

    if case.masks.is_dir():
        for path in sorted(case.masks.glob("*.nii*")):
            volume = read_volume(path)
            yield _stem(path), volume.values > 0.5, volume.affine
        return
    volume = read_volume(case.masks)
    names = label_names(case.masks)
    for label in sorted({*map(int, set(volume.values.ravel().tolist()))} - {0}):
        yield names.get(label, f"label_{label}"), volume.values == label, volume.affine


def _case(folder: Path, split: str) -> Case | None:
    scan = next((path for path in _named(folder, SCANS)), None)
    masks = folder / "segmentations"
    if not masks.is_dir():
        masks = next((path for path in _named(folder, LABELS)), None)
    return None if masks is None else Case(folder.resolve().name, scan, masks, split)


def _named(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    return (path for name in names for suffix in _SUFFIXES if (path := folder / f"{name}{suffix}").is_file())


def _splits(table: Path) -> dict[str, str]:
    """image_id -> split; TotalSegmentator's table begins with a byte-order mark and parts by semicolons."""
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter=";"))
    return {row["image_id"]: (row.get("split") or "").strip() for row in rows if row.get("image_id")}


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


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
