"""What of a folder is shared: checked, without this machine's paths, with a card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lorgnette.checkpoint import RECIPE_FILE, load, load_recipe, recipe_text
from lorgnette.common.files import write_text
from lorgnette.common.hub import PICKLES, downloaded, hub_name, is_hub, pinned, taken
from lorgnette.lora import adapter_folder
from lorgnette.lora.files.commit import finished_files
from lorgnette.sharing.card import CARD, Terms, model_card


@dataclass(frozen=True)
class Parcel:
    """What is sent."""

    folder: Path
    """Where it lies, for as long as it is packed."""
    files: list[str]
    notes: list[str]
    """What is left out, and what is written otherwise than it lies in the folder; a line each."""


@contextmanager
def pack(
    folder: str | os.PathLike[str], name: str, terms: Terms | None = None, base: str | None = None
) -> Iterator[Parcel]:
    """Within this context, what of an adapter's or a model's folder is shared, ready to be sent.

    Settings that say where data lies on this machine are left out of the recipe, and it is loaded once as whoever
    receives it will.

    Args:
        folder: of an adapter, a whole model or a run.
        name: `hub:user/name`, as it will be called.
        terms: what may be done with it, as far as known.
        base: where others find the base, where the recipe names a file of this machine: `hub:user/name`, pinned.

    Raises:
        FileNotFoundError: no such folder, or nothing in it that `load` reads.
        ValueError: a pickle lies in it; its base is a file of this machine; it cannot be loaded; in one line.
    """
    target = hub_name(name)
    if is_hub(folder):
        raise ValueError(f"{folder} is on the hub already: give a folder")
    folder = adapter_folder(folder)
    recipe, notes = _as_others_need_it(folder, load_recipe(folder), base)
    names = sorted(finished_files(folder))
    if pickles := [file for file in names if file.endswith(PICKLES)]:
        raise ValueError(f"{folder / pickles[0]} is a pickle and is not shared: take it out of the folder")
    files = taken(names)
    others = [*(file for file in names if file not in files), *(f"{p.name}/" for p in folder.iterdir() if p.is_dir())]
    notes += [f"left out: {file}" for file in sorted(others)]
    with TemporaryDirectory(prefix="lorgnette-") as scratch:
        place = Path(scratch)
        for file in files:
            shutil.copyfile(finished_files(folder)[file], place / file)
        write_text(place / RECIPE_FILE, recipe_text(recipe))
        load(place)
        write_text(place / CARD, model_card(place, recipe, target, terms or Terms()))
        yield Parcel(place, sorted({*files, RECIPE_FILE, CARD}), notes)


def _as_others_need_it(folder: Path, recipe: Any, base: str | None) -> tuple[Any, list[str]]:
    """The recipe without the paths of this machine, and what was changed."""
    usual = {field.name: field.default for field in fields(recipe.data) if field.default is not MISSING}
    own = [name for name in recipe.data.OWN if getattr(recipe.data, name) != usual[name]]
    notes = [f"{RECIPE_FILE}: without data.{name}, which says where data lies" for name in own]
    recipe = replace(recipe, data=replace(recipe.data, **{name: usual[name] for name in own}))
    given, here = recipe.model.base, Path(recipe.model.base).expanduser()
    if base is not None:
        downloaded(base)  # as it is now, not as it was when it was last asked for
        base = pinned(base)
        notes.append(f"{RECIPE_FILE}: model.base is {base}")
        return replace(recipe, model=replace(recipe.model, base=base)), notes
    if given in ("shipped", "none") or is_hub(given) or not (here.is_absolute() or here.exists()):
        return recipe, notes
    if recipe.lora is not None:
        raise ValueError(
            f"{folder}: its base is {given}, a file of this machine, which nobody else has: push the base first, and "
            "say where it is by --base hub:user/name"
        )
    notes.append(f"{RECIPE_FILE}: model.base is {here.name!r}, without its folder")
    return replace(recipe, model=replace(recipe.model, base=here.name)), notes
