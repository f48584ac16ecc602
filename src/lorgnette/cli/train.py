"""`lorgnette train ROOM`: adapt a model, prove it on held-out data, keep the adapter."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette import settings
from lorgnette.cli.arguments import Arguments, add_config, add_json, add_strict, given_settings, left_out
from lorgnette.common.files import write_json
from lorgnette.common.parts import FILE, Parts
from lorgnette.common.text import number, one_line, table
from lorgnette.common.values import factor
from lorgnette.systems import ROOMS, option_files, room
from lorgnette.train.events import Evaluated, Stepped

if TYPE_CHECKING:
    from lorgnette.checkpoint import RunFolder
    from lorgnette.systems.protocol import RoomRecipe
    from lorgnette.train.batches import Batches, HeldOut
    from lorgnette.train.events import Event, Finished
    from lorgnette.train.task import Task

RESUMABLE = ("train.workers", "train.device")  # what may differ when a run goes on: the result does not
PATIENCE = 3  # evaluations without progress, where neither steps nor patience are set

ROOMS_PAGE = """\
lorgnette train superres --data.root photos

Adapt a model to your own data. Rooms: {rooms}.
lorgnette train ROOM --help lists a room's settings."""


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    if not words or words[0].startswith("-"):
        print(ROOMS_PAGE.format(rooms=", ".join(ROOMS)))
        return 0 if words and words[0] in ("-h", "--help") else 2
    options = arguments(words[0]).read(words[1:])
    with left_out(options.strict):
        return (_resume if options.resume else _start)(words[0], options)


def arguments(name: str) -> Arguments:
    """What may stand after `lorgnette train NAME`."""
    parser = Arguments(
        f"train {name}",
        f"lorgnette train {name} --data.root photos",
        "Adapts the model to your data: holds a part of it out, chooses how long to train, stops when that no longer "
        "helps, and keeps the adapter, a report and all figures in a run folder.",
    )
    add_config(parser, name)
    opt = "settings from an option file of the room's original program (restore: BasicSR's)"
    parser.add_argument("--opt", "-opt", metavar="FILE", help=opt)
    parser.add_argument("--out", metavar="FOLDER", help="where the run goes; unset: runs/ROOM-DATE-TIME")
    minutes = "train as long as that, scores included, instead of train.steps: what fits is measured first"
    parser.add_argument("--minutes", type=partial(factor, least=0.05, most=100_000), metavar="M", help=minutes)
    resume = "go on with a run that was interrupted; the result is as if it had not been"
    parser.add_argument("--resume", metavar="FOLDER", help=resume)
    add_strict(parser)
    add_json(parser)
    return parser


# ----------------------------------------------------------------------------------------------- the two ways


