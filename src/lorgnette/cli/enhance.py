"""`lorgnette enhance IN OUT`: enlarge or restore an image, every image of a folder, or a clip."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorgnette.cli.arguments import Arguments, add_device, kept_folder, progress_bar
from lorgnette.cli.sizes import add_sizes, check_sizes, frame, wanted
from lorgnette.common.files import check_free, check_writable
from lorgnette.common.values import whole
from lorgnette.images.notes import told
from lorgnette.systems import rooms_with


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)
    source, out = Path(options.source), Path(options.out)
    check_sizes(options)
    if not source.exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    from lorgnette.cli import enhance_clip, enhance_folder

    if enhance_clip.is_clip(source, out, options):
        return enhance_clip.run(source, out, options, lambda: _load(options))

    def enlarge(source: Path, target: Path, task: Any, enhance: Any, bar: bool = False) -> None:
        _enlarge(source, target, task, enhance, options, bar)

    if source.is_dir():
        return enhance_folder.run(source, out, options, lambda: _load(options), enlarge)
    enhance_clip.refuse_options(options)
    target = _target(source, out, options)
    task, enhance = _load(options)
    with told() as notes, notes.of(source, target):
        enlarge(source, target, task, enhance, bar=True)
    print(target)
    return 0


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
    from lorgnette.cli.enhance_clip import add_options, formats

    add_sizes(parser)
    parser.add_argument("--tile", type=whole(16), metavar="N", help="side of a tile; smaller needs less memory")
    parser.add_argument("--halo", type=whole(0), metavar="N", help="pixels that a tile sees beyond its own")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="unset: fp32")
    parser.add_argument("--quality", type=whole(1, 100), metavar="N", help="of JPEG, WebP (unset: 95) and clips (80)")
    parser.add_argument(
        "--format",
        choices=formats(),
        metavar="SUFFIX",
        help="of files in a folder OUT: png, jpg, ..., mp4; unset: as IN",
    )
    replaced = "replace what is there already; unset: it is left as it is, and named"
    parser.add_argument("--overwrite", action="store_true", help=replaced)
    add_device(parser)
    add_options(parser)
    return parser


def _target(source: Path, out: Path, options: argparse.Namespace) -> Path:
    """The file to write; found out before the work whether that can be done."""
    from lorgnette.cli.enhance_clip import as_picture
    from lorgnette.images.file import check_output

    target = out / as_picture(Path(source.name), options.format) if out.is_dir() else out
    if options.format and target.suffix.lower() != f".{options.format}":
        raise ValueError(f"--format: {target} says another one; leave --format out, or give a folder")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the input itself: give another output")
    check_output(target)
    check_free(target, options.overwrite)
    check_writable(target)
    return target


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
    from lorgnette.images.framing import framed

    def enlarged(image: Image) -> Image:
        def begin(tiles: list[Any]) -> Any:
            """The last moment at which it is known how large the result is, and nothing is done."""
            size = frame(options) or settings.get("size") or (tiles[0].y.n_out, tiles[0].x.n_out)
            if options.scale:  # by less than the network's own factor, which tiles do not tell
                height, width = image.pixels.shape[:2]
                size = (max(1, round(height * options.scale)), max(1, round(width * options.scale)))
            check_output(target, alpha=image.alpha is not None, size=size, bits=image.bits)
            return progress_bar(tiles, "tile") if bar else tiles

        check_output(target, alpha=image.alpha is not None)
        settings: dict[str, Any] = {"precision": options.precision, "progress": begin}
        settings |= {"tile": options.tile, "halo": options.halo}
        settings |= wanted(options, *image.pixels.shape[:2])
        return framed(enhance(task, image, **settings), frame(options))

    count = count_images(source) if target.suffix.lower() in (".tif", ".tiff") else 1
    pictures = read_images(source) if count > 1 else [read_image(source)]
    write_images(target, map(enlarged, pictures), options.quality or 95, count)
    times = source.stat()
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
