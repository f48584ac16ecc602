"""Which adapters a server offers: those that ship, and those in its folders, by name. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lorgnette.common.text import nearest
from lorgnette.enhancing.enhancer import AUTO, NONE
from lorgnette.lora.files.commit import current_file
from lorgnette.settings import read_yaml
from lorgnette.systems import ROOMS, room


@dataclass(frozen=True)
class Offer:
    """An adapter, or a whole model."""

    name: str
    room: str
    folder: Path | None = None
    """None: it ships."""


def offers(folders: Iterable[Path]) -> list[Offer]:
    """All that is offered: what ships first. A folder that is no adapter is passed over.

    Args:
        folders: each holds folders of adapters, whole models or runs.
    """
    found = [Offer(name, of) for of in ROOMS for name in room(of).ABOUT.shipped]
    for folder in folders:
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            home = next((place for place in (entry, entry / "adapter") if _recipe(place).is_file()), None)
            if home is None or entry.name in (AUTO, NONE) or entry.name.startswith("."):
                continue
            try:
                of = str(read_yaml(_recipe(home)).get("room"))
            except (ValueError, OSError):
                continue
            if of in ROOMS:
                found.append(Offer(entry.name, of, home))
    return found


def offer(name: str, of: str | None, all: Iterable[Offer], verb: str) -> Offer:
    """The one that is meant by a name: of that room, or of the first that has the verb.

    Raises:
        ValueError: there is none, in one line.
    """
    able = [one for one in all if verb in room(one.room).ABOUT.verbs and of in (None, one.room)]
    for one in sorted(able, key=lambda one: one.folder is None):  # one's own before what ships
        if one.name == name:
            return one
    names = list(dict.fromkeys(one.name for one in able))
    raise ValueError(f"adapter: there is no {name!r}{nearest(name, names)}; there is {', '.join(names) or 'none'}")


def _recipe(folder: Path) -> Path:
    return current_file(folder, "recipe.yaml") if folder.is_dir() else folder / "recipe.yaml"