def _start(name: str, options: argparse.Namespace) -> int:
    given = given_settings(name, options)
    recipe_class = room(name).Recipe
    if options.opt:
        given = settings.override(_from_option_file(name, recipe_class, options.opt), given)
    recipe = settings.make_recipe(recipe_class, given)

    from lorgnette.checkpoint import RunFolder, load_data
    from lorgnette.recipe import build
    from lorgnette.train.budget import steps_within

    batches, test = load_data(recipe)
    task = build(recipe)
    if options.minutes is not None:
        budget = steps_within(options.minutes, recipe, task, batches, test)
        print(f"{options.minutes:g} minutes: {budget}", flush=True)
        train = replace(recipe.train, steps=budget.steps, eval_every=budget.eval_every)
        recipe = replace(recipe, train=train)
    elif recipe.train.steps is None:
        patience = recipe.train.patience if "train.patience" in given else PATIENCE
        steps = room(name).default_steps(len(batches), recipe)
        recipe = replace(recipe, train=replace(recipe.train, steps=steps, patience=patience))
    folder = RunFolder(options.out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    recipe = task.completed(recipe)
    if _is_main_process():
        folder.start(recipe, batches.parts)
    return _fit(name, recipe, folder, task, (batches, test), None, options.json)


def _resume(name: str, options: argparse.Namespace) -> int:
    changes = settings.from_options(room(name).Recipe, options.settings)
    refused = [f"--{option}" for option in ("config", "opt", "out", "minutes") if getattr(options, option) is not None]
    refused += [f"--{option}" for option in changes if option not in RESUMABLE]
    if refused:
        allowed = ", ".join(f"--{option}" for option in RESUMABLE)
        raise ValueError(f"--resume goes on with the run's own settings: {refused[0]} cannot change; {allowed} can")

    from lorgnette.checkpoint import RunFolder, load_data, load_recipe
    from lorgnette.recipe import build
    from lorgnette.systems import room_name

    folder = RunFolder(options.resume)
    recipe = load_recipe(folder.path)
    if room_name(recipe) != name:
        raise ValueError(f"{folder.path} is a run of {room_name(recipe)}, not of {name}")
    train = {option.removeprefix("train."): value for option, value in changes.items()}
    recipe = replace(recipe, train=replace(recipe.train, **train))
    loaded = load_data(recipe, folder.path)
    return _fit(name, recipe, folder, build(recipe), loaded, folder.latest_snapshot(), options.json)


def _fit(
    name: str,
    recipe: RoomRecipe,
    folder: RunFolder,
    task: Task,
    loaded: tuple[Batches, HeldOut],
    snapshot: dict[str, Any] | None,
    json_file: str | None,
) -> int:
    from lorgnette.checkpoint import Checkpoints, save, what_was_learnt
    from lorgnette.train.listeners import run_listeners
    from lorgnette.train.listeners.run_report import ABOUT_FILE
    from lorgnette.train.loop import fit

    batches, test = loaded
    go_on = f"To go on:\n  lorgnette train {name} --resume {shlex.quote(str(folder.path))}"
    if _is_main_process():
        print(_plan(recipe, folder, batches, test, snapshot), flush=True)
        write_json(folder.path / ABOUT_FILE, {"notes": _notes(name, folder, test), "panels": list(task.panels)})
    started, reached = time.perf_counter(), Reached(held_out=len(test) > 0)
    try:
        end = fit(
            task,
            batches,
            recipe.train,
            [reached, *run_listeners(folder.path), Checkpoints(folder, recipe.train.save_every)],
            test=test if len(test) else None,
            resume=snapshot,
        )
    except KeyboardInterrupt:  # the second Ctrl-C: the step was not even finished
        print(f"\nStopped at once, with what was saved before. {go_on}")
        return 130
    except Exception as error:  # a picture that went away, a full disk, a loss that is no number
        if not (reached.step and _is_main_process()):
            raise
        save(task, recipe, folder.adapter)
        if isinstance(error, ValueError | OSError):
            raise ValueError(f"{one_line(error)}; the adapter of step {reached.step} is in {folder.adapter}") from error
        raise
    if not _is_main_process():
        return 0
    seconds = time.perf_counter() - started
    save(task, recipe, folder.adapter, what_was_learnt(end, batches, test, seconds))
    originals = task.originals(end.snapshot()["trained"]) if recipe.lora is None else {}
    for file, content in originals.items():
        folder.write(folder.path / file, content)
    print(_summary(name, end, recipe, folder, list(originals)))
    if json_file:
        write_json(json_file, _figures(end, recipe, folder, task, seconds))
    if end.reason == "interrupted":
        print(f"\nInterrupted after step {end.step} of {recipe.train.steps}; everything is saved. {go_on}")
        return 130
    return 0


class Reached:
    """A listener that knows which step's weights `fit` leaves in a task where it fails: 0 where it learnt nothing.

    Args:
        held_out: whether the task is scored.
    """

    def __init__(self, held_out: bool):
        self.held_out, self.step = held_out, 0

    def __call__(self, event: Event) -> None:
        match event:
            case Evaluated() if event.is_best:
                self.step = event.step
            case Stepped() if not self.held_out:
                self.step = event.step


def _is_main_process() -> bool:
    """Whether this process writes and talks: under `accelerate launch` only the first one does."""
    return os.environ.get("RANK", "0") == "0"


# -------------------------------------------------------------------------------------------- words and files


def _from_option_file(name: str, recipe_class: type, file: str) -> dict[str, Any]:
    try:
        reader = option_files(name)
    except ValueError as error:
        raise ValueError(f"--opt: {error}") from None
    mapping, unknown = reader.read_options(file)
    if unknown and _is_main_process():
        print(f"not understood in {file}, and left out: {', '.join(unknown)}", file=sys.stderr)
    return settings.from_mapping(recipe_class, mapping, file)


# ----------------------------------------------------------------------------------------------- what is said


def _plan(
    recipe: RoomRecipe, folder: RunFolder, batches: Batches, test: HeldOut, snapshot: dict[str, Any] | None
) -> str:
    start = f"from step {snapshot['step']} on, " if snapshot else ""
    proof = f"{test.samples} held-out tests" if len(test) else "nothing held out: no proof of what it gains"
    without = f", {len(batches.parts.left_out)} left out" if batches.parts and batches.parts.left_out else ""
    return f"{start}{recipe.train.steps} steps on {len(batches)} samples{without}; {proof}; {folder.path}"


def _uses(name: str, folder: RunFolder) -> list[str]:
    """The commands that use the result."""
    adapter = shlex.quote(str(folder.adapter))
    return [f"lorgnette {verb} {words} --adapter {adapter}" for verb, words in room(name).ABOUT.verbs.items()]


def _notes(name: str, folder: RunFolder, test: HeldOut) -> list[str]:
    """What the report says of the run."""
    several = f" in {test.samples} tests" if test.samples != test.pictures else ""
    proof = f"Scored on {test.pictures} held-out pictures{several}, which nothing was learnt from."
    return [proof if len(test) else "Nothing was held out: no proof of what was gained.", *_uses(name, folder)]


def _summary(name: str, end: Finished, recipe: RoomRecipe, folder: RunFolder, originals: list[str]) -> str:
    from lorgnette.train.listeners.record import change

    lines = []
    if end.best:
        both = [(metric, end.first[metric], end.best[metric]) for metric in end.best]
        rows = [[metric, number(old), number(new), change(new, old)] for metric, old, new in both]
        lines += ["", table([f"held out, step {end.best_step}", "before", "after", "change"], rows)]
    if end.reason == "stopped early":
        lines += ["", f"Stopped at step {end.step}: no progress for {recipe.train.patience} evaluations."]
    learnt = end.improved and end.step > 0
    if not learnt and end.reason == "interrupted":
        lines += ["", "Nothing better than before training so far: what was kept changes nothing yet."]
    elif not learnt:
        lines += [
            "",
            "Adaptation did not help: on the held-out data nothing was better than the model as it was, so",
            "what was kept changes nothing. More data, a smaller --train.lr or more --train.steps may help.",
        ]
    for remark in end.remarks:
        lines += ["", remark]
    lines += ["", f"kept     {folder.adapter}"]
    lines += [f"also     {folder.path / file}" for file in originals]
    lines += [f"report   {folder.report}"] if folder.report.exists() else []
    lines += [f"use      {command}" for command in (_uses(name, folder) if learnt else ())]
    return "\n".join(lines)


def _figures(end: Finished, recipe: RoomRecipe, folder: RunFolder, task: Task, seconds: float) -> dict[str, Any]:
    from lorgnette.train.listeners.record import finite

    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    parts = Parts.read(folder.path / FILE)
    return {
        "run": str(folder.path),
        "adapter": str(folder.adapter),
        "reason": end.reason,
        "step": end.step,
        "steps": recipe.train.steps,
        "before": finite(end.first),
        "after": finite(end.best),
        "best_step": end.best_step,
        "left_out": dict(parts.left_out) if parts else {},
        "improved": end.improved,
        "trained_parameters": trained,
        "all_parameters": sum(p.numel() for p in task.parameters()),
        "seconds": round(seconds, 3),
    }
