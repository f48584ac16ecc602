"""The models of a worker: each base once, with its adapters beside it, of which one is put on for a job."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from torch import nn

from lorgnette.checkpoint import load, load_recipe
from lorgnette.common.devices import to_device
from lorgnette.common.identity import lasting_identity
from lorgnette.enhancing.enhancer import AUTO, NONE, Enhancer, One, chosen
from lorgnette.images.choosing import BASE
from lorgnette.lora.several.named import add_adapter, remove_adapter, set_adapter
from lorgnette.recipe import build
from lorgnette.shipped import adapter_path, load_shipped
from lorgnette.systems import room, rooms_with
from lorgnette.train.task import Task
from lorgnette.web.offered import Offer, offer, offers
from lorgnette.web.settings import Limits

HUNG = 24
"""How many adapters and models are kept; those that were not used for longest go."""


class Hung(NamedTuple):
    """A task that is there to be used."""

    task: Task
    shared: bool = True
    """Whether its model may wear other adapters."""
    adapter: str | None = None
    """What its model wears for it."""


class Wardrobe:
    """Bases and adapters, loaded when they are first wanted.

    Args:
        device: as for `lorgnette.common.devices.to_device`.
        folders: of adapters that are offered.
        limits: of the server.
    """

    def __init__(self, device: str, folders: list[Path], limits: Limits):
        self.device, self.folders, self.limits = device, folders, limits
        self._hung: OrderedDict[str, Hung] = OrderedDict()
        self._models: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()  # by what each is without adapters

    def enhancer(self, adapter: str, of: str | None) -> Enhancer:
        """What enhances pictures, as `lorgnette.enhancing.enhancer.enhancer`; of folders only those that are offered.

        Raises:
            ValueError: there is no such adapter or room, in one line.
        """
        home = of or rooms_with("enhance")[0]
        if home not in rooms_with("enhance"):
            raise ValueError(f"room: {home} does not enhance images; {', '.join(rooms_with('enhance'))} do")
        if adapter == AUTO and room(home).ABOUT.shipped:
            return chosen(home, self.device, lambda home, name: self.task(Offer(name, home)))
        if adapter in (AUTO, NONE):
            return One(home, self.task(Offer(BASE, home)))
        found = self.offer(adapter, of, "enhance")
        return One(found.room, self.task(found))

    def offer(self, name: str, of: str | None, verb: str) -> Offer:
        """What is offered under a name, for a verb."""
        return offer(name, of, offers(self.folders), verb)

    def task(self, offer: Offer) -> Task:
        """The task with that adapter on; the one before is taken off."""
        bare = offer.folder is None and offer.name == BASE
        folder = None if bare else offer.folder or adapter_path(offer.room, offer.name)
        key = offer.room if folder is None else _stamp(folder)
        if key not in self._hung:
            self._hung[key] = self._hang(key, offer, folder)
            while len(self._hung) > HUNG:
                name, old = self._hung.popitem(last=False)
                if old.adapter is not None:
                    remove_adapter(old.task.model, name)
        self._hung.move_to_end(key)
        task, shared, adapter = self._hung[key]
        if shared:
            set_adapter(task.model, adapter)
        if offer.folder is None:
            task = task.float()  # as `load_shipped`: what ships is kept in half precision
        return self.placed(task)

    def _hang(self, key: str, offer: Offer, folder: Path | None) -> Hung:
        """Load a task; of two bases that are the same, one stays."""
        if folder is None:
            return Hung(self._over_one_base(load_shipped(offer.room)))
        recipe: Any = load_recipe(folder)
        if recipe.lora is None:
            return Hung(self._over_one_base(load(folder)))
        task = self._over_one_base(build(replace(recipe, lora=None)))
        try:
            add_adapter(task.model, key, folder)
        except ValueError:  # it trains tensors of the base too, or does not fit: `load` says so
            return Hung(load(folder), shared=False)
        return Hung(task, adapter=key)

    def placed(self, task: Task) -> Task:
        """A task on the device."""
        return to_device(task, self.device)

    def _over_one_base(self, task: Task) -> Task:
        model = self.placed(task).model
        task.model = self._models.setdefault(lasting_identity(model), model)
        return task


def _stamp(folder: Path) -> str:
    """Another one where the folder was written again."""
    return f"{folder} {max((file.stat().st_mtime_ns for file in folder.iterdir()), default=0)}"
