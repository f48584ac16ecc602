"""What every recipe shares: how a task is built from it, and how it is written as plain containers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorgnette.systems.protocol import RoomRecipe
    from lorgnette.train.task import Task

FORMAT_VERSION = 1


def build(recipe: RoomRecipe) -> Task:
    """The task of a room's recipe: network, base weights and adapters, seeded by `recipe.train.seed`.

    Args:
        recipe: a `Recipe` of any room.

    Returns:
        A `Task` on the CPU, in eval mode; only what the recipe adapts requires gradients.

    Raises:
        ValueError: a setting that does not fit the model, in one line.
        FileNotFoundError: base weights that are not there.
    """
    import torch

    from lorgnette import lora
    from lorgnette.systems import room_of

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        task = room_of(recipe).make_task(recipe)
        if recipe.lora is not None:
            lora.inject_lora(task.model, recipe.lora)
    return task.eval()


def recipe_to_dict(recipe: RoomRecipe) -> dict[str, Any]:
    """A recipe as plain containers, with the name of its room and a format version."""
    from lorgnette.systems import room_name

    return {"format_version": FORMAT_VERSION, "room": room_name(recipe)} | _plain(asdict(recipe))


def recipe_from_dict(saved: Mapping[str, Any], source: str = "the recipe") -> Any:
    """The recipe of `recipe_to_dict`; settings that are not there keep their defaults.

    Raises:
        ValueError: an unknown room, version, setting or value, in one line.
    """
    from lorgnette.settings import from_mapping, make_recipe
    from lorgnette.systems import room

    if saved.get("format_version") != FORMAT_VERSION:
        found = saved.get("format_version")
        raise ValueError(f"{source}: format_version is {found!r}; this program reads {FORMAT_VERSION}")
    settings = {key: value for key, value in saved.items() if key not in ("format_version", "room")}
    recipe_class = room(str(saved.get("room"))).Recipe
    return make_recipe(recipe_class, from_mapping(recipe_class, settings, source))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
