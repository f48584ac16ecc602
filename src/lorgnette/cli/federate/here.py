"""`lorgnette federate ROOM`: many clients train one adapter, and only adapters travel."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette import settings
from lorgnette.cli.arguments import Arguments, add_config, add_json, add_strict, given_settings, left_out
from lorgnette.common.files import write_json
from lorgnette.common.text import number, size, table
from lorgnette.federate.settings import FederateConfig, Settings
from lorgnette.systems import room

if TYPE_CHECKING:
    from lorgnette.federate.rounds.loop import Outcome
    from lorgnette.federate.run import FederationFolder
    from lorgnette.systems.protocol import RoomRecipe


def run(words: list[str]) -> int:
    """Run the verb for the room `words[0]`; returns the exit status."""
    options = arguments(words[0]).read(words[1:])
    with left_out(options.strict):
        return (_resume if options.resume else _start)(words[0], options)


def arguments(name: str | None) -> Arguments:
    """What may stand after `lorgnette federate NAME`; without a room, what all rooms have in common."""
    parser = Arguments(
        f"federate {name}",
        f"lorgnette federate {name} --data.root photos --clients 8 --rounds 20",
        "Clients train one adapter, each on its own part of the data; the adapter, a report and a journal stay in a "
        "folder. Here all clients run on this machine, one after another. Of several folders (--data.root north south) "
        "each is a client.",
    )
    tiny = "the room in miniature, with data made on the spot: to see it work"
    parser.add_argument("--tiny", action="store_true", help=tiny)
    out = "where the federation goes; unset: runs/federate-ROOM-DATE-TIME"
    parser.add_argument("--out", metavar="FOLDER", help=out)
    resume = "go on with a federation that was interrupted; the result is as if it had not been"
    parser.add_argument("--resume", metavar="FOLDER", help=resume)
    add_strict(parser)
    add_json(parser)
    add_federation(parser)
    add_config(parser, name)
    return parser


def add_federation(parser: Arguments) -> None:
    """The settings of a federation, such as --rounds."""
    parser.add_settings(Settings, dest="federation", bare=True)


# ----------------------------------------------------------------------------------------------- the two ways


def _start(name: str, options: argparse.Namespace) -> int:
    config = federation(options.federation)
    given = given_settings(name, options)
    if options.tiny:
        if data := [option for option in given if option.startswith(("data", "model"))]:
            raise ValueError(f"--tiny brings its own model and data: --{data[0]} does not go with it")
        recipe = _overlaid(room(name).tiny()[0], given)
    else:
        recipe = settings.make_recipe(room(name).Recipe, given)

    from lorgnette.federate.run import FederationFolder

    folder = FederationFolder(options.out or Path("runs") / f"federate-{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.started:
        raise ValueError(f"{folder.path} holds a federation already; --resume {folder.path} goes on with it")
    counted = any(setting == "federate.clients" for setting, _ in options.federation)
    return _run(name, recipe, config, folder, options.tiny, options.json, one_each=not counted)


def _resume(name: str, options: argparse.Namespace) -> int:
    refused = [f"--{option}" for option in ("config", "tiny", "out") if getattr(options, option)]
    refused += [f"--{setting.removeprefix('federate.')}" for setting, _ in (*options.federation, *options.settings)]
    if refused:
        raise ValueError(f"--resume goes on with the federation's own settings: {refused[0]} cannot change")

    from lorgnette.federate.run import FederationFolder
    from lorgnette.systems import room_name

    folder = FederationFolder(options.resume)
    recipe, config = folder.settings()
    if room_name(recipe) != name:
        raise ValueError(f"{folder.path} is a federation of {room_name(recipe)}, not of {name}")
    return _run(name, recipe, config, folder, folder.is_tiny, options.json)


def _run(
    name: str,
    recipe: RoomRecipe,
    config: FederateConfig,
    folder: FederationFolder,
    tiny: bool,
    json_file: str | None,
    one_each: bool = False,
) -> int:
    """Run it. `one_each`: nobody said how many clients, and so each of several folders of data is one."""
    from lorgnette.checkpoint import load_data
    from lorgnette.federate.rounds.round_report import ProgressLines
    from lorgnette.federate.run import federate

    if tiny:
        loaded = room(name).tiny()[1:]
    else:
        loaded = load_data(recipe, folder.path)
        folders = loaded[0].folders
        if one_each and folders is not None and config.split in ("auto", "folders"):
            config = replace(config, clients=len(folders))
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


# ------------------------------------------------------------------------------------------------- settings


def federation(options: Sequence[tuple[str, list[str]]]) -> FederateConfig:
    """The settings of the federation that the words of a command line give."""
    try:
        given = settings.from_options(Settings, options)
    except ValueError as error:
        raise ValueError(str(error).replace("--federate.", "--")) from None
    try:
        return settings.make_recipe(Settings, given).federate
    except ValueError as error:
        raise ValueError(f"--{error}") from None


def _overlaid(recipe: RoomRecipe, given: Mapping[str, Any]) -> Any:
    """A recipe with some values replaced, by flat name."""
    for option, value in given.items():
        group, _, name = option.partition(".")
        changed = replace(getattr(recipe, group), **{name: value}) if name else value
        recipe = replace(recipe, **{group: changed})
    return recipe


# ----------------------------------------------------------------------------------------------- what is said


def _summary(outcome: Outcome, lines: list[dict[str, Any]], folder: FederationFolder) -> str:
    from lorgnette.train.listeners.record import change

    said = []
    first = next((line["metrics"] for line in lines if line.get("metrics")), {})
    best = outcome.saved.best
    if best and first:
        rows = [[n, number(first.get(n)), number(value), change(value, first.get(n))] for n, value in best.items()]
        said += ["", table([f"held out, round {outcome.saved.best_round}", "before", "after", "change"], rows)]
    done = [line for line in lines if line["round"]]
    if done:
        up, down = (sum(line[way] for line in done) for way in ("bytes_up", "bytes_down"))
        counted = sum(len(line["answered"]) for line in done)
        said += ["", f"travelled {size(up)} up, {size(down)} down, in {counted} updates"]
    if not any(line["counted"] for line in done) or (best and not outcome.saved.best_round):
        said += ["", "Nothing better than the start so far: what was kept changes nothing."]
    said += [f"kept      {folder.adapter}", f"report    {folder.report}"]
    return "\n".join(said)


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
