"""Several adapters of one model, by name.

The active adapter is the one that the layers carry; the others lie aside. An adapter that lies aside is one `LowRank`
for each place, which holds what the layer would: switching moves parameters, and nothing else has to know of names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from lorgnette.common.files import read_json
from lorgnette.common.text import nearest
from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.files.adapter import load_adapter, save_adapter
from lorgnette.lora.files.commit import PEFT_CONFIG, adapter_folder, adapter_info, current_file
from lorgnette.lora.files.fingerprint import Fingerprint, fingerprint
from lorgnette.lora.layers.base import LowRank, adapted_layers, is_adapted
from lorgnette.lora.layers.part import parts_of
from lorgnette.lora.state import trained_tensors
from lorgnette.lora.surgery import Places, inject_lora, put_in, take_out
from lorgnette.lora.wrappers import on_unwrapped

FIRST = "default"
"""Name of the adapter that a model had before it was given a second."""
_SHELF = "_lora_shelf"


class NamedAdapter(NamedTuple):
    """One of several adapters."""

    active: bool
    """Whether the model uses it."""
    layers: int
    """How many places it adapts."""
    parameters: int
    """Its scalars; each shared parameter counts once."""


@dataclass
class Shelf:
    """Which adapters a model has."""

    active: str | None = None
    aside: dict[str, Places] = field(default_factory=dict)
    aligned: bool = False


@on_unwrapped
def adapters(model: nn.Module) -> dict[str, NamedAdapter]:
    """The adapters of a model by name; one that was never named is called 'default'."""
    shelf = shelf_of(model)
    found = {}
    for name, places in all_adapters(model).items():
        scalars = {id(p): p.numel() for adapter in places.values() for p in adapter.lora_tensors.values()}
        found[name] = NamedAdapter(name == shelf.active, len(places), sum(scalars.values()))
    return found


@on_unwrapped
def add_adapter(model: nn.Module, name: str, source: LoRAConfig | str | os.PathLike[str]) -> None:
    """Add an adapter. The active one stays active; where there is none, the new one becomes it.

    Each adapter may have layers, ranks and methods of its own. To train it, make it active and give the optimiser
    `get_lora_params(model)` then: the parameters of an adapter stay the same objects while others are active.

    Args:
        model: with or without adapters.
        name: of the new one.
        source: settings for a fresh one, or the folder of a saved one.

    Raises:
        FileNotFoundError: there is no adapter in the folder.
        ValueError: the name is taken, the settings or the folder do not fit, or base tensors are trained with an
            adapter (`modules_to_save`, biases), of which there is only one. Nothing was changed.
    """
    shelf = shelf_of(model)
    check_new("add_adapter", name, model)
    before = shelf.active
    active = take_out(model)
    try:
        if isinstance(source, LoRAConfig):
            if source.modules_to_save or source.bias != "none":
                setting = "modules_to_save" if source.modules_to_save else "bias"
                raise ValueError(
                    f"add_adapter: lora.{setting} of {name!r} trains base tensors, which all adapters share"
                )
            inject_lora(model, source)
        else:
            _check_untrained("add_adapter", source)
            load_adapter(model, source)
        shelf.aside[name] = take_out(model)
    finally:
        put_in(model, active)
    shelf.aligned = False
    keep(model, shelf)
    if before is None:
        set_adapter(model, name)


@on_unwrapped
def set_adapter(model: nn.Module, name: str | None) -> None:
    """Make an adapter the active one, in place; None: the base alone.

    After `align_adapters` only values change, so that a compiled model is not compiled again.

    Raises:
        ValueError: there is no such adapter.
    """
    shelf = shelf_of(model)
    if name is not None:
        check_known("set_adapter", name, all_adapters(model))
    if name == shelf.active:
        return
    old = shelf.active
    if shelf.aligned and name is not None and old is not None and _fit(adapted_layers(model), shelf.aside[name]):
        places = shelf.aside.pop(name)
        _exchange(adapted_layers(model), places)
        shelf.aside[old] = places
    else:
        taken = take_out(model)
        if old is not None:
            shelf.aside[old] = taken
        put_in(model, shelf.aside.pop(name) if name is not None else {})
    for part in parts_of(model).values():  # of which there is one set, and so one adapter
        part.lora_enabled = name is not None
    shelf.active = name
    keep(model, shelf)


@on_unwrapped
def remove_adapter(model: nn.Module, name: str) -> None:
    """Forget an adapter; if it is the active one, the base is left alone.

    Raises:
        ValueError: there is no such adapter.
    """
    check_known("remove_adapter", name, all_adapters(model))
    if shelf_of(model).active == name:
        set_adapter(model, None)
    del shelf_of(model).aside[name]


@on_unwrapped
def save_adapters(model: nn.Module, folder: str | os.PathLike[str], *, base: Fingerprint | None = None) -> list[Path]:
    """Write each adapter into a folder of its own, as `save_adapter` does; the folders bear the adapters' names.

    Args:
        model: with adapters.
        folder: where the folders go.
        base: as for `save_adapter`.

    Returns:
        The folders, which `add_adapter` and `load_adapter` read.

    Raises:
        ValueError: the model has no adapter, or a name cannot be that of a folder.
    """
    names = list(all_adapters(model))
    if not names:
        raise ValueError(f"save_adapters: {type(model).__name__} has no adapter; add_adapter comes first")
    for name in names:
        if Path(name).name != name or name in ("..", ".") or "\\" in name:
            raise ValueError(f"save_adapters: {name!r} cannot be the name of a folder")
    base = base or fingerprint(model)
    active = shelf_of(model).active
    folders = []
    try:
        for name in names:
            set_adapter(model, name)
            folders.append(save_adapter(model, Path(folder) / name, base=base))
    finally:
        set_adapter(model, active)
    return folders


def all_adapters(model: nn.Module) -> dict[str, Places]:
    """Every adapter of a model, the active one first."""
    shelf = shelf_of(model)
    active = {} if shelf.active is None else {shelf.active: adapted_layers(model)}
    return active | shelf.aside  # type: ignore[return-value]


def keep(model: nn.Module, shelf: Shelf) -> None:
    """Have a model remember which adapters it has."""
    setattr(model, _SHELF, shelf)


def shelf_of(model: nn.Module) -> Shelf:
    """Which adapters a model has, at first only the one that it was injected with."""
    shelf = vars(model).get(_SHELF)
    if shelf is None:
        return Shelf(FIRST if is_adapted(model) else None)
    if (shelf.active is not None) != is_adapted(model):
        what = f"{shelf.active!r} was merged or taken out" if shelf.active else "layers were adapted"
        raise ValueError(f"adapters: {what} without set_adapter or add_adapter, which keep track of several adapters")
    return shelf


def check_known(caller: str, name: str, known: Mapping[str, Places]) -> None:
    """Refuse a name that no adapter bears."""
    if name not in known:
        there = ", ".join(map(repr, known)) or "none"
        raise ValueError(f"{caller}: there is no adapter {name!r}{nearest(str(name), known)}; there is {there}")


def check_new(caller: str, name: object, model: nn.Module) -> None:
    """Refuse what cannot be the name of a further adapter, and a model that cannot have one."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"{caller}: {name!r} is not a name; 'night' is one")
    if name in all_adapters(model):
        raise ValueError(f"{caller}: there is an adapter {name!r} already; remove_adapter comes first")
    if is_adapted(model) and (trained := trained_tensors(model)):
        raise ValueError(f"{caller}: {next(iter(trained))!r} of the base is trained, and all adapters share it")


def _check_untrained(caller: str, folder: str | os.PathLike[str]) -> None:
    folder = adapter_folder(folder)
    manifest = adapter_info(folder)
    trained = manifest.get("trained")
    if not manifest:
        config = read_json(current_file(folder, PEFT_CONFIG))
        bias = config.get("bias", "none")
        trained = config.get("modules_to_save") or ([f"bias: {bias}"] if bias != "none" else [])
    if trained:
        raise ValueError(
            f"{caller}: the adapter in {folder} trains {trained[0]!r} of the base, which all adapters share"
        )


def _fit(here: Mapping[str, LowRank], there: Places) -> bool:
    # They do not any more where the active one was given another rank.
    return all(adapter.r == there[name].r for name, adapter in here.items())


@torch.no_grad()
def _exchange(here: Mapping[str, LowRank], there: Places) -> None:
    for name, adapter in here.items():
        for mine, other in ((adapter.lora_A, there[name].lora_A), (adapter.lora_B, there[name].lora_B)):
            kept = mine.clone()
            mine.copy_(other)
            other.copy_(kept)
