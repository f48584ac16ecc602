"""Which classes there are: those of a preset, those that are named, or those of subfolders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorgnette.images.folders import SUFFIXES, folders
from lorgnette.systems.clip import glyphs
from lorgnette.systems.clip.names import check_different, class_key, spoken
from lorgnette.systems.clip.recipe import Data

PRESET_CLASSES = {"digits": glyphs.DIGITS, "shapes": glyphs.SHAPES, "glyphs": glyphs.THINGS}


def class_names(data: Data) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers; none where nothing tells them.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it has no subfolders, or the names do not suit the preset.
    """
    if data.preset:
        own = PRESET_CLASSES[data.preset]
        if data.classes and len(data.classes) != len(own):
            raise ValueError(f"data.classes: {data.preset} has {len(own)} classes, not {len(data.classes)}")
        return data.classes or own
    if data.classes or data.root is None:
        return data.classes
    found: dict[str, Path] = {}
    for root in map(Path, folders(data.root)):
        if not root.is_dir():
            raise FileNotFoundError(f"data.root: no such folder: {root}")
        own = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
        check_different(map(str, own), lambda path: Path(path).name, "data.root: the folders")
        _ask_whether_classes(root, own)
        found = {spoken(f.name): f for f in own} | found
    check_different(map(str, found.values()), lambda path: Path(path).name, "data.root: the folders")
    if len(found) < 2:
        raise ValueError(
            f"data.root: {data.root} has {len(found)} subfolders; one for each class is needed, two at least"
        )
    return tuple(sorted(found))


def _ask_whether_classes(root: Path, own: Sequence[Path]) -> None:
    """Refuse subfolders that hold folders of folders only: rather sites, or the parts of a set, than classes."""
    inner = {folder: [entry for entry in folder.iterdir() if not entry.name.startswith(".")] for folder in own}
    if any(entry.suffix.lower() in SUFFIXES for entries in inner.values() for entry in entries):
        return
    below = sorted({class_key(entry.name) for entries in inner.values() for entry in entries if entry.is_dir()})
    if len(own) > 1 and len(below) > 1:
        names, paths = " ".join(folder.name for folder in own), " ".join(map(str, own))
        raise ValueError(
            f"data.root: the subfolders of {root} hold no images but subfolders ({shown(below)}). Where {shown(below)}"
            f" are the classes, give --data.root {paths} (in a federation, one for each site) or one of these; where"
            f" {shown([folder.name for folder in own])} are, give --data.classes {names}"
        )


def shown(names: Sequence[str], most: int = 8) -> str:
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])
