"""Folders of masks, one file for each organ, as TotalSegmentator writes them and its data set comes.

The data set: `meta.csv` (semicolons, UTF-8 with a byte order mark), and for each subject a folder with `ct.nii.gz` or
`mri.nii.gz` and `segmentations/NAME.nii.gz`. Version 1 has 104 classes and fewer columns, version 2 has 117, MR has its
own: organs are known by name, never by number.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lorgnette.common.files import read_small
from lorgnette.systems.mesh.volumes.labels import Labels, Organ, color_of, distinct, same_grid, whole_numbers
from lorgnette.systems.mesh.volumes.nifti import is_nifti, read_nifti, stem

IMAGES = ("ct.nii.gz", "mri.nii.gz", "ct.nii", "mri.nii")
MASKS = "segmentations"


@dataclass(frozen=True)
class Subject:
    """One person of a data set: `split` and `about` are from meta.csv, where there is one."""

    name: str
    image: Path
    masks: dict[str, Path]
    split: str = ""
    about: dict[str, str] = field(default_factory=dict)


def subjects(root: Path) -> tuple[list[Subject], list[str]]:
    """The subjects of a folder, and a line for each folder that is none.

    Raises:
        ValueError: there is no subject, or meta.csv is not to be read.
    """
    rows = _rows(root / "meta.csv")
    found, skipped = [], []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        image = next((folder / name for name in IMAGES if (folder / name).is_file()), None)
        masks = mask_files(folder)
        if image is None or not masks:
            skipped.append(f"{folder.name}: no {'masks' if image else 'ct.nii.gz or mri.nii.gz'} in it")
            continue
        about = rows.pop(folder.name, {})
        found.append(Subject(folder.name, image, {stem(path): path for path in masks}, about.get("split", ""), about))
    if not found:
        raise ValueError(f"{root} holds no subject: folders with ct.nii.gz and {MASKS}/*.nii.gz are expected")
    return found, skipped + [f"{name}: in meta.csv, but there is no such folder" for name in rows]


def _rows(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    try:
        text = read_small(path, 2**26).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    separator = ";" if ";" in text.partition("\n")[0] else ","
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
    if rows and "image_id" not in rows[0]:
        raise ValueError(f"{path} has no column image_id; its first line is {', '.join(map(str, rows[0]))[:200]}")
    return {row["image_id"]: {k: v for k, v in row.items() if k and v is not None} for row in rows}


def mask_files(folder: Path) -> list[Path]:
    """The masks of a folder or of its `segmentations`, by name."""
    inner = folder / MASKS
    files = sorted(path for path in (inner if inner.is_dir() else folder).iterdir() if is_nifti(path))
    return files if inner.is_dir() else [path for path in files if path.name not in IMAGES]


def read_masks(files: Sequence[Path], progress: Callable[[Sequence[Path]], Iterable[Path]] = iter) -> Labels:
    """Masks of one grid, one organ a file. Empty ones are skipped, and counted in a note.

    Raises:
        ValueError: one has another grid than the first, or all are empty.
    """
    organs: list[Organ] = []
    empty, notes = 0, []
    shape, affine = (), np.eye(4)
    for number, path in enumerate(progress(files), start=1):
        volume = read_nifti(path)
        values = whole_numbers(volume, path)
        if not shape:
            shape, affine, notes = values.shape, volume.affine, list(volume.notes)
        if not same_grid(affine, shape, volume.affine, values.shape):
            raise ValueError(f"{path} has another grid than {files[0].name}: masks of one volume are expected")
        inside = (
            np.nonzero(values.any(axis=(1, 2))),
            np.nonzero(values.any(axis=(0, 2))),
            np.nonzero(values.any(axis=(0, 1))),
        )
        if not inside[0][0].size:
            empty += 1
            continue
        box = tuple(slice(int(axis[0][0]), int(axis[0][-1]) + 1) for axis in inside)
        mask = np.ascontiguousarray(values[box] > 0)
        place = np.array([part.start for part in box])
        organs.append(Organ(stem(path), number, mask, place, int(mask.sum()), color_of(number)))
    if not organs:
        raise ValueError(f"{files[0].parent}: all {len(files)} masks are empty")
    if empty:
        notes.append(f"{empty} of {len(files)} masks are empty")
    return Labels(distinct(organs), shape, affine, tuple(notes))
