"""`lorgnette export ADAPTER OUT.onnx`: a trained model as a file that other programs run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.cli.arguments import Arguments, add_json, progress_bar
from lorgnette.common.files import check_free, check_writable, write_json
from lorgnette.common.text import metrics_table, size
from lorgnette.common.values import factor, whole
from lorgnette.export.manifest import SIDES
from lorgnette.systems import ROOMS, room, room_name

if TYPE_CHECKING:
    from lorgnette.export import Report
    from lorgnette.train.task import Task

BASE = "base"
CALIBRATED = 96
"""Side of what is calibrated on of each picture, around its centre: many times less work than whole photographs."""


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)
    out = Path(options.out)
    check_free(out, options.overwrite)
    check_writable(out)

    from lorgnette.export import export

    task, recipe = _kept(options.adapter, options.room)
    report = export(
        task,
        recipe,
        out,
        options.format,
        _scoring(options.test, recipe),
        int8="weights" if options.int8_weights else "static" if options.int8 else None,
        calibrate=_scoring(options.int8, recipe, CALIBRATED),
        size=options.size,
        scale=options.scale,
    )
    _tell(report, options.test)
    if options.json:
        write_json(options.json, asdict(report) | {"difference": report.difference, "test": options.test})
    return 0


def _arguments() -> Arguments:
    parser = Arguments(
        "export",
        "lorgnette export runs/NAME/adapter model.onnx --test photos",
        "Writes a trained model, adapters folded in, as a file that other programs run: ONNX for ONNX Runtime, or a "
        "program of torch.export. It takes inputs of any size, or of one. The file is run beside the network before it "
        "is kept: what is printed was measured on it.",
    )
    about = f"folder of an adapter, a whole model or a run; the NAME of an adapter that ships; {BASE}: as shipped"
    parser.add_argument("adapter", metavar="ADAPTER", help=about)
    parser.add_argument(
        "out", metavar="OUT", help="file to write; its suffix chooses the format: .onnx, .pt2, .ts, .pte"
    )
    parser.add_argument("--room", choices=list(ROOMS), help="of what ships; unset: superres, or whose NAME it is")
    parser.add_argument(
        "--format",
        choices=("onnx", "program", "torchscript", "executorch", "inductor"),
        help="unset: what the suffix says",
    )
    about = "held-out data as `lorgnette eval --data` takes it, to score network and file on; unset: no scores"
    parser.add_argument("--test", metavar="FOLDER", help=about)
    how = parser.add_mutually_exclusive_group()
    about = "convolutions and products in 8 bits, calibrated on data like those it is for, as --test takes them"
    how.add_argument("--int8", metavar="FOLDER", help=about)
    how.add_argument("--int8-weights", action="store_true", help="weights in 8 bits, computed with in float32")
    about = "the file takes squares of N pixels, and makes pictures of such tiles; unset: any size"
    parser.add_argument("--size", type=whole(*SIDES), metavar="N", help=about)
    about = "of superres with --size: by how much a square may be enlarged at once; unset: as usual"
    parser.add_argument("--scale", type=factor, metavar="S", help=about)
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")
    add_json(parser)
    return parser


def _kept(adapter: str, of: str | None) -> tuple[Task, Any]:
    """A task and its recipe, by what the command line calls it."""
    from lorgnette.checkpoint import load, load_recipe
    from lorgnette.shipped import adapter_path, load_shipped, named_folder, rooms_with_adapter

    homes = [] if Path(adapter).exists() else rooms_with_adapter(adapter)
    if homes:
        folder = str(adapter_path(of or homes[0], adapter))
    elif adapter == BASE and not Path(adapter).exists():
        name = of or next(iter(ROOMS))
        recipe: Any = room(name).Recipe()
        return load_shipped(name), replace(recipe, lora=None)
    else:
        folder = str(named_folder(adapter))
        if of not in (None, room_name(load_recipe(folder))):
            raise ValueError(f"--room: {adapter} is of another room than {of}; leave --room out")
    return load(folder).float(), load_recipe(folder)


def _scoring(folder: str | None, recipe: Any, side: int = 0) -> Any:
    """Scores of tasks on a folder, as `lorgnette eval` has them, of pictures no larger than `side` where there is one;
    None where there is no folder."""
    if folder is None:
        return None
    from lorgnette.systems import room_of

    home = room_of(recipe)
    crop = {}
    if home.ABOUT.crop:
        crop["crop"] = min(filter(None, (getattr(recipe.data, home.ABOUT.crop), side)), default=0)

    def score(tasks: Mapping[str, Task]) -> dict[str, dict[str, float]]:
        return home.evaluation(tasks, folder, **crop, progress=progress_bar)

    return score


def _tell(report: Report, test: str | None) -> None:
    print(f"wrote     {report.file}, {size(report.bytes)}, {report.format}")
    print(f"differs   by {report.difference:.1e} of the network's largest output, over {len(report.differences)} sizes")
    print(f"takes     {report.time_ratio:.2f} of PyTorch's time")
    if how := report.int8:
        computed = ", ".join(f"{count} {op}" for op, count in how["runs"].items()) or "nothing"
        print(f"int8      {len(how['layers'])} layers, {how['samples']} inputs calibrated on; in 8 bits run {computed}")
        print(f"float32   {len(how['left'])} layers{': ' + ', '.join(how['left']) if how['left'] else ''}"[:160])
        print(
            f"beside    the same in float32: {how['bytes_ratio']:.2f} of the bytes, {how['time_ratio']:.2f} of the time"
        )
    if test is None:
        print("scores    not measured: --test FOLDER measures them")
    else:
        print(metrics_table(report.scores, Path(test).name))
