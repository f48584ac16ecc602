"""Which pictures folders hold, and which two belong together. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lorgnette.images.formats.table import BY_SUFFIX, READABLE

SUFFIXES = READABLE
"""Of the picture files that are read; those that are written are fewer (`lorgnette.images.formats.table`)."""

Folders = list[str] | str | os.PathLike[str]
"""One folder or several."""
Item = tuple[Path | None, Path]
"""A degraded image and the clean one; None where no file holds the degraded one and it is made from the clean one."""

# What published data sets add to a name: 0801x4, baby_LR_x4, img_001_SRF_4_LR, Canon_001_LR4, woman_GT, ...
_MARK = re.compile(r"([ _-]*(SRF[_-]?\d+|LRBI|LR|HR|GT|[x×]\d+(\.\d+)?|(?<=LR)\d+|(?<=HR)\d+))+$", re.IGNORECASE)


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files in a folder and its subfolders, sorted by path; hidden ones are left out.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: `folder` is a file.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"{folder} is a file: give the folder that holds the images")
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not found:
        raise FileNotFoundError(f"no images in {folder} (looked for {', '.join(SUFFIXES)}, in subfolders too)")
    return found


def written_as(path: Path) -> Path:
    """The path of the result for a picture: the same where that format is written here, and a PNG otherwise."""
    format = BY_SUFFIX.get(path.suffix.lower())
    return path if format is not None and format.is_written_here else path.with_suffix(".png")


def pair_images(lr_folder: str | os.PathLike[str], hr_folder: str | os.PathLike[str]) -> list[tuple[Path, Path]]:
    """Match low- and high-resolution files by name: `(lr, hr)` pairs, sorted by the high-resolution path.

    Files match when their paths inside the two folders agree without the suffix; or else when they agree
    after marks such as `x4`, `_LR`, `_LR_x4`, `_SRF_4_HR` are taken off the names.

    Raises:
        FileNotFoundError: A folder is missing or holds no image.
        ValueError: A file has no partner, or more than one.
    """
    lr_files, hr_files = find_images(lr_folder), find_images(hr_folder)
    lr, hr = _by_name(lr_files, lr_folder, str), _by_name(hr_files, hr_folder, str)
    if lr.keys() != hr.keys():
        lr, hr = _by_name(lr_files, lr_folder, _without_mark), _by_name(hr_files, hr_folder, _without_mark)
    if lr.keys() != hr.keys():
        alone = [lr[name] for name in lr.keys() - hr.keys()] + [hr[name] for name in hr.keys() - lr.keys()]
        raise ValueError(
            f"{len(alone)} images in {lr_folder} and {hr_folder} have no partner of the same name, for "
            f"example {_examples(alone)}: give both the same name (0001.png and 0001.png, "
            f"or 0001x4.png and 0001.png)"
        )
    return sorted(((lr[name], hr[name]) for name in lr), key=lambda pair: pair[1])


def folders(setting: Folders | None) -> list[str]:
    """The folders of a setting that takes one, several or none."""
    return [os.fspath(setting)] if isinstance(setting, str | os.PathLike) else list(setting or ())


def check_as_many(data: object, *pairs: tuple[str, str]) -> None:
    """A ValueError where settings of degraded and clean images, by their names, name folders in different numbers."""
    for degraded, clean in pairs:
        counts = [len(folders(getattr(data, name))) for name in (degraded, clean)]
        if counts[0] and counts[0] != counts[1]:
            raise ValueError(f"data.{degraded}: {counts[0]} folders for {counts[1]} in data.{clean}: give as many")


def find_items(
    clean: Folders,
    degraded: Folders | None = None,
    pair: Callable[[str, str], Iterable[tuple[Path, Path]]] = pair_images,
) -> list[Item]:
    """All images of folders, each with its degraded version if there are folders of those (as many as clean ones).

    `pair` matches the files of a degraded and a clean folder. Errors are those of `find_images` and `pair`.
    """
    if degraded is None:
        return [(None, file) for folder in folders(clean) for file in find_images(folder)]
    return [item for both in zip(folders(degraded), folders(clean), strict=True) for item in pair(*both)]


def origins(files: Sequence[Path], folders: Sequence[str]) -> list[str] | None:
    """The folder that each file is from, by a short name; None where there is one folder only."""
    if len(folders) < 2:
        return None
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names, start=1)]
    places = sorted(zip(map(Path, folders), names, strict=True), key=lambda place: -len(place[0].parts))
    return [next(name for folder, name in places if file.is_relative_to(folder)) for file in files]


def _by_name(files: Iterable[Path], folder: str | os.PathLike[str], clean) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in files:
        key = clean(path.relative_to(folder).with_suffix("").as_posix())
        if key in named:
            raise ValueError(f"{named[key]} and {path} bear the same name: keep one, or use two folders")
        named[key] = path
    return named


def _without_mark(name: str) -> str:
    parent, _, stem = name.rpartition("/")
    return f"{parent}/{_MARK.sub('', stem) or stem}"


def _examples(paths: list[Path], most: int = 3) -> str:
    return ", ".join(str(path) for path in sorted(paths)[:most])
