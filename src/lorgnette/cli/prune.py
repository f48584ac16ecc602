"""`lorgnette prune ROOM`: a network with fewer channels, which learns again what that lost, and is kept whole."""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette import settings
from lorgnette.cli.arguments import (
    Arguments,
    add_config,
    add_json,
    add_strict,
    given_settings,
    kept_folder,
    left_out,
)
from lorgnette.common.files import write_json
from lorgnette.common.text import metrics_table, size, table
from lorgnette.common.values import factor
from lorgnette.systems import ROOMS, room

if TYPE_CHECKING:
    from lorgnette.prune import Costs, Cut
    from lorgnette.train.task import Task

MINUTES = 10.0
FULL_LR = 3e-4
CALIBRATED = 8  # batches

PAGE = """\
lorgnette prune superres --data.root photos

Makes a room's network narrower and quicker. Rooms: {rooms}.
lorgnette prune ROOM --help lists a room's settings."""


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    able = [name for name in ROOMS if room(name).ABOUT.prunes]
    if not words or words[0].startswith("-"):
        print(PAGE.format(rooms=", ".join(able)))
        return 0 if words and words[0] in ("-h", "--help") else 2
    if not room(words[0]).ABOUT.prunes:
        raise ValueError(f"networks of the room {words[0]} cannot be pruned; those of {', '.join(able)} can")
    options = _arguments(words[0]).read(words[1:])
    with left_out(options.strict):
        return _run(words[0], options)


def _arguments(name: str) -> Arguments:
    parser = Arguments(
        f"prune {name}",
        f"lorgnette prune {name} --data.root photos",
        "Takes channels out of a network, those that matter least for your data; lets what is left learn from the "
        "whole network what that lost; and keeps it as a whole model. What is printed was measured on held-out data.",
    )
    add_config(parser, name)
    parser.add_argument("--out", metavar="FOLDER", help="where the run goes; unset: runs/ROOM-pruned-DATE-TIME")
    about = "prune this one, folded in, instead of model.base: folder of an adapter, a whole model or a run"
    parser.add_argument("--adapter", type=kept_folder, metavar="FOLDER", help=about)
    ratio = partial(factor, least=0.01, most=0.95)
    parser.add_argument(
        "--ratio", type=ratio, default=0.3, metavar="R", help="share of the channels that go; unset: 0.3"
    )
    parser.add_argument("--step", type=int, default=4, metavar="N", help="widths are multiples of it; unset: 4")
    about = "what learns again: the whole network (unset), adapters as `lora` says, which are folded in, or nothing"
    parser.add_argument("--recover", choices=("full", "lora", "none"), default="full", help=about)
    about = f"how long it learns, instead of train.steps; unset: {MINUTES:g}, where train.steps is not set"
    parser.add_argument("--minutes", type=partial(factor, least=0.05, most=100_000), metavar="M", help=about)
    about = "of the whole network in the loss, 0 to 1; the rest is the room's own loss; unset: 1"
    parser.add_argument("--teacher", type=partial(factor, least=0, most=1), default=1.0, metavar="SHARE", help=about)
    add_strict(parser)
    add_json(parser)
    return parser


