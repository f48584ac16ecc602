"""`lorgnette enhance IN OUT`: enlarge or restore an image, every image of a folder, or a clip."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorgnette.cli import one_line
from lorgnette.cli.arguments import Arguments, add_device, kept_folder, progress_bar
from lorgnette.cli.sizes import wanted, width_by_height
from lorgnette.common.files import check_writable
from lorgnette.common.values import factor, whole
from lorgnette.images.notes import told
from lorgnette.systems import rooms_with


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)
    source, out = Path(options.source), Path(options.out)
    if not source.exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    from lorgnette.cli import enhance_clip

    if enhance_clip.is_clip(source, out, options):
        return enhance_clip.run(source, out, options, lambda: _load(options))
    enhance_clip.refuse_options(options)
    is_folder = source.is_dir()
    jobs = _folder_jobs(source, out, options.overwrite) if is_folder else [_file_job(source, out)]
    for _, target in jobs:
        _check_target(target)
    task, enhance = _load(options)
    if not is_folder:
        with told() as notes, notes.of(*jobs[0]):
            _enlarge(*jobs[0], task, enhance, options, bar=True)
        print(jobs[0][1])
        return 0
    return _enlarge_all(jobs, out, task, enhance, options)


def _arguments() -> Arguments:
    parser = Arguments(
        "enhance",
        "lorgnette enhance small.jpg large.png --scale 3.3",
        "Enlarges or restores an image, or all images of a folder. Without an adapter, by a model as shipped: "
        "superres enlarges, restore takes noise away. Bit depth, transparency, colour profile and what a picture says "
        "of itself are kept, or named as lost; any size is done, tile by tile. So are "
        "clips: see the options from --frames on.",
    )
    parser.add_argument("source", metavar="IN", help="image, clip or folder (its subfolders are searched too)")
    parser.add_argument("out", metavar="OUT", help="image or clip (the suffix chooses the format) or folder")
    parser.add_argument(
        "--adapter", type=kept_folder, metavar="FOLDER", help="an adapter, a whole model or a run; unset: as shipped"
    )
    parser.add_argument(
        "--room", choices=rooms_with("enhance"), help="without an adapter: whose model; unset: superres"
    )
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--scale", type=_scale, metavar="S", help="factor, as 3.3 or 0.5; unset: 2, or the model's own")
    wanted.add_argument("--size", type=width_by_height, metavar="WxH", help="width and height in pixels, any two")
    for name, what in (("width", "width"), ("height", "height"), ("long-side", "longer side")):
        wanted.add_argument(f"--{name}", type=whole(), metavar="N", help=f"{what} in pixels, shape kept")
    parser.add_argument("--tile", type=whole(16), metavar="N", help="side of a tile; smaller needs less memory")
    parser.add_argument("--halo", type=whole(0), metavar="N", help="pixels that a tile sees beyond its own")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="unset: fp32")
    parser.add_argument("--quality", type=whole(1, 100), metavar="N", help="of JPEG, WebP (unset: 95) and clips (80)")
    parser.add_argument("--overwrite", action="store_true", help="do again what is already there")
    add_device(parser)
    from lorgnette.cli.enhance_clip import add_options

    add_options(parser)
    return parser


def _scale(text: str) -> float:
    return factor(text, least=0.01)


# ------------------------------------------------------------------------------------------- what goes where


def _file_job(source: Path, out: Path) -> tuple[Path, Path]:
    from lorgnette.images.folders import written_as

    target = out / written_as(Path(source.name)) if out.is_dir() else out
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the input itself: give another output")
    return source, target


def _folder_jobs(source: Path, out: Path, overwrite: bool) -> list[tuple[Path, Path]]:
    from lorgnette.images.folders import find_images, written_as

    if out.is_file():
        raise ValueError(f"{out} is a file: for a folder of images, give a folder")
    if out.exists() and out.samefile(source):
        raise ValueError(f"{out} is the input folder itself: give another one")
    files = [file for file in find_images(source) if out.resolve() not in file.resolve().parents]
    jobs = [(file, out / written_as(file.relative_to(source))) for file in files]
    return [job for job in jobs if overwrite or not job[1].exists()]


def _check_target(target: Path) -> None:
    """Find out before the work whether the file can be written."""
    from lorgnette.images.file import check_output

    check_output(target)
    check_writable(target)


# ------------------------------------------------------------------------------------------------- the work


def _load(options: argparse.Namespace) -> tuple[Any, Any]:
    """The task and its room's `enhance`."""
    from lorgnette.checkpoint import load, load_recipe
    from lorgnette.common.devices import to_device
    from lorgnette.recipe import build
    from lorgnette.systems import room, room_name, verb_of

    if options.adapter is None:
        name = options.room or rooms_with("enhance")[0]
        task = build(replace(room(name).Recipe(), lora=None))
    else:
        name = room_name(load_recipe(options.adapter))
        if options.room not in (None, name):
            raise ValueError(f"--room: {options.adapter} is of the room {name}, not {options.room}; leave --room out")
        if name not in rooms_with("enhance"):
            raise ValueError(f"--adapter: {options.adapter} is of the room {name}, which does not enhance images")
        task = load(options.adapter)
    return to_device(task, options.device), verb_of(name, "enhance")


def _enlarge(source: Path, target: Path, task: Any, enhance: Any, options: argparse.Namespace, bar: bool) -> None:
    """One file: a picture, or all pages of a TIFF into another. The new file has the date of the old one."""
    from lorgnette.images.file import Image, check_output, count_images, read_image, read_images, write_images

    def enlarged(image: Image) -> Image:
        def begin(tiles: list[Any]) -> Any:
            """The last moment at which it is known how large the result is, and nothing is done."""
            size = (tiles[0].y.n_out, tiles[0].x.n_out)
            check_output(target, alpha=image.alpha is not None, size=size, bits=image.bits)
            return progress_bar(tiles, "tile") if bar else tiles

        check_output(target, alpha=image.alpha is not None)
        settings: dict[str, Any] = {"precision": options.precision, "progress": begin}
        settings |= {"tile": options.tile, "halo": options.halo}
        return enhance(task, image, **settings, **wanted(options, *image.pixels.shape[:2]))

    count = count_images(source) if target.suffix.lower() in (".tif", ".tiff") else 1
    pictures = read_images(source) if count > 1 else [read_image(source)]
    write_images(target, map(enlarged, pictures), options.quality or 95, count)
    times = source.stat()
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))


def _enlarge_all(jobs: list[tuple[Path, Path]], out: Path, task: Any, enhance: Any, options: Any) -> int:
    """Every image of a folder; a broken one does not stop the others."""
    failures = []
    with told() as notes:
        for source, target in progress_bar(jobs, "image"):
            try:
                with notes.of(source, target):
                    _enlarge(source, target, task, enhance, options, bar=False)
            except (ValueError, OSError) as error:
                reason = one_line(error)
                failures.append(reason if str(source) in reason else f"{source}: {reason}")
    print(f"{len(jobs) - len(failures)} images written to {out}")
    for failure in failures:
        print(f"  {failure}", file=sys.stderr)
    if failures:
        raise ValueError(f"{len(failures)} of {len(jobs)} images could not be done (listed above)")
    return 0
