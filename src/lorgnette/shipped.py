"""The adapters that ship with the rooms, by name or chosen for a picture by looking at it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.common.hub import is_hub
from lorgnette.common.text import nearest
from lorgnette.images.choosing import BASE, Choice, Judge
from lorgnette.systems import ROOMS, room

if TYPE_CHECKING:
    from lorgnette.images.file import Image
    from lorgnette.train.task import Task

JUDGE_FILE = "judge.safetensors"


def rooms_with_adapter(name: str) -> list[str]:
    """The names of the rooms with whose adapters that one ships."""
    return [of for of in ROOMS if name in room(of).ABOUT.shipped]


def adapter_path(of: str, name: str) -> Path:
    """The folder of an adapter that ships with a room.

    Raises:
        ValueError: there is none of that name, in one line.
    """
    if name not in room(of).ABOUT.shipped:
        there = ", ".join(room(of).ABOUT.shipped) or "none"
        raise ValueError(
            f"the room {of} ships no adapter {name!r}{nearest(name, room(of).ABOUT.shipped)}; there is {there}"
        )
    return _folder(of) / name


def named_folder(word: str, of: Collection[str] = tuple(ROOMS)) -> Path:
    """The folder that a user means by a word: of an adapter, a whole model or a run.

    Args:
        word: a folder, `hub:user/name@revision`, or, where there is no such folder, the NAME or ROOM/NAME of an adapter
            that ships.
        of: the rooms whose adapters are meant.

    Raises:
        ValueError: nothing has that name, several rooms have it, or the hub cannot give it; in one line. Of a path with
            a slash that is not there, whoever reads it says so.
    """
    from lorgnette.lora import adapter_folder

    place, _, name = word.rpartition("/")
    homes = [home for home in rooms_with_adapter(name) if home in of and place in ("", home)]
    if Path(word).exists() or is_hub(word) or (place and not homes):
        return adapter_folder(word)
    if len(homes) > 1:
        raise ValueError(
            f"{word} ships with {len(homes)} rooms; give {' or '.join(f'{home}/{name}' for home in homes)}"
        )
    if not homes:
        names = list(dict.fromkeys(name for home in of for name in room(home).ABOUT.shipped))
        raise ValueError(f"no such folder: {word}{nearest(word, names)}; {', '.join(names)} ship")
    return adapter_path(homes[0], name)


def load_shipped(of: str, name: str = BASE) -> Task:
    """The task of a room with an adapter that ships, or without one (`base`), in eval mode on the CPU."""
    from lorgnette.checkpoint import load
    from lorgnette.recipe import build

    if name == BASE:
        recipe: Any = room(of).Recipe()
        return build(replace(recipe, lora=None))
    return load(adapter_path(of, name)).float()


class Chooser:
    """Chooses for each picture which network of a room enhances it, if any; networks are loaded when they are needed.

    Args:
        of: the room's name.
        device: as for `lorgnette.common.devices.to_device`.
        task: gives the task of `base` or of an adapter; unset: each is loaded once, and kept.
    """

    def __init__(self, of: str, device: str = "auto", task: Callable[[str], Task] | None = None):
        self.of, self.device = of, device
        self._judge = Judge(_folder(of) / JUDGE_FILE, room(of).ABOUT.for_grey, room(of).ABOUT.least)
        self._tasks: dict[str, Task] = {}
        self.task = task or self._loaded
        """The task of `base` or of an adapter."""

    def choose(self, pixels: Any, scale: float | None = None) -> Choice:
        """What suits a picture, (H, W, 3) in [0, 1], that is to be enlarged by `scale` (unset: as the room does)."""
        return self._judge(pixels, room(self.of).ABOUT.usual_scale if scale is None else scale)

    def _loaded(self, name: str) -> Task:
        from lorgnette.common.devices import to_device

        if name not in self._tasks:
            self._tasks[name] = to_device(load_shipped(self.of, name), self.device)
        return self._tasks[name]

    def enhance(self, image: Any, **settings: Any) -> tuple[Any, Choice]:
        """A picture (`lorgnette.images.file.Image`) enhanced by what suits it, and what that was.

        Settings are those of the room's `enhance`. Counts are worked on in their own range, and an `ImageWarning` says
        so; `lorgnette.images.ranges.in_range` sets another.
        """
        from lorgnette.images.ranges import in_own_range

        choices = []

        def work(own: Image) -> Image:
            choices.append(self.choose(own.pixels, scale_of(own.pixels.shape, settings)))
            return self.enhance_by(choices[0], own, **settings)

        return in_own_range(image, work), choices[0]

    def enhance_by(self, choice: Choice, image: Any, **settings: Any) -> Any:
        """The picture enhanced by what was chosen for it."""
        home: Any = room(self.of)
        if choice.network is None:
            return home.plain(image, settings.get("scale"), settings.get("size"))
        return home.enhance(self.task(choice.network), image, **settings)


def scale_of(shape: tuple[int, ...], settings: dict[str, Any]) -> float | None:
    """The factor that settings of `enhance` mean for a picture of that shape; None where they say none."""
    if settings.get("size") is not None:
        return math.sqrt(settings["size"][0] / shape[0] * settings["size"][1] / shape[1])
    scale = settings.get("scale")
    return math.sqrt(math.prod(scale)) if isinstance(scale, tuple) else scale


def _folder(of: str) -> Path:
    file = import_module(ROOMS[of]).__file__
    assert file is not None, "a room is a folder"
    return Path(file).parent / "adapters"
