"""One way in for everything that holds a mask or a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorgnette.common.files import read_json, read_small
from lorgnette.common.text import is_number, nearest
from lorgnette.systems.mesh.volumes.labels import MOST_VOXELS, Labels, Volume, organs_of, whole_numbers
from lorgnette.systems.mesh.volumes.nifti import is_nifti, read_nifti, read_nifti_labels, stem
from lorgnette.systems.mesh.volumes.totalsegmentator import mask_files, read_masks


def read_image(path: Path) -> Volume:
    """A CT or MR: a NIfTI file, or a folder with one DICOM series.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is not to be read; the line says why.
    """
    if is_nifti(path):
        return read_nifti(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    from lorgnette.systems.mesh.volumes.dicom import read_series

    return read_series(path)


def read_labels(
    path: Path,
    names: Path | None = None,
    only: Sequence[str] = (),
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
    most: int = MOST_VOXELS,
) -> Labels:
    """The organs of a mask.

    Args:
        path: a NIfTI file of labels (names are read from its header), a folder of masks, or a DICOM segmentation.
        names: a file of names, which win: JSON ({"1": "liver"}, {"liver": 1} or nnU-Net's dataset.json), or lines of
            a number and a name.
        only: names or numbers of the organs that are wanted; all if empty.
        progress: what files of a folder are gone through with.
        most: voxels of a NIfTI file; one that says it has more is refused before memory is taken.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is not to be read, holds nothing, or one of `only` is not there.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    given = read_names(names) if names else {}
    if path.is_dir() and (files := mask_files(path)):
        wanted = [file for file in files if stem(file) in only]
        labels = read_masks(wanted if len(wanted) == len(set(only)) > 0 else files, progress)
    elif is_nifti(path):
        volume, own, colors = read_nifti_labels(path, most)
        values = whole_numbers(volume, path)
        organs = organs_of(values, own | given, path, colors)
        if given and (unknown := [organ.value for organ in organs if organ.value not in own | given]):
            raise ValueError(f"--names: {path.name} holds the labels {unknown}, of which {names} says nothing")
        if len(organs) == 1 and not own and not given:
            organs = (replace(organs[0], name=stem(path)),)
        labels = Labels(organs, values.shape, volume.affine, volume.notes)
    else:
        from lorgnette.systems.mesh.volumes.dicom import read_segmentation

        labels = read_segmentation(path)
    return _only(labels, only) if only else labels


def _only(labels: Labels, only: Sequence[str]) -> Labels:
    by_name = {organ.name: organ for organ in labels.organs} | {str(organ.value): organ for organ in labels.organs}
    for word in only:
        if word not in by_name:
            there = [organ.name for organ in labels.organs]
            raise ValueError(f"--only: there is no {word!r}{nearest(word, there)}; there is {', '.join(there)[:400]}")
    return replace(labels, organs=tuple(dict.fromkeys(by_name[word] for word in only)))


def _pair(key: str, value: Any) -> tuple[int, str]:
    if key.isdecimal():
        if not isinstance(value, str):
            raise TypeError
        return int(key), value
    return int(value), key


def read_names(path: Path) -> dict[int, str]:
    """Names of labels from a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither JSON of names nor lines of a number and a name.
    """
    if path.suffix.lower() == ".json":
        table = read_json(path)
        table = table.get("labels", table) if isinstance(table, dict) else None
        try:
            pairs = [_pair(k, v) for k, v in table.items()]  # type: ignore[union-attr]
        except (AttributeError, TypeError, ValueError):
            raise ValueError(
                f'{path}: names such as {{"1": "liver"}} are expected, found {json.dumps(table)[:80]}'
            ) from None
        return dict(pairs)
    found = {}
    text = read_small(path, 2**24).decode("utf-8-sig", "replace")
    for line in text.splitlines():
        mark = next((mark for mark in ",;" if mark in line), " ")
        words = next(csv.reader([line], delimiter=mark, skipinitialspace=True), [])
        words = [word.strip() for word in words if word.strip()]
        # ITK-SNAP has seven numbers before the name, Slicer's colour tables have four after it
        text = [word for word in words[1:] if not is_number(word)]
        if text and words[0].isdecimal():
            found[int(words[0])] = " ".join(text) if mark == " " else text[0]
    if not found:
        raise ValueError(f"{path} has no line of a number and a name, such as: 1 liver")
    return found