def _run(name: str, options: argparse.Namespace) -> int:
    given = given_settings(name, options)
    recipe: Any = settings.make_recipe(room(name).Recipe, given)
    if options.recover == "lora" and recipe.lora is None:
        raise ValueError("--recover: 'lora' needs the settings lora; leave --lora null out")
    if options.recover == "full" and "train.lr" not in given:
        recipe = replace(recipe, train=replace(recipe.train, lr=FULL_LR))

    from lorgnette import lora
    from lorgnette.checkpoint import RunFolder, load, load_data, load_recipe, save
    from lorgnette.prune import costs, prune_task
    from lorgnette.recipe import build
    from lorgnette.train.loop import evaluate

    if options.adapter:
        kept = load_recipe(options.adapter)
        recipe = replace(recipe, model=kept.model)
        task = load(options.adapter)
    else:
        task = build(replace(recipe, lora=None))
    folder = RunFolder(options.out or Path("runs") / f"{name}-pruned-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.path.is_dir() and any(folder.path.iterdir()):
        raise ValueError(f"--out: {folder.path} is not empty: give a new folder")
    batches, test = load_data(recipe)
    lora.merge_lora_weights(task.model)
    whole = copy.deepcopy(task)
    taught = list(islice(batches.starting_at(0), CALIBRATED))
    print(f"Looking at {len(taught)} batches for the channels that matter least.", flush=True)
    started = time.perf_counter()
    cut = prune_task(task, taught, options.ratio, options.step)
    _tell(cut, time.perf_counter() - started)
    base = replace(recipe, lora=None, model=replace(recipe.model, pruned=True))
    folder.start(base, batches.parts)
    scores = {"whole": evaluate(whole, test), "pruned": evaluate(task, test)} if len(test) else {}
    if options.recover != "none":
        _recover(task, whole, recipe, (batches, test), folder, options)
        if scores:
            scores["recovered"] = evaluate(task, test)
    save(task, base, folder.adapter)
    found = costs({"whole": whole, "pruned": task}, taught[0], test[0] if len(test) else None)
    print(_costs_table(found))
    print(metrics_table(scores, "held out") if scores else "Nothing was held out: no proof of what was lost.")
    print(f"\nkept     {folder.adapter}\nuse      lorgnette enhance --adapter {folder.adapter} IN OUT")
    if options.json:
        figures = {row: asdict(each) for row, each in found.items()}
        write_json(
            options.json, {"folder": str(folder.adapter), "cut": asdict(cut), "costs": figures, "scores": scores}
        )
    return 0


def _recover(
    task: Task, whole: Task, recipe: Any, data: tuple[Any, Any], folder: Any, options: argparse.Namespace
) -> None:
    from lorgnette import lora
    from lorgnette.prune import distilled
    from lorgnette.train.budget import steps_within
    from lorgnette.train.listeners import run_listeners
    from lorgnette.train.loop import fit

    if options.recover == "lora":
        lora.inject_lora(task.model, recipe.lora)
    student = distilled(task, whole.model, options.teacher)
    train = recipe.train
    if train.steps is None or options.minutes is not None:
        minutes = MINUTES if options.minutes is None else options.minutes
        budget = steps_within(minutes, recipe, student, *data)
        print(f"{minutes:g} minutes: {budget}", flush=True)
        train = replace(train, steps=budget.steps, eval_every=budget.eval_every)
    fit(student, data[0], train, run_listeners(folder.path), data[1] if len(data[1]) else None)
    lora.merge_lora_weights(task.model)


def _tell(cut: Cut, seconds: float) -> None:
    before, after = (sum(each[side] for each in cut.widths.values()) for side in (0, 1))
    print(f"{before - after} of {before} channels taken out of {len(cut.widths)} groups, in {seconds:.0f} s")
    shown = ", ".join(cut.left[:6]) + (f" and {len(cut.left) - 6} more" if len(cut.left) > 6 else "")
    print(f"as wide as before: {shown or 'none'}", flush=True)


def _costs_table(found: dict[str, Costs]) -> str:
    whole, pruned = found["whole"], found["pruned"]
    rows = [
        ["FLOPs of a batch", f"{whole.flops / 1e9:.1f} G", f"{pruned.flops / 1e9:.1f} G", pruned.flops / whole.flops],
        ["bytes", size(whole.bytes), size(pruned.bytes), pruned.bytes / whole.bytes],
        ["seconds", f"{whole.seconds:.3f}", f"{pruned.seconds:.3f}", pruned.seconds / whole.seconds],
    ]
    return table(["", "whole", "pruned", "change"], [[*row[:3], f"{row[3] - 1:+.0%}"] for row in rows])
