"""`lorgnette federate ROOM`: many clients train one adapter, and only adapters travel."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette import settings
from lorgnette.cli.settings_page import about_setting, option_lines, settings_page, shown_default
from lorgnette.cli.words import OwnOptions, Words, settings_from_file, split_words
from lorgnette.common.files import write_json
from lorgnette.common.text import figure, size, table
from lorgnette.federate.settings import FederateConfig, Settings
from lorgnette.systems import room

if TYPE_CHECKING:
    from lorgnette.federate.rounds.loop import Outcome
    from lorgnette.federate.run import FederationFolder

OPTIONS: OwnOptions = {
    "config": ("FILE", "settings of the room from a YAML file; those on the command line count more"),
    "tiny": ("", "the room in miniature, with data made on the spot: to see it work"),
    "out": ("FOLDER", "where the federation goes; unset: runs/federate-ROOM-DATE-TIME"),
    "resume": ("FOLDER", "go on with a federation that was interrupted; the result is as if it had not been"),
    "json": ("FILE", "write the figures to this file as well"),
}
FEDERATION = {field.name for field in fields(FederateConfig)}


def run(words: list[str]) -> int:
    """Run the verb for the room `words[0]`; returns the exit status."""
    recipe_class = room(words[0]).Recipe
    if "-h" in words or "--help" in words:
        example = f"lorgnette federate {words[0]} --data.root photos --clients 8 --rounds 20"
        about = "Clients train one adapter, each on its own part of the data; the adapter, a report and a journal\n"
        about += "stay in a folder. Here all clients run on this machine, one after another."
        print(f"{settings_page(words[0], recipe_class, {}, example, about)}\n\nfederation:\n{own_page()}")
        return 0
    own, of_federation, of_room = sorted_words(words[1:], OPTIONS)
    if "resume" in own:
        return _resume(words[0], own, of_federation + of_room)
    return _start(words[0], recipe_class, own, of_federation, of_room)


# ----------------------------------------------------------------------------------------------- the two ways


def _start(name: str, recipe_class: type, own: Mapping[str, str], of_federation: Words, of_room: Words) -> int:
    config = federation(of_federation)
    given = settings_from_file(name, recipe_class, own["config"]) if "config" in own else {}
    given = settings.override(given, settings.from_options(recipe_class, of_room, [*OPTIONS, *sorted(FEDERATION)]))
    if "tiny" in own:
        if data := [option for option in given if option.startswith(("data", "model"))]:
            raise ValueError(f"--tiny brings its own model and data: --{data[0]} does not go with it")
        recipe = _overlaid(room(name).tiny()[0], given)
    else:
        recipe = settings.make_recipe(recipe_class, given)

    from lorgnette.federate.run import FederationFolder

    folder = FederationFolder(own.get("out") or Path("runs") / f"federate-{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.started:
        raise ValueError(f"{folder.path} holds a federation already; --resume {folder.path} goes on with it")
    return _run(name, recipe, config, folder, "tiny" in own, own.get("json"))


def _resume(name: str, own: Mapping[str, str], options: Words) -> int:
    refused = [f"--{option}" for option in own if option not in ("resume", "json")]
    refused += [f"--{option}" for option, _ in options]
    if refused:
        raise ValueError(f"--resume goes on with the federation's own settings: {refused[0]} cannot change")

    from lorgnette.federate.run import FederationFolder
    from lorgnette.systems import room_name

    folder = FederationFolder(own["resume"])
    recipe, config = folder.settings()
    if room_name(recipe) != name:
        raise ValueError(f"{folder.path} is a federation of {room_name(recipe)}, not of {name}")
    return _run(name, recipe, config, folder, folder.is_tiny, own.get("json"))


def _run(
    name: str, recipe: Any, config: FederateConfig, folder: FederationFolder, tiny: bool, json_file: str | None
) -> int:
    from lorgnette.federate.rounds.round_report import ProgressLines
    from lorgnette.federate.run import federate

    home = room(name)
    if tiny:
        _, batches, test = home.tiny()
        loaded = batches, test
    else:
        loaded = home.loaders(recipe.data, recipe.train)
    started = time.perf_counter()
    go_on = f"To go on:\n  lorgnette federate {name} --resume {shlex.quote(str(folder.path))}"
    try:
        outcome, _ = federate(recipe, config, folder.path, loaded, [ProgressLines()], tiny=tiny)
    except KeyboardInterrupt:  # before the first round, or while the end was written
        if not folder.started:
            raise
        print(f"\nStopped at once, with what was saved before. {go_on}")
        return 130
    lines = folder.journal.lines()
    print(_summary(outcome, lines, folder))
    if json_file:
        write_json(json_file, _figures(outcome, lines, folder, config, time.perf_counter() - started))
    if outcome.reason == "interrupted":
        print(f"\nInterrupted after round {outcome.saved.round} of {config.rounds}; it is saved. {go_on}")
        return 130
    return 0


# -------------------------------------------------------------------------------------------- words and files


def sorted_words(words: list[str], options_of_verb: OwnOptions) -> tuple[dict[str, str], Words, Words]:
    """The options of the verb, of the federation (`--local-steps` is `--local_steps`), and settings of the room."""
    own, options = split_words(words, options_of_verb)
    of_federation: Words = []
    of_room: Words = []
    for option, values in options:
        name = option.replace("-", "_")
        if name in FEDERATION:
            of_federation.append((name, values))
        else:
            of_room.append((option, values))
    return own, of_federation, of_room


def federation(options: Words) -> FederateConfig:
    """The settings of the federation that the words of a command line give."""
    try:
        given = settings.from_options(Settings, [(f"federate.{name}", values) for name, values in options])
    except ValueError as error:
        raise ValueError(str(error).replace("--federate.", "--")) from None
    try:
        return settings.make_recipe(Settings, given).federate
    except ValueError as error:
        raise ValueError(f"--{error}") from None


def _overlaid(recipe: Any, given: Mapping[str, Any]) -> Any:
    """A recipe with some values replaced, by flat name."""
    for option, value in given.items():
        group, _, name = option.partition(".")
        changed = replace(getattr(recipe, group), **{name: value}) if name else value
        recipe = replace(recipe, **{group: changed})
    return recipe


def own_page() -> str:
    """The options of the verb and of the federation."""
    lines = [(f"--{option} {value}".rstrip(), about) for option, (value, about) in OPTIONS.items()]
    for name, setting in settings.settings_of(Settings).items():
        option = f"--{name.removeprefix('federate.')} {shown_default(setting.default)}".rstrip()
        lines.append((option, about_setting(setting)))
    return option_lines(lines)


# ----------------------------------------------------------------------------------------------- what is said


def _summary(outcome: Outcome, lines: list[dict[str, Any]], folder: FederationFolder) -> str:
    from lorgnette.train.listeners.record import change

    said = []
    first = next((line["metrics"] for line in lines if line.get("metrics")), {})
    best = outcome.saved.best
    if best and first:
        rows = [[n, _cell(first.get(n)), _cell(value), change(value, first.get(n))] for n, value in best.items()]
        said += ["", table([f"held out, round {outcome.saved.best_round}", "before", "after", "change"], rows)]
    done = [line for line in lines if line["round"]]
    if done:
        up, down = (sum(line[way] for line in done) for way in ("bytes_up", "bytes_down"))
        counted = sum(len(line["answered"]) for line in done)
        said += ["", f"travelled {size(up)} up, {size(down)} down, in {counted} updates"]
    said += [f"kept      {folder.adapter}", f"report    {folder.report}"]
    return "\n".join(said)


def _cell(value: float | None) -> str:
    return "-" if value is None else figure(value)


def _figures(
    outcome: Outcome, lines: list[dict[str, Any]], folder: FederationFolder, config: FederateConfig, seconds: float
) -> dict[str, Any]:
    done = [line for line in lines if line["round"]]
    return {
        "run": str(folder.path),
        "adapter": str(folder.adapter),
        "scheme": config.scheme,
        "clients": config.clients,
        "reason": outcome.reason,
        "round": outcome.saved.round,
        "rounds": config.rounds,
        "before": lines[0].get("metrics", {}) if lines else {},
        "after": dict(outcome.saved.best),
        "best_round": outcome.saved.best_round,
        "last": done[-1]["metrics"] if done else {},
        "aggregation_error": [line.get("aggregation_error") for line in done],
        "bytes_up": sum(line["bytes_up"] for line in done),
        "bytes_down": sum(line["bytes_down"] for line in done),
        "seconds": round(seconds, 3),
    }
