"""`lorgnette enhance [MODEL.onnx] IN OUT`: enlarge or restore an image, every image of a folder, or a clip."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.cli.arguments import Arguments, add_device, progress_bar
from lorgnette.cli.sizes import add_sizes, check_sizes, how
from lorgnette.common.files import check_free, check_writable
from lorgnette.common.values import whole
from lorgnette.enhancing.file import enhance_file
from lorgnette.images.notes import told
from lorgnette.systems import rooms_with

if TYPE_CHECKING:
    from lorgnette.enhancing.enhancer import Enhancer


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    from lorgnette.enhancing.enhancer import EXPORTED

    if words and words[0].endswith(EXPORTED):  # MODEL.onnx IN OUT
        words = ["--adapter", *words]
    options = _arguments().read(words)
    source, out = Path(options.source), Path(options.out)
    check_sizes(options)
    if options.max_loss is not None and options.cmsr is None:
        raise ValueError("--max-loss: is for --cmsr, which is not set")
    if not source.exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    from lorgnette.cli import enhance_clip, enhance_folder

    if enhance_clip.is_clip(source, out, options):
        return enhance_clip.run(source, out, options, lambda: _load(options))

    def enlarge(source: Path, target: Path, enhancer: Enhancer) -> None:
        enhance_file(source, target, enhancer, how(options), partial(progress_bar, unit="tile"))

    if options.preview and source.is_dir():
        raise ValueError(f"--preview: is for one picture, and {source} is a folder")
    if source.is_dir():
        return enhance_folder.run(source, out, options, lambda: _load(options), enlarge)
    enhance_clip.refuse_options(options)
    target = _target(source, out, options)
    enhancer = _load(options)
    with told() as notes, notes.of(source, target):
        if options.preview:
            from lorgnette.cli.preview import write_preview

            write_preview(source, target, enhancer, options)
        else:
            enlarge(source, target, enhancer)
    for said in enhancer.said(source):
        print(said)
    if options.levels:
        print(options.levels)
    print(target)
    return 0


def _arguments() -> Arguments:
    parser = Arguments(
        "enhance",
        "lorgnette enhance small.jpg large.png --scale 3.3",
        "Enlarges or restores an image, or all images of a folder, by a model as shipped: superres enlarges, restore "
        "takes noise and JPEG artefacts away. It looks at each picture, and takes the adapter that suits it. Bit "
        "depth, transparency, colour profile and what a picture says of itself are kept, or named as lost; any size "
        "is done, tile by tile. So are clips: see the options from --frames on.",
    )
    parser.add_argument("source", metavar="IN", help="image, clip or folder (its subfolders are searched too)")
    parser.add_argument("out", metavar="OUT", help="image or clip (the suffix chooses the format) or folder")
    from lorgnette.enhancing.enhancer import AUTO, adapter

    parser.add_argument(
        "--adapter",
        type=adapter,
        default=AUTO,
        metavar="A",
        help="auto: what suits each picture; none: the model as shipped; a NAME that ships with it; "
        "the FOLDER of an adapter, a whole model or a run; or an exported FILE.onnx or FILE.pte; unset: auto",
    )
    parser.add_argument("--room", choices=rooms_with("enhance"), help="whose model and adapters; unset: superres")
    strength = "of the adapter (superres) or of the whole change (restore), 0 to 1.5; unset: 1, as trained"
    clean = "first take noise and artefacts away, by what suits the picture (restore), S of it; unset S: 1, all of it"
    range_help = "the picture's own numbers for black and white; unset: all of its depth, or 0 to the largest of counts"
    parser.add_argument("--range", type=float, nargs=2, metavar=("LO", "HI"), help=range_help)
    parser.add_argument("--strength", type=float, metavar="S", help=strength)
    parser.add_argument("--clean", type=float, nargs="?", const=1.0, metavar="S", help=clean)
    less = "render smooth parts at lower scales by the tables of `lorgnette cmsr`; unset FILE: those beside the weights"
    parser.add_argument("--cmsr", nargs="?", const="", metavar="FILE", help=less)
    loss = "dB of PSNR that --cmsr may lose; unset: 0.02"
    parser.add_argument("--max-loss", type=float, metavar="DB", help=loss)
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
    preview = "three parts of the picture, as given and enhanced, side by side in OUT: a look before the work"
    parser.add_argument("--preview", action="store_true", help=preview)
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


def _load(options: argparse.Namespace) -> Enhancer:
    from lorgnette.enhancing.enhancer import AUTO, enhancer

    found = enhancer(options.adapter, options.room, options.device)
    if options.clean is not None:
        from lorgnette.enhancing.cleaned import Cleaned, cleaning_room

        found = Cleaned(enhancer(AUTO, cleaning_room(), options.device), options.clean, found)
    options.levels = None if options.cmsr is None else _levels(options, found.of)
    return found


def _levels(options: argparse.Namespace, of: str) -> Any:
    """What renders by tables, and counts what that saves: those of a file, or those beside the weights."""
    from lorgnette.systems import room, verb_of

    verb_of(of, "cmsr")
    home: Any = room(of)
    beside = options.adapter if Path(options.adapter).is_dir() else None
    loss = {} if options.max_loss is None else {"max_loss": options.max_loss}
    return home.read_tables(options.cmsr or beside).levels(**loss)
