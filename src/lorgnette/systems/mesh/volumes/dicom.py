"""DICOM: a series of slices as a picture, a segmentation object as a mask."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lorgnette.systems.mesh.volumes.labels import MOST_VOXELS, Labels, Organ, Volume, canonical, color_of, distinct

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""The classes of segmentations: of bits or fractions, and of label maps."""
_LPS = np.diag([-1.0, -1, 1, 1])  # DICOM's axes point left and posterior, NIfTI's right and anterior


def read_series(folder: Path) -> Volume:
    """A picture from the slices of one series, in the units that its rescaling gives (CT: Hounsfield).

    Raises:
        ValueError: it holds no series or several, or slices are missing.
    """
    highdicom, slices, others = _datasets(folder)
    slices = [item for item in slices if "Rows" in item and item.get("SOPClassUID") not in SEGMENTATIONS]
    series = {str(item.get("SeriesInstanceUID")): str(item.get("SeriesDescription", "")) for item in slices}
    if not series:
        raise ValueError(f"{folder} holds no slices: DICOM files of one series are expected")
    if len(series) > 1:
        names = ", ".join(f"{name or 'unnamed'} ({uid})" for uid, name in series.items())
        raise ValueError(f"{folder} holds {len(series)} series: {names[:300]}; give a folder with one of them")
    _check_size(folder, sum(int(item.Rows) * int(item.Columns) * int(item.get("NumberOfFrames", 1)) for item in slices))
    with _in_one_line(folder):
        if len(slices) == 1 and "NumberOfFrames" in slices[0]:
            found = highdicom.Image.from_dataset(slices[0]).get_volume()
        else:
            found = highdicom.get_volume_from_series(slices, dtype=np.float32, apply_real_world_transform=False)
    volume = canonical(found.array, _LPS @ found.affine, folder)
    values = volume.values.astype(np.int16) if _fits(volume.values) else volume.values
    return Volume(values, volume.affine, (f"{others} files are no slices of it",) if others else ())


def read_segmentation(path: Path) -> Labels:
    """The organs of a segmentation object: a file, or a folder that holds one.

    Raises:
        ValueError: there is none, or there are several, or all of its segments are empty.
    """
    highdicom, found, _ = _datasets(path)
    objects = [item for item in found if item.get("SOPClassUID") in SEGMENTATIONS]
    if len(objects) != 1:
        raise ValueError(
            f"{path} holds {len(objects) or 'no'} DICOM segmentations of {len(found)} DICOM files: one is read"
        )
    organs: list[Organ] = []
    empty, notes, shape, affine = 0, [], (), np.eye(4)
    with _in_one_line(path):
        segmentation = highdicom.seg.Segmentation.from_dataset(objects[0])
        if segmentation.segmentation_type == highdicom.seg.SegmentationTypeValues.FRACTIONAL:
            notes.append(f"{path.name} holds fractions: what is at least half is taken")
        for number in segmentation.segment_numbers:
            taken = segmentation.get_volume(segment_numbers=[number], dtype=np.float32, allow_missing_positions=True)
            _check_size(path, taken.array.size)
            volume = canonical(taken.array[..., 0] >= 0.5, _LPS @ taken.affine, path)
            shape, affine = volume.values.shape, volume.affine
            inside = np.nonzero(volume.values)
            if not inside[0].size:
                empty += 1
                continue
            place = np.array([axis.min() for axis in inside])
            box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in inside)
            name = str(segmentation.get_segment_description(number).segment_label)
            mask = np.ascontiguousarray(volume.values[box])
            organs.append(Organ(name, int(number), mask, place, inside[0].size, color_of(int(number))))
    if not organs:
        raise ValueError(f"{path} is empty: none of its segments has a voxel")
    if empty:
        notes.append(f"{empty} of {empty + len(organs)} segments are empty")
    return Labels(distinct(organs), shape, affine, tuple(notes))


def _datasets(path: Path) -> tuple[Any, list[Any], int]:
    """highdicom; the DICOM files of a path; and how many others there are."""
    try:
        import highdicom
        from pydicom import dcmread
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise ValueError(f"{path} is no NIfTI file; reading DICOM needs: pip install 'lorgnette[dicom]'") from None
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    found, others = [], 0
    for file in files:
        try:
            with warnings.catch_warnings(action="ignore"):
                found.append(dcmread(file))
        except (InvalidDicomError, OSError, EOFError, ValueError, AttributeError, NotImplementedError):
            others += 1
    if not found:
        raise ValueError(f"{path} is neither NIfTI nor DICOM" + (f" ({others} other files)" if path.is_dir() else ""))
    return highdicom, found, others


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """What pydicom and highdicom raise for files that say what cannot be, as a line with the path."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (ValueError, AttributeError, KeyError, RuntimeError, NotImplementedError, IndexError, TypeError) as error:
        line = " ".join(str(error).split())
        if str(path) in line:
            raise
        raise ValueError(f"{path}: {line[:300]}") from None


def _check_size(path: Path, voxels: int) -> None:
    if voxels > MOST_VOXELS:
        raise ValueError(f"{path} says it has {voxels:,} voxels: up to {MOST_VOXELS:,} are read")


def _fits(values: Any) -> bool:
    return bool(np.abs(values).max(initial=0) < 2**15 and np.array_equal(values, np.rint(values)))
