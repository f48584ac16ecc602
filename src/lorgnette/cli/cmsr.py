"""`lorgnette cmsr FOLDER`: tables by which `enhance --cmsr` renders smooth parts of pictures at lower scales."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from lorgnette.cli.arguments import Arguments, add_device, add_json, kept_folder, left_out, progress_bar
from lorgnette.common.files import check_free, check_writable, write_json
from lorgnette.common.text import number, table
from lorgnette.common.values import factor, whole
from lorgnette.systems import room, room_name, rooms_with, verb_of

if TYPE_CHECKING:
    from lorgnette.systems.protocol import RendersLess

FILE = "cmsr.yaml"


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)
    if options.out is None and options.adapter is None:
        raise ValueError("--out: say where the tables of the weights that ship go, such as cmsr.yaml")
    out = Path(options.out or Path(options.adapter) / FILE)
    check_free(out, options.overwrite)
    check_writable(out)
    from lorgnette.checkpoint import load, load_recipe
    from lorgnette.common.devices import to_device
    from lorgnette.shipped import load_shipped

    of = options.room if options.adapter is None else room_name(load_recipe(options.adapter))
    verb_of(of, "cmsr")
    home = cast("RendersLess", room(of))
    task = to_device(load_shipped(of) if options.adapter is None else load(options.adapter), options.device)
    with left_out(strict=False):
        made = home.cmsr(
            task,
            options.folder,
            options.scales,
            most=options.pictures,
            mse_threshold=options.mse_threshold,
            progress=progress_bar,
        )
    home.write_tables(str(out), made)
    rows = [[f"x{t.scale:g}", number(t.loss), f"{t.queries:.0%}"] for t in made.tables]
    print(table(["scale", "dB lost", "points rendered"], rows))
    print(f"{out}  (made on {made.pictures} pictures)")
    if options.json:
        figures = [{"scale": t.scale, "loss": t.loss, "queries": t.queries} for t in made.tables]
        write_json(options.json, {"pictures": made.pictures, "tables": figures})
    return 0


def _arguments() -> Arguments:
    parser = Arguments(
        "cmsr",
        "lorgnette cmsr photos --adapter my-adapter",
        "Makes tables of which parts of a picture a lower scale does for, on pictures like yours, with what each costs "
        "in PSNR and saves in points (controllable multi-scale rendering). `lorgnette enhance --cmsr` renders by them.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="sharp pictures (its subfolders are searched too)")
    adapter = "an adapter, a whole model or a run; unset: the weights that ship"
    parser.add_argument("--adapter", type=kept_folder, metavar="FOLDER", help=adapter)
    parser.add_argument("--room", choices=rooms_with("cmsr"), default=rooms_with("cmsr")[0], help="unset: superres")
    scales = "to make tables for; each serves down to half of it; unset: 6 8 12"
    parser.add_argument("--scales", type=factor, nargs="+", default=[6.0, 8.0, 12.0], metavar="S", help=scales)
    pictures = "looked at, spread over the folder; unset: 24"
    parser.add_argument("--pictures", type=whole(), default=24, metavar="N", help=pictures)
    threshold = "one table a scale, with this mean squared error in [-1, 1] (published: 2e-5); unset: by loss"
    parser.add_argument("--mse-threshold", type=float, metavar="E", help=threshold)
    parser.add_argument("--out", metavar="FILE", help=f"unset: {FILE} beside the adapter, where enhance looks for it")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    add_device(parser)
    add_json(parser)
    return parser
