"""The table of contents: every room, imported on demand."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from lorgnette.common.text import nearest

if TYPE_CHECKING:
    from lorgnette.systems.protocol import AnyRoom, OptionFiles, Prepares, RoomRecipe

ROOMS: dict[str, str] = {
    "superres": "lorgnette.systems.superres",
    "restore": "lorgnette.systems.restore",
    "clip": "lorgnette.systems.clip",
    "mesh": "lorgnette.systems.mesh",
    "faceview": "lorgnette.systems.faceview",
}


def room(name: str) -> AnyRoom:
    """The room of that name; a one-line ValueError where there is none."""
    if name not in ROOMS:
        raise ValueError(f"there is no room {name!r}{nearest(name, ROOMS)}; there is {', '.join(ROOMS)}")
    return cast("AnyRoom", import_module(ROOMS[name]))


def room_name(recipe: object) -> str:
    """The room that a recipe belongs to: the folder its class lives in."""
    module = type(recipe).__module__
    for name, package in ROOMS.items():
        if module.startswith(package + "."):
            return name
    raise ValueError(f"{type(recipe).__qualname__} is no recipe of {', '.join(ROOMS)}")


def room_of(recipe: object) -> AnyRoom:
    """The room that a recipe belongs to."""
    return room(room_name(recipe))


def rooms_with(verb: str) -> list[str]:
    """The names of the rooms whose trained models are used by that verb; the first is meant where none is named."""
    return [name for name in ROOMS if verb in room(name).ABOUT.verbs]


def verb_of(name: str, verb: str) -> Any:
    """The function by which a room's trained model is used.

    Raises:
        ValueError: the room does not offer that.
    """
    home = room(name)
    if verb not in home.ABOUT.verbs:
        raise ValueError(f"the room {name} has no {verb!r}; {', '.join(rooms_with(verb))} has")
    return getattr(home, verb)


def with_option_files() -> list[str]:
    """The names of the rooms that read option files of their original programs."""
    return [name for name in ROOMS if room(name).ABOUT.option_files]


def option_files(name: str) -> OptionFiles[RoomRecipe]:
    """The room of that name as a reader of option files.

    Raises:
        ValueError: it reads none.
    """
    if not room(name).ABOUT.option_files:
        raise ValueError(f"the room {name} knows no option files; --config takes a YAML file of settings")
    return cast("OptionFiles[RoomRecipe]", room(name))


def with_preparation() -> list[str]:
    """The names of the rooms whose data can be prepared."""
    return [name for name in ROOMS if room(name).ABOUT.prepares]


def preparing(name: str) -> Prepares:
    """The room of that name as one that prepares its data.

    Raises:
        ValueError: it does not, or there is no such room.
    """
    if not room(name).ABOUT.prepares:
        raise ValueError(f"the room {name} has nothing to prepare; {', '.join(with_preparation())} has")
    return cast("Prepares", room(name))
