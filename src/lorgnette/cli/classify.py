"""`lorgnette classify IMAGE ... --adapter FOLDER`: say what is on pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorgnette.cli.arguments import Arguments, add_device, add_json, kept_folder, progress_bar
from lorgnette.common.files import write_json
from lorgnette.common.text import one_line, table
from lorgnette.common.values import whole


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)
    if options.adapter and options.classes:
        raise ValueError("--classes: an adapter knows its own classes; leave one of the two out")

    from lorgnette.common.devices import to_device
    from lorgnette.images.file import read_image
    from lorgnette.images.folders import find_images
    from lorgnette.systems import verb_of

    files = [file for path in map(Path, options.images) for file in (find_images(path) if path.is_dir() else [path])]
    name, task = _task(options)
    task = to_device(task, options.device)
    for file in files:
        if not file.exists():
            raise FileNotFoundError(f"no such image file: {file}")
    done: list[str] = []
    left_out: dict[str, str] = {}

    def images() -> Iterator[Any]:
        """One at a time; a broken one does not stop the others."""
        for file in progress_bar(files):
            try:
                image = read_image(file)
            except (ValueError, OSError, MemoryError) as error:
                left_out[str(file)] = one_line(error)
            else:
                done.append(str(file))
                yield image

    answers = verb_of(name, "classify")(task, images(), top=options.top)
    found = dict(zip(done, answers, strict=True))
    rows = [[file, *(f"{label.name} {label.probability:.3f}" for label in labels)] for file, labels in found.items()]
    if rows:
        print(table(["picture", *(f"{place}." for place in range(1, len(rows[0])))], rows))
    if options.json:
        pictures = {file: [label._asdict() for label in labels] for file, labels in found.items()}
        write_json(options.json, {"adapter": options.adapter, "pictures": pictures, "left_out": left_out})
    for file, reason in left_out.items():
        print(f"  {reason if file in reason else f'{file}: {reason}'}", file=sys.stderr)
    if left_out:
        raise ValueError(f"{len(left_out)} of {len(files)} images could not be read (listed above)")
    return 0


def _task(options: argparse.Namespace) -> tuple[str, Any]:
    """The name of the room, and the task."""
    from lorgnette.checkpoint import load, load_recipe
    from lorgnette.recipe import build
    from lorgnette.systems import room_name, rooms_with

    if options.adapter:
        name = room_name(load_recipe(options.adapter))
        if name not in rooms_with("classify"):
            raise ValueError(f"--adapter: {options.adapter} is of the room {name}, which tells no classes apart")
        return name, load(options.adapter)
    if not options.classes:
        raise ValueError("--classes: not set; give their names, or an --adapter that knows some")
    from lorgnette.systems import clip  # zero-shot, by names alone, is what CLIP does

    clip.Data(classes=tuple(options.classes), prompts=(options.prompt,)).check_alike()
    data = clip.Data(classes=tuple(options.classes), prompts=(options.prompt,))
    return "clip", build(clip.Recipe(model=clip.Model(base=options.base, head="text"), data=data, lora=None))


def _arguments() -> Arguments:
    parser = Arguments(
        "classify",
        "lorgnette classify scan.png more-scans --adapter runs/NAME/adapter",
        "Says which class pictures belong to: by an adapter, or without one by the names of the classes alone "
        "(zero-shot), as far as the base knows the words.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("--adapter", type=kept_folder, metavar="FOLDER", help="an adapter, a whole model or a run")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="without an adapter: the names to choose from")
    parser.add_argument("--base", default="shipped", help="without an adapter: whose CLIP; unset: shipped")
    parser.add_argument("--prompt", default="a photo of a {}", help="without an adapter; unset: 'a photo of a {}'")
    parser.add_argument("--top", type=whole(), default=1, metavar="N", help="answers for each picture; unset: 1")
    add_device(parser)
    add_json(parser)
    return parser
