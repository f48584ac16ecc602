"""`lorgnette enhance FOLDER OUT`: every picture or clip of a folder; what is there already, and what is left."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.cli import enhance_clip
from lorgnette.cli.arguments import progress_bar
from lorgnette.common.files import check_writable, write_json
from lorgnette.common.results import DONE, Results
from lorgnette.common.text import one_line
from lorgnette.images.folders import told as passed_over, walk
from lorgnette.images.formats.table import WRITABLE
from lorgnette.images.notes import told
from lorgnette.video.clip import READ_SUFFIXES
from lorgnette.video.codecs import CONTAINERS

if TYPE_CHECKING:
    from lorgnette.enhancing.enhancer import Enhancer

Job = tuple[Path, Path]
"""A file and what it becomes."""
_SETTINGS = (
    "scale",
    "size",
    "shape",
    "width",
    "height",
    "long_side",
    "tile",
    "halo",
    "precision",
    "quality",
    "strength",
    "range",
    "cmsr",
    "max_loss",
)
_OF_CLIPS = ("codec", "cache", "tolerance", "truncated")


def run(
    source: Path,
    out: Path,
    options: argparse.Namespace,
    load: Callable[[], Enhancer],
    enlarge: Callable[[Path, Path, Enhancer], object],
) -> int:
    """Do a folder; returns the exit status.

    Args:
        source: the folder.
        out: where the results go, under the names of what they are made of.
        options: of the command line.
        load: what enhances them.
        enlarge: does one picture: `enlarge(source, target, enhancer)`.
    """
    from lorgnette.images.file import check_output

    pictures, clips, left_over = _found(source, out, options)
    for _, target in [*pictures, *clips]:
        check_writable(target)
    enhancer = load()
    done = _Done(out, {name: paths for name, paths in left_over.items() if paths})
    with told() as notes, Results(out, _job(enhancer, options, bool(clips)), options.overwrite) as results:

        def picture(file: Path, target: Path) -> None:
            check_output(target)
            with notes.of(file, target):
                enlarge(file, target, enhancer)

        def clip(file: Path, target: Path) -> None:
            replace = options.overwrite or target.exists()
            done.figures[str(file)] = enhance_clip.do(
                enhancer, enhance_clip.opened(file, options), target, options, replace
            )

        try:
            done.all(pictures, picture, results, "image")
            done.all(clips, clip, results, "clip")
        except KeyboardInterrupt:
            same = "the same command without --overwrite" if options.overwrite else "the same command"
            print(f"lorgnette: interrupted: what is done is kept in {out}; {same} goes on", file=sys.stderr)
            return 130
    if options.json:
        write_json(options.json, done.report() | {"chosen": enhancer.choices()})
    said = passed_over(done.passed_over, source)
    if said:
        print(f"lorgnette: {said}", file=sys.stderr)
    if options.levels:
        print(options.levels)
    chosen = enhancer.said(*(source for source, _ in [*pictures, *clips]))
    if chosen:
        print(f"chosen by looking: {chosen[0]}")
    return done.tell(len(pictures) + len(clips))


class _Done:
    """What came of a folder."""

    def __init__(self, out: Path, passed_over: dict[str, list[Path]]) -> None:
        self.out, self.passed_over = out, passed_over
        self.written: dict[str, list[Path]] = {}
        self.before: list[Path] = []
        self.left: dict[str, str] = {}
        self.figures: dict[str, Any] = {}

    def all(self, jobs: Sequence[Job], do: Callable[[Path, Path], None], results: Results, unit: str) -> None:
        """Do each; one that cannot be done does not stop the others."""
        if jobs:
            self.written[unit] = []
        for source, target in progress_bar(jobs, unit):
            try:
                standing = results.standing(source, target)
                if standing == DONE:
                    self.before.append(target)
                elif standing:
                    raise ValueError(standing)
                else:
                    results.begin(source, target)
                    do(source, target)
                    results.end(target)
                    self.written[unit].append(target)
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not _out_of_memory(error):
                    raise
                self.left[str(source)] = one_line(error)

    def report(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "written": [str(path) for paths in self.written.values() for path in paths],
            "there already": [str(path) for path in self.before],
            "left": self.left,
            "passed over": {kind: [str(path) for path in paths] for kind, paths in self.passed_over.items()},
            "clips": self.figures,
        }

    def tell(self, count: int) -> int:
        """On the screen; a ValueError where something is left."""
        parts = [f"{len(paths)} {_many(unit, len(paths))} written" for unit, paths in self.written.items()]
        already = f", {len(self.before)} there already" if self.before else ""
        print(f"{' and '.join(parts)} to {self.out}{already}")
        for source, reason in self.left.items():
            print(f"  {reason if source in reason else f'{source}: {reason}'}", file=sys.stderr)
        if self.left:
            units = " or ".join(f"{unit}s" for unit in self.written)
            raise ValueError(f"{len(self.left)} of {count} {units} could not be done (listed above)")
        return 0


def _out_of_memory(error: RuntimeError) -> bool:
    from lorgnette.tiles.memory import is_out_of_memory  # with PyTorch, which an exported model does without

    return is_out_of_memory(error)


def _many(unit: str, count: int) -> str:
    return unit if count == 1 else f"{unit}s"


def _found(source: Path, out: Path, options: argparse.Namespace) -> tuple[list[Job], list[Job], dict[str, list[Path]]]:
    """Pictures and clips to do, and what is passed over."""
    if out.is_file():
        raise ValueError(f"{out} is a file: for a folder of images, give a folder")
    if out.exists() and out.samefile(source):
        raise ValueError(f"{out} is the input folder itself: give another one")
    found = walk(source, apart=out)
    clips = [path for path in found.others if path.suffix.lower() in READ_SUFFIXES and path.is_file()]
    others = [path for path in found.others if path not in set(clips)]
    with_clips = options.clips or not found.images
    left_over = {
        "clips (--clips does them)": [] if with_clips else clips,
        "of other kinds": others,
        "hidden": found.hidden,
        "links to folders": found.linked,
    }
    if not found.images and not clips:
        said = passed_over(left_over, source)
        raise FileNotFoundError(f"no images in {source} and no clips{f'; {said}' if said else ''}")
    enhance_clip.refuse_options(options, ("json", "clips", *(_OF_CLIPS if with_clips else ())))
    pictures = _targets(source, out, found.images, options.format, WRITABLE, enhance_clip.as_picture)
    if not with_clips:
        return pictures, [], left_over
    kinds = tuple(CONTAINERS)
    return pictures, _targets(source, out, clips, options.format, kinds, enhance_clip.as_clip), left_over


def _targets(
    source: Path,
    out: Path,
    files: Sequence[Path],
    format: str | None,
    kinds: Sequence[str],
    named: Callable[[Path, str | None], Path],
) -> list[Job]:
    """Each file with its target; where two would come to one name, they keep their old suffix before the new one."""
    if files and format and f".{format}" not in kinds:
        raise ValueError(f"--format: {files[0]} cannot become {format}; {', '.join(kind[1:] for kind in kinds)} work")
    names = {file: named(file.relative_to(source), format) for file in files}
    counts = Counter(names.values())
    for file, name in names.items():
        if counts[name] > 1 and name.suffix != file.suffix:
            names[file] = name.with_name(file.name + name.suffix)
    return [(file, out / name) for file, name in names.items()]


def _job(enhancer: Enhancer, options: argparse.Namespace, clips: bool) -> dict[str, Any]:
    """How results are made, by the names of the options; so that it says which one is another."""
    names = (*_SETTINGS, *(_OF_CLIPS if clips else ()))
    settings = {name.replace("_", "-"): getattr(options, name) for name in names}
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    return {"adapter or model": enhancer.identity()} | settings
