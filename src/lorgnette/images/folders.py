"""Which pictures folders hold, and which two belong together. Imports no torch."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lorgnette.images.formats.table import BY_SUFFIX, READABLE

SUFFIXES = READABLE
"""Of the picture files that are read; those that are written are fewer (`lorgnette.images.formats.table`)."""

OTHER_PICTURES = (".gif", ".heic", ".heif", ".avif", ".jxl", ".jfif", ".jp2", ".psd", ".exr", ".tga", ".ppm", ".pgm")
OTHER_PICTURES += (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dcm", ".ico", ".svg")
"""Of pictures that may be wanted and not be read: who has some is told."""
OWN = ".lorgnette"
"""What names of files begin with that this program keeps for itself."""

Folders = list[str] | str | os.PathLike[str]
"""One folder or several."""
Item = tuple[Path | None, Path]
"""A degraded image and the clean one; None where no file holds the degraded one and it is made from the clean one."""

# What published data sets add to a name: 0801x4, baby_LR_x4, img_001_SRF_4_LR, Canon_001_LR4, woman_GT, ...
_MARK = re.compile(r"([ _-]*(SRF[_-]?\d+|LRBI|LR|HR|GT|[x×]\d+(\.\d+)?|(?<=LR)\d+|(?<=HR)\d+))+$", re.IGNORECASE)


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files in a folder and its subfolders, sorted by path; hidden ones are left out.

    Warns:
        PassedOver: of pictures that cannot be read, and of links to folders.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: `folder` is a file.
    """
    found = walk(folder)
    unread = [path for path in found.others if path.suffix.lower() in OTHER_PICTURES]
    said = told({"that cannot be read": unread, "behind links to folders": found.linked}, folder)
    if not found.images:
        looked = f"looked for {', '.join(SUFFIXES)}, in subfolders too"
        raise FileNotFoundError(f"no images in {folder} ({looked}){f'; {said}' if said else ''}")
    if said:
        warnings.warn(PassedOver(said), stacklevel=2)
    return found.images


class PassedOver(UserWarning):
    """Pictures of a folder that are left out."""


class Walk(NamedTuple):
    """What a folder and its subfolders hold, each sorted by path."""

    images: list[Path]
    others: list[Path]
    """Files that are no pictures by their suffix, and links to nothing."""
    hidden: list[Path]
    """Files and folders whose names begin with a dot."""
    linked: list[Path]
    """Links to folders: they are not followed, as they may lead in circles."""


def walk(folder: str | os.PathLike[str], apart: Path | None = None) -> Walk:
    """Look through a folder and its subfolders, all but the folder `apart`. Our own hidden files do not count.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: `folder` is a file, or a folder in it may not be read.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"{folder} is a file: give the folder that holds the images")
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    found, away = Walk([], [], [], []), apart and apart.resolve()
    for place, subfolders, files in os.walk(folder, onerror=_refuse):
        inside = Path(place)
        for name in list(subfolders):
            path = inside / name
            if name.startswith("."):
                found.hidden.append(path)
            elif path.is_symlink():
                found.linked.append(path)
            elif path.resolve() != away:
                continue
            subfolders.remove(name)
        for path in (inside / name for name in files if not name.startswith(OWN)):
            is_image = path.suffix.lower() in SUFFIXES and path.is_file()
            kind = found.hidden if path.name.startswith(".") else found.images if is_image else found.others
            kind.append(path)
    return Walk(*map(sorted, found))


def told(passed_over: Mapping[str, Sequence[Path]], folder: str | os.PathLike[str], most: int = 3) -> str:
    """'passed over in photos: 2 hidden (a, b), 1 linked', naming a few of each kind; empty for none."""
    kinds = []
    for kind, paths in passed_over.items():
        names = [path.relative_to(folder).as_posix() for path in paths[:most]]
        names += ["..."] if len(paths) > most else []
        kinds += [f"{len(paths)} {kind} ({', '.join(names)})"] if paths else []
    return f"passed over in {folder}: {', '.join(kinds)}" if kinds else ""


def _refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename} cannot be looked through: {error.strerror}")


def written_as(path: Path) -> Path:
    """The path of the result for a picture: the same where that format is written here, and a PNG otherwise."""
    format = BY_SUFFIX.get(path.suffix.lower())
    return path if format is not None and format.is_written_here else path.with_suffix(".png")


def in_order(path: Path) -> list[tuple[int, str]]:
    """Sorts the files of a folder by the numbers in their names: 2.png comes before 10.png."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


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


def by_folder(files: Sequence[Path], folders: Sequence[str]) -> dict[str, list[int]] | None:
    """The places in the list of the files from each folder, by its short name; None where there is one folder only."""
    if len(folders) < 2:
        return None
    names = [Path(folder).resolve().name for folder in folders]
    if len({name.casefold() for name in names}) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names, start=1)]
    deepest = sorted(zip(map(Path, folders), names, strict=True), key=lambda pair: -len(pair[0].parts))
    found: dict[str, list[int]] = {name: [] for name in names}
    for place, file in enumerate(files):
        found[next(name for folder, name in deepest if file.is_relative_to(folder))].append(place)
    return found


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
