"""`lorgnette eval ADAPTER --data FOLDER`: an adapter beside the model without it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.cli.arguments import Arguments, add_device, add_json, add_strict, kept_folder, left_out, progress_bar
from lorgnette.common.files import make_folder, write_json, write_text
from lorgnette.common.parts import LeftOut
from lorgnette.common.text import metrics_table
from lorgnette.systems import ROOMS, option_files, room, with_option_files
from lorgnette.systems.protocol import TestOption

if TYPE_CHECKING:
    from lorgnette.report.gallery import Gallery


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)
    options.words = words
    with left_out(options.strict) as gathered:
        (_option_file if options.opt else _folder)(options, gathered)
    if gathered:
        raise ValueError(f"{len(_names(gathered))} images could not be scored (named above); the others were")
    return 0


def _folder(options: argparse.Namespace, gathered: Sequence[LeftOut]) -> None:
    """Score on each folder of `--data`."""
    from lorgnette.checkpoint import load, load_recipe
    from lorgnette.common.devices import to_device
    from lorgnette.images.evaluation import as_pictures
    from lorgnette.recipe import build
    from lorgnette.report.gallery import Gallery
    from lorgnette.systems import room_of

    if options.adapter:
        recipe = load_recipe(options.adapter)
    else:
        recipe = replace(room(options.room or next(iter(ROOMS))).Recipe(), lora=None)
    home = room_of(recipe)
    tests = {}
    for name, option in _test_options().items():
        value = getattr(options, option.flag)
        if value is not None and name not in home.ABOUT.test_options:
            raise ValueError(f"--{option.flag}: means nothing in the room {home.ABOUT.name}; leave it out")
        if value is not None:
            tests[name] = value
    if home.ABOUT.crop:
        tests["crop"] = 0 if options.whole else getattr(recipe.data, home.ABOUT.crop)
    tasks = {}
    if recipe.lora is not None or recipe.model.base != "none":  # an untrained network is nothing to compare with
        tasks["base"] = build(replace(recipe, lora=None))
    if options.adapter:
        tasks["model" if recipe.lora is None else "adapted"] = load(options.adapter)
    tasks = {name: to_device(task, options.device) for name, task in tasks.items()}
    if options.report:  # before minutes of work
        make_folder(options.report)
    scores, plots, gallery = {}, {}, Gallery()
    if options.report and home.ABOUT.crop:
        tests["seen"] = lambda batch, made: gallery.add(batch["label"], batch["name"], as_pictures(batch, made))
    for folder in options.data:
        if options.report and home.ABOUT.plots:
            start = "" if len(options.data) == 1 else f"{Path(folder).name} "
            tests["plot"] = lambda name, picture, start=start: plots.update({f"{start}{name}": picture})
        rows = home.evaluation(tasks, folder, **tests, progress=progress_bar)
        print(metrics_table(rows, Path(folder).name if len(options.data) == 1 else folder), flush=True)
        scores[folder] = rows
    what = {"adapter": options.adapter, "room": home.ABOUT.name, "whole": options.whole, "left_out": _names(gathered)}
    sets = {name: _finite(rows) for name, rows in scores.items()}
    if len(sets) == 1:
        what |= {"data": options.data[0], "rows": sets[options.data[0]]}
    else:
        what |= {"data": options.data, "sets": sets}
    if options.json:
        write_json(options.json, what)
    if options.report:
        _write_report(Path(options.report), options, scores, what, plots, gallery)


def _write_report(
    place: Path,
    options: argparse.Namespace,
    scores: Mapping[str, Any],
    what: Mapping[str, Any],
    plots: Mapping[str, Any],
    gallery: Gallery,
) -> None:
    """scores.md, scores.json, plots and, of pictures, pictures.png in the folder `place`."""
    from lorgnette.images import Image, write_image
    from lorgnette.report.scores import markdown

    parts = [f"# {options.adapter or 'As shipped'}", f"`lorgnette eval {shlex.join(options.words)}`"]
    parts += [f"## {folder}\n\n{markdown(rows)}" for folder, rows in scores.items()]
    if what["left_out"]:
        parts.append(f"Left out: {', '.join(what['left_out'])}.")
    for name, pixels in plots.items():
        file = f"{name.replace(' ', '-')}.png"
        write_image(place / file, Image(pixels))
        parts.append(f"![{name}]({file})")
    if gallery.shown:
        write_image(place / "pictures.png", Image(gallery.grid()))
        parts.append("![The busiest part of some pictures, by every method](pictures.png)")
    write_text(place / "scores.md", "\n\n".join(parts) + "\n")
    write_json(place / "scores.json", what)
    print(f"report: {place}")


def _option_file(options: argparse.Namespace, gathered: Sequence[LeftOut]) -> None:
    """Score the network of an option file on every data set that it names, whole."""
    from lorgnette import settings
    from lorgnette.common.devices import to_device
    from lorgnette.recipe import build

    for name in ("adapter", "data", *(option.flag for option in _test_options().values())):
        if getattr(options, name) is not None:
            raise ValueError(f"--opt: {options.opt} says what is scored on what; leave {name} out")
    name = with_option_files()[0]
    home, files = room(name), option_files(name)
    sets, unknown = files.read_test_options(options.opt)
    if unknown:
        print(f"not understood in {options.opt}, and left out: {', '.join(unknown)}", file=sys.stderr)
    scores: dict[str, Any] = {}
    for name, mapping in sets.items():
        recipe = settings.make_recipe(home.Recipe, settings.from_mapping(home.Recipe, mapping, options.opt))
        if recipe.model.base == "none":
            raise ValueError(f"{options.opt}: path.pretrain_network_g: not set; an untrained network scores nothing")
        task = to_device(build(recipe), options.device)
        rows = home.evaluation({"model": task}, **files.tested_on(recipe), progress=progress_bar)
        print(metrics_table(rows, name), flush=True)
        scores[name] = _finite(rows)
    if options.json:
        write_json(options.json, {"opt": options.opt, "sets": scores, "left_out": _names(gathered)})


def _test_options() -> dict[str, TestOption]:
    """What the rooms let choose of a test, by the name of the argument of `evaluation`."""
    return {name: option for home in map(room, ROOMS) for name, option in home.ABOUT.test_options.items()}


def _names(gathered: Sequence[LeftOut]) -> list[str]:
    return [name for one in gathered for name in one.names]


def _finite(rows: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    from lorgnette.train.listeners.record import finite

    return {name: finite(metrics) for name, metrics in rows.items()}


def _arguments() -> Arguments:
    parser = Arguments(
        "eval",
        "lorgnette eval runs/NAME/adapter --data photos",
        "Scores an adapter on images it has not seen, beside the model without it and what needs no network: PSNR and "
        "SSIM on 8-bit levels, on luma shaved by the scale; after denoising on RGB. Of a classifier: accuracy and "
        "calibration.",
    )
    parser.add_argument(
        "adapter",
        nargs="?",
        type=kept_folder,
        metavar="ADAPTER",
        help="folder of an adapter, of a whole model or of a run, or a NAME that ships; unset: as shipped",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--data",
        nargs="+",
        metavar="FOLDER",
        help="clean images at high resolution; of clip, a folder of classes; a table for each folder",
    )
    what.add_argument(
        "--opt", "-opt", metavar="FILE", help="an option file of BasicSR that says all: network, weights, images"
    )
    parser.add_argument("--room", choices=list(ROOMS), help="without an adapter: whose model; unset: superres")
    for option in _test_options().values():
        parser.add_argument(
            *(f"--{flag}" for flag in (option.flag, *option.also)),
            nargs=("*" if option.alone else "+") if option.several else None,
            type=option.read,
            metavar=option.metavar,
            help=option.help,
        )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="score whole images, as published tables do; unset: their middle, as during training",
    )
    add_strict(parser)
    add_device(parser)
    add_json(parser)
    parser.add_argument(
        "--report",
        metavar="FOLDER",
        help="write scores.md, scores.json, plots and a grid of pictures into this folder",
    )
    return parser
