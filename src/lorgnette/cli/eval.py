"""`lorgnette eval ADAPTER --data FOLDER`: an adapter beside the model without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lorgnette.cli.arguments import Arguments, add_device, add_json, factor
from lorgnette.cli.output import metrics_table
from lorgnette.files import write_json


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)

    from tqdm import tqdm

    from lorgnette.checkpoint import load, load_recipe
    from lorgnette.cli.device import to_device
    from lorgnette.listeners.record import finite
    from lorgnette.recipe import build
    from lorgnette.systems import room, room_name, room_of

    recipe = load_recipe(options.adapter) if options.adapter else room("superres").Recipe(lora=None)
    tasks = {}
    if recipe.lora is not None or recipe.model.base != "none":  # an untrained network is nothing to compare with
        tasks["base"] = build(replace(recipe, lora=None))
    if options.adapter:
        tasks["model" if recipe.lora is None else "adapted"] = load(options.adapter)
    rows = room_of(recipe).evaluation(
        {name: to_device(task, options.device) for name, task in tasks.items()},
        options.data,
        scales=options.scales,
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
        "Scores an adapter on images it has not seen, beside the model without it and bicubic enlargement: "
        "PSNR and SSIM on luma, 8-bit, shaved by the scale.",
    )
    parser.add_argument(
        "adapter", nargs="?", metavar="ADAPTER", help="folder of an adapter or of a whole model; unset: as shipped"
    )
    parser.add_argument("--data", required=True, metavar="FOLDER", help="images at high resolution")
    parser.add_argument("--lr", metavar="FOLDER", help="their low-resolution namesakes; unset: made by bicubic")
    parser.add_argument(
        "--scales", nargs="+", type=factor, default=[2.0, 3.0, 4.0], metavar="S", help="factors; unset: 2 3 4"
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="score whole images, as published tables do; unset: their middle, as during training",
    )
    add_device(parser)
    add_json(parser)
    return parser
