"""A model card, from what an adapter's or model's folder says of itself. What is not known is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from lorgnette.common.files import read_json
from lorgnette.common.hub import Name, hub_name, is_hub
from lorgnette.common.text import duration, number, size
from lorgnette.lora import adapter_info
from lorgnette.systems import ROOMS, room_name, room_of
from lorgnette.systems.protocol import RoomRecipe
from lorgnette.train.listeners.record import change
from lorgnette.version import __version__

CARD = "README.md"


@dataclass(frozen=True)
class Terms:
    """Under what terms things may be used; None: nobody has said."""

    license: str | None = None
    """Of what is shared, by the hub's identifiers: apache-2.0, mit, cc-by-4.0, other ..."""
    data: str | None = None
    """Of the data that it learnt from, in words."""


def model_card(folder: Path, recipe: RoomRecipe, name: Name, terms: Terms) -> str:
    """The card of a folder that is to be shared, with the hub's YAML head; a card that lies in it follows."""
    notes = folder / "training.json"
    learnt: Mapping[str, Any] = read_json(notes) if notes.is_file() else {}
    about, adapter = room_of(recipe).ABOUT, recipe.lora is not None
    kind = "A low-rank adapter" if adapter else "A whole model"
    lines = [
        f"# {name.repo.partition('/')[2]}",
        f"{kind} for the room `{about.name}` of Lorgnette {__version__}, which loads it:",
        "\n".join(_use(recipe, name)),
        _table(("", ""), _facts(folder, recipe, learnt)),
        "## What it brought",
        *_scores(learnt),
        "## Terms",
        _table(("of", "terms"), _terms(recipe, terms)),
    ]
    own = folder / CARD
    if own.is_file():
        lines += ["## Notes that lay with it", _without_head(own.read_text(encoding="utf-8", errors="replace"))]
    return f"---\n{_head(recipe, terms)}---\n\n" + "\n\n".join(lines).rstrip() + "\n"


def _head(recipe: RoomRecipe, terms: Terms) -> str:
    """What the hub sorts models by."""
    tags = ["lorgnette", room_name(recipe), *(["lora"] if recipe.lora is not None else [])]
    head: dict[str, Any] = {"library_name": "lorgnette", "license": terms.license or "unknown", "tags": tags}
    base = recipe.model.base
    if is_hub(base) or "/" in base:
        head["base_model"] = hub_name(base).repo if is_hub(base) else base
        head["base_model_relation"] = "adapter" if recipe.lora is not None else "finetune"
    return yaml.safe_dump(head, sort_keys=False)


def _use(recipe: RoomRecipe, name: Name) -> Iterator[str]:
    for verb, words in list(room_of(recipe).ABOUT.verbs.items())[:1]:
        yield f"```bash\nlorgnette {verb} {words} --adapter {name}\n```\n"
    yield f'```python\nfrom lorgnette import load\n\ntask = load("{name}")  # or revision="COMMIT"\n```'


def _facts(folder: Path, recipe: RoomRecipe, learnt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    weights = sorted(folder.glob("*.safetensors"))
    yield "weights", ", ".join(f"`{file.name}`, {size(file.stat().st_size)}" for file in weights)
    others = {n: v for n, v in asdict(recipe.model).items() if v != getattr(type(recipe.model)(), n) and n != "base"}
    base = {"shipped": f"the one that ships with Lorgnette {__version__}", "none": "none: an untrained network"}
    settings = f" ({', '.join(f'{key} {value}' for key, value in others.items())})" if others else ""
    yield "base", f"{base.get(recipe.model.base, f'`{recipe.model.base}`')}{settings}"
    if recipe.lora is not None:
        manifest = adapter_info(folder)
        ranks = sorted({layer["r"] for layer in manifest["layers"].values()})
        yield "adapts", f"{len(manifest['layers'])} layers, rank {' '.join(map(str, ranks))}"
        yield "base's hash", f"structure `{manifest['base']['structure']}`, values `{manifest['base']['content']}`"
    if data := ", ".join(f"{key} {value}" for key, value in _told_data(recipe)):
        yield "data settings", data
    if "samples" in learnt:
        how = f"{learnt['samples']:,} samples, {learnt['steps']:,} steps, {duration(learnt['seconds'])}"
        yield "learnt from", f"{how}; the best of step {learnt['best_step']:,} is kept"
    elif "rounds" in learnt:
        yield "learnt from", f"{learnt['clients']} holders of data, {learnt['rounds']} rounds"
    else:
        yield "learnt from", "not known: no note of its training lies with it"


def _told_data(recipe: RoomRecipe) -> Iterator[tuple[str, Any]]:
    """Settings of the data that are not the usual ones; never where it lies."""
    usual = type(recipe.data)()
    for field in fields(recipe.data):
        value = getattr(recipe.data, field.name)
        if field.name not in recipe.data.OWN and value != getattr(usual, field.name):
            yield field.name, value


def _scores(learnt: Mapping[str, Any]) -> Iterator[str]:
    before, after = learnt.get("before") or {}, learnt.get("after") or {}
    if not after:
        yield "Not known: nothing was held out, or no note of it lies here."
    else:
        rows = [(key, number(before.get(key)), number(v), change(v, before.get(key))) for key, v in after.items()]
        where = f"on {learnt['held_out']:,} held-out samples" if learnt.get("held_out") else "on held-out data"
        yield _table((where, "base", "this", "change"), rows)
        if not learnt.get("improved", True):
            yield "**It did not help**: no evaluation was better than before training."
    yield "What the base lost by it on its own kind of data (drift) was not measured."


def _terms(recipe: RoomRecipe, terms: Terms) -> Iterator[tuple[str, str]]:
    yield "this", terms.license or "unknown: whoever shares it has not said"
    yield "the base", _terms_of_base(recipe)
    yield "the data it learnt from", terms.data or "unknown: whoever shares it has not said"


def _terms_of_base(recipe: RoomRecipe) -> str:
    """Of what ships, the line of its own card."""
    base = recipe.model.base
    if base == "none":
        return "there is none"
    if base != "shipped":
        return f"unknown here: see where it is from, `{base}`"
    home = import_module(ROOMS[room_name(recipe)]).__file__
    assert home is not None, "a room is a folder"
    card = Path(home).with_name("base") / CARD
    rows = [line.strip("| ").split(" | ", 1) for line in card.read_text(encoding="utf-8").splitlines()]
    told = [row[1] for row in rows if len(row) == 2 and row[0].startswith("terms")]
    return f"Apache-2.0, as Lorgnette. What it learnt from: {told[0]}" if told else "Apache-2.0, as Lorgnette"


def _table(header: tuple[str, ...], rows: Any) -> str:
    """A table of Markdown."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(str(text).replace("|", "\\|").split())


def _without_head(text: str) -> str:
    """A card without its YAML head, its titles two levels down."""
    if text.startswith("---\n") and (end := text.find("\n---", 4)) > 0:
        text = text[end + 4 :]
    return "\n".join(f"##{line}" if line.startswith("#") else line for line in text.strip().splitlines())
