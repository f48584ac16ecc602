"""`lorgnette eval ADAPTER --data FOLDER`: an adapter beside the model without it."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

from lorgnette.cli.arguments import Arguments, add_device, add_json, factor
from lorgnette.cli.output import metrics_table
from lorgnette.files import write_json
from lorgnette.systems import ROOMS


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)

    from tqdm import tqdm

    from lorgnette.checkpoint import load, load_recipe
    from lorgnette.cli.device import to_device
    from lorgnette.listeners.record import finite
    from lorgnette.recipe import build
    from lorgnette.systems import room, room_name, room_of

    recipe = load_recipe(options.adapter) if options.adapter else room(options.room or "superres").Recipe(lora=None)
    evaluation = room_of(recipe).evaluation
    tests = {name: getattr(options, name) for name in ("scales", "levels") if getattr(options, name) is not None}
    for name in tests.keys() - inspect.signature(evaluation).parameters.keys():
        raise ValueError(f"--{name}: means nothing in the room {room_name(recipe)}; leave it out")
    tasks = {}
    if recipe.lora is not None or recipe.model.base != "none":  # an untrained network is nothing to compare with
        tasks["base"] = build(replace(recipe, lora=None))
    if options.adapter:
        tasks["model" if recipe.lora is None else "adapted"] = load(options.adapter)
    rows = evaluation(
        {name: to_device(task, options.device) for name, task in tasks.items()},
        options.data,
        **tests,
        lr_folder=options.lr,
        crop=0 if options.whole else recipe.data.test_crop,
        progress=lambda images: tqdm(images, unit="image", disable=None, leave=False),
    )
    print(metrics_table(rows, Path(options.data).name))
    if options.json:
        kept = {
            "adapter": options.adapter,
            "room": room_name(recipe),
            "data": options.data,
            "whole": options.whole,
        }
        write_json(options.json, kept | {"rows": {name: finite(metrics) for name, metrics in rows.items()}})
    return 0


def _arguments() -> Arguments:
    parser = Arguments(
        "eval",
        "lorgnette eval runs/NAME/adapter --data photos",
        "Scores an adapter on images it has not seen, beside the model without it and what needs no network: PSNR and "
        "SSIM on 8-bit levels, on luma shaved by the scale; after denoising on RGB.",
    )
    parser.add_argument(
        "adapter", nargs="?", metavar="ADAPTER", help="folder of an adapter or of a whole model; unset: as shipped"
    )
    parser.add_argument("--data", required=True, metavar="FOLDER", help="clean images at high resolution")
    parser.add_argument("--lr", metavar="FOLDER", help="their small or damaged namesakes; unset: made from them")
    parser.add_argument("--room", choices=list(ROOMS), help="without an adapter: whose model; unset: superres")
    parser.add_argument("--scales", nargs="+", type=factor, metavar="S", help="factors of superres; unset: 2 3 4")
    parser.add_argument(
        "--levels",
        nargs="+",
        type=float,
        metavar="L",
        help="of restore: noise (of 255) or JPEG qualities; unset: 15 25 50, or 10 20 30 40",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="score whole images, as published tables do; unset: their middle, as during training",
    )
    add_device(parser)
    add_json(parser)
    return parser
