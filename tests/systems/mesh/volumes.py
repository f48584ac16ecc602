"""Folders of cases as TotalSegmentator has them, small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

nib = pytest.importorskip("nibabel")

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def ellipsoid(seed: int, side: int = 24, shift: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """(scan, mask): an organ of 160 in a body of -80 Hounsfield units."""
    rng = np.random.default_rng(seed)
    grid = np.indices((side,) * 3) - (side - 1) / 2 - np.array([shift, 0, 0]).reshape(3, 1, 1, 1)
    mask = ((grid / rng.uniform(6, 10, (3, 1, 1, 1))) ** 2).sum(0) < 1
    return np.where(mask, 160, -80) + rng.normal(0, 20, mask.shape).round(), mask


def write(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.int16 if values.dtype != bool else np.uint8), affine), path)
    return path


def write_case(folder: Path, seed: int, organs: tuple[str, ...] = ("liver", "spleen")) -> Path:
    """A scan, a mask for each organ, and an empty one."""
    scan, mask = ellipsoid(seed)
    write(folder / "ct.nii.gz", scan)
    for organ in organs:
        write(folder / "segmentations" / f"{organ}.nii.gz", mask)
    write(folder / "segmentations" / "brain.nii.gz", np.zeros_like(mask))
    return folder


def write_cases(root: Path, count: int, first: int = 0) -> Path:
    """Cases s0000, ... and their table, with a byte-order mark and semicolons."""
    rows = ["image_id;age;gender;split"]
    for number in range(first, first + count):
        write_case(root / f"s{number:04}", number)
        rows.append(f"s{number:04};50;m;{'test' if number == first else 'train'}")
    (root / "meta.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    return root
