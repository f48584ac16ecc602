"""The table of contents: every room, imported on demand."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from lorgnette.common.files import nearest

ROOMS: dict[str, str] = {
    "superres": "lorgnette.systems.superres",
    "restore": "lorgnette.systems.restore",
    "clip": "lorgnette.systems.clip",
}


def room(name: str) -> ModuleType:
    """The room of that name; a one-line ValueError where there is none."""
    if name not in ROOMS:
        raise ValueError(f"there is no room {name!r}{nearest(name, ROOMS)}; there is {', '.join(ROOMS)}")
    return import_module(ROOMS[name])


def room_name(recipe: Any) -> str:
    """The room that a recipe belongs to: the folder its class lives in."""
    module = type(recipe).__module__
    for name, package in ROOMS.items():
        if module.startswith(package + "."):
            return name
    raise ValueError(f"{type(recipe).__qualname__} is no recipe of {', '.join(ROOMS)}")


def room_of(recipe: Any) -> ModuleType:
    """The room that a recipe belongs to."""
    return room(room_name(recipe))
