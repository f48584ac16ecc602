"""`lorgnette mesh MASK -o OUT`: the organs of a mask as closed surfaces in millimetres."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.cli.arguments import Arguments, add_json, progress_bar
from lorgnette.common.files import check_free, check_writable, make_folder, write_json
from lorgnette.common.results import DONE, Results, digest
from lorgnette.common.text import number, table
from lorgnette.common.values import whole
from lorgnette.systems.mesh.surface.settings import Surface

if TYPE_CHECKING:
    from lorgnette.systems.mesh.surface import Mesh
    from lorgnette.systems.mesh.volumes import Labels

BY = ("network", "interpolate", "extrude")
FORMATS = ("stl", "ply", "obj", "glb", "vtp")


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)
    mask, out = Path(options.mask), Path(options.out)
    scene = out.suffix.lower().removeprefix(".") in FORMATS and not out.is_dir()
    settings = _settings(options, scene)
    if options.by and not options.complete:
        raise ValueError("--by: says how --complete guesses, which is not given")
    _check_output(out, scene, options)
    from lorgnette.systems.mesh.volumes import read_labels

    names = Path(options.names) if options.names else None
    labels = read_labels(mask, names, options.only or (), lambda files: progress_bar(files, "mask"))
    if options.complete:
        labels = _completed(labels, options)
    for note in labels.notes:
        print(f"lorgnette: {note}", file=sys.stderr)
    run = _Run(mask, labels, settings, options)
    return run.scene(out) if scene else run.folder(out)


def _arguments() -> Arguments:
    parser = Arguments(
        "mesh",
        "lorgnette mesh segmentation.nii.gz -o liver.stl --only liver",
        "Turns masks into closed surfaces in millimetres: smooth, manifold, free of self-intersections, and of the "
        "volume that the voxels have. MASK is a NIfTI file of one label or many, a folder of masks as "
        "TotalSegmentator writes them, or a DICOM segmentation. A file OUT holds all organs as one scene, a folder OUT "
        "a file for each.",
    )
    parser.add_argument("mask", metavar="MASK", help="NIfTI file, folder of masks, or DICOM segmentation")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help=f"a file ({', '.join(FORMATS)}) or a folder")
    parser.add_argument("--only", nargs="+", metavar="ORGAN", help="these organs, by name or number; unset: all")
    parser.add_argument("--names", metavar="FILE", help="names of labels: JSON, or lines of a number and a name")
    parser.add_argument("--format", choices=FORMATS, help="of files in a folder OUT; unset: stl")
    parser.add_argument(
        "--walls",
        choices=("own", "shared"),
        help="shared: organs that touch have one wall, without gap or overlap; own: each is made by itself, and is "
        "smoother; unset: shared in a file of several organs, own in a folder",
    )
    parser.add_argument(
        "--complete",
        metavar="SCAN",
        help="MASK holds a few slices of each organ: guess the rest, from this CT or MR that they were drawn on",
    )
    parser.add_argument(
        "--by",
        choices=BY,
        help="with --complete: how. network: a net looks at the scan; interpolate, extrude: from the slices alone; "
        "unset: network",
    )
    parser.add_argument("--largest", action="store_true", help="only the largest part of each organ; unset: all parts")
    parser.add_argument("--error", type=float, metavar="MM", help="save triangles: surfaces move by no more than this")
    parser.add_argument(
        "--triangles", type=whole(4), metavar="N", help="with --error: how many an organ is wished to have"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what is there already; unset: it is left, and named"
    )
    pages = "where report.html and view.html go; unset: into a folder OUT, and nowhere for a file"
    parser.add_argument("--report", metavar="FOLDER", help=pages)
    add_json(parser)
    return parser


def _settings(options: argparse.Namespace, scene: bool) -> Surface:
    if options.format and scene:
        raise ValueError("--format is for a folder OUT; the suffix of a file says it already")
    shared = options.walls == "shared" or (options.walls is None and scene and options.error is None)
    try:
        return Surface(shared, options.largest, options.error, options.triangles)
    except ValueError as error:
        raise ValueError(f"--{str(error).replace('shared_walls', '--walls shared')}") from None


def _completed(labels: Labels, options: argparse.Namespace) -> Labels:
    from lorgnette.systems.mesh.slices import complete_labels
    from lorgnette.systems.mesh.volumes import read_image

    scan = read_image(Path(options.complete))
    try:
        return complete_labels(labels, scan, options.by or BY[0], lambda organs: progress_bar(organs, "organ"))
    except ValueError as error:
        raise ValueError(f"--complete: {error}") from None


def _check_output(out: Path, scene: bool, options: argparse.Namespace) -> None:
    """Find out before the work whether the result can be written."""
    if scene:
        if options.report:
            check_free(Path(options.report) / "report.html", options.overwrite)
            check_writable(Path(options.report) / "report.html")
        check_free(out, options.overwrite)
        check_writable(out)
        return
    if out.suffix and not out.is_dir() and out.suffix.lower() not in ("", "."):
        from lorgnette.systems.mesh.files import check_suffix

        if len(out.suffix) <= 5 and not out.suffix[1:].isdecimal():
            check_suffix(out)
    if out.is_file():
        raise ValueError(
            f"{out} is a file of no format of meshes: give a folder, or a file ending in {', '.join(FORMATS)}"
        )
    check_writable(make_folder(out) / "mesh")


class _Run:
    """What is made of the labels, and what is said of it."""

    def __init__(self, mask: Path, labels: Labels, settings: Surface, options: argparse.Namespace) -> None:
        self.mask, self.labels, self.settings, self.options = mask, labels, settings, options
        self.meshes: list[Mesh] = []
        self.facts: list[dict[str, Any]] = []

    def scene(self, out: Path) -> int:
        """All organs into one file."""
        from lorgnette.systems.mesh.files import write_meshes

        for mesh in self._made(self.labels):
            self._note(mesh)
        write_meshes(out, self.meshes)
        if self.options.report:
            self._write_pages(Path(self.options.report), f"{_organs(len(self.meshes))} in {out.name}")
        return self._tell(f"{_organs(len(self.meshes))} in {out}")

    def folder(self, out: Path) -> int:
        """A file for each organ, but for those that are there already; and the pages."""
        from lorgnette.systems.mesh.files import write_meshes
        from lorgnette.systems.mesh.volumes.labels import distinct

        suffix = f".{self.options.format or 'stl'}"
        organs = self.labels.organs
        files = distinct([replace(organ, name=_file_name(organ.name)) for organ in organs])
        targets = {organ.name: out / f"{file.name}{suffix}" for organ, file in zip(organs, files, strict=True)}
        with Results(out, self._job(), self.options.overwrite) as results:
            standing = {name: results.standing(self.mask, target) for name, target in targets.items()}
            todo = tuple(organ for organ in self.labels.organs if not standing[organ.name])
            for mesh in self._made(replace(self.labels, organs=todo)) if todo else ():
                results.begin(self.mask, targets[mesh.name])
                write_meshes(targets[mesh.name], [mesh])
                results.end(targets[mesh.name])
                self._note(mesh)
            before = sum(why == DONE for why in standing.values())
            said = f"{_organs(len(todo))} in {out}{f', {before} there already' if before else ''}"
            pages = Path(self.options.report or out)
            page = pages / "report.html"
            why = results.standing(self.mask, page) if pages == out else ""
            if todo and why in ("", DONE):
                self._write_pages(pages, said)
                if pages == out:
                    results.begin(self.mask, page)
                    results.end(page)
            elif todo:
                standing["report.html"] = why
        status = self._tell(said)
        left = [why for why in standing.values() if why not in ("", DONE)]
        for why in left:
            print(f"  {why}", file=sys.stderr)
        if left:
            raise ValueError(f"{len(left)} of {len(targets)} files are left as they are (listed above)")
        return status

    def _made(self, labels: Labels) -> Iterator[Mesh]:
        from lorgnette.systems.mesh.surface import surfaces

        return surfaces(labels, self.settings, lambda organs: progress_bar(organs, "organ"))

    def _job(self) -> dict[str, Any]:
        """How results are made, by the names of the options."""
        mask, settings, scan = self.mask, self.settings, self.options.complete
        return {
            **({"complete": _digests(Path(scan)), "by": self.options.by or BY[0]} if scan else {}),
            "mask": _digests(mask),
            "walls": [organ.name for organ in self.labels.organs] if settings.shared_walls else "own",
            **{"largest": settings.largest, "error": settings.error, "triangles": settings.triangles},
        }

    def _note(self, mesh: Mesh) -> None:
        from lorgnette.systems.mesh.report import facts

        organ = next(organ for organ in self.labels.organs if organ.name == mesh.name)
        self.meshes.append(mesh)
        self.facts.append(facts(mesh, organ, self.labels.affine))

    def _write_pages(self, folder: Path, said: str) -> None:
        from lorgnette.systems.mesh.report import write_pages

        write_pages(
            folder, f"Organs of {self.mask.name}", self.meshes, self.facts, ". ".join([said, *self.labels.notes])
        )

    def _tell(self, line: str) -> int:
        from lorgnette.systems.mesh.report import rows

        if self.facts:
            shown = rows(self.facts)
            print(table(list(shown[0]), [[_cell(value) for value in row.values()] for row in shown]))
        print(line)
        if self.options.json:
            write_json(self.options.json, {"organs": self.facts, "notes": list(self.labels.notes)})
        return 0


def _digests(path: Path) -> str | list[str]:
    return [digest(file) for file in sorted(path.rglob("*"))] if path.is_dir() else digest(path)


def _cell(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else number(value)


def _organs(count: int) -> str:
    return "1 organ" if count == 1 else f"{count} organs"


def _file_name(name: str) -> str:
    """A name that every disk takes."""
    plain = "".join(c if c.isalnum() or c in "-_.+ " else "_" for c in name)
    return plain.encode()[:120].decode(errors="ignore").strip(" .") or "organ"
