"""`lorgnette mesh MASK -o OUT`: the organs of a mask as closed surfaces in millimetres."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorgnette.cli.arguments import Arguments, add_json, progress_bar
from lorgnette.common.files import check_free, check_writable, make_folder, write_json
from lorgnette.common.results import DONE, Results, digest
from lorgnette.common.text import number, table
from lorgnette.systems.mesh.surface.settings import Surface

FORMATS = ("stl", "ply", "obj", "glb", "vtp")


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)
    mask, out = Path(options.mask), Path(options.out)
    scene = out.suffix.lower().removeprefix(".") in FORMATS and not out.is_dir()
    settings = _settings(options, scene)
    _check_output(out, scene, options)
    from lorgnette.systems.mesh.volumes import read_labels

    names = Path(options.names) if options.names else None
    labels = read_labels(mask, names, options.only or (), lambda files: progress_bar(files, "mask"))
    for note in labels.notes:
        print(f"lorgnette: {note}", file=sys.stderr)
    run = _Run(labels, settings, options)
    return run.scene(out) if scene else run.folder(mask, out)


def _arguments() -> Arguments:
    parser = Arguments(
        "mesh",
        "lorgnette mesh segmentation.nii.gz -o liver.stl --only liver",
        "Turns masks into closed surfaces in millimetres: smooth, manifold, free of self-intersections, and of the "
        "volume that the voxels have. MASK is a NIfTI file of one label or many, or a folder of masks as "
        "TotalSegmentator writes them. A file OUT holds all organs as one scene, a folder OUT a file for each.",
    )
    parser.add_argument("mask", metavar="MASK", help="NIfTI file or folder of masks")
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
    parser.add_argument("--largest", action="store_true", help="only the largest part of each organ; unset: all parts")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what is there already; unset: it is left, and named"
    )
    add_json(parser)
    return parser


def _settings(options: argparse.Namespace, scene: bool) -> Surface:
    if options.format and scene:
        raise ValueError("--format is for a folder OUT; the suffix of a file says it already")
    shared = options.walls == "shared" or (options.walls is None and scene)
    return Surface(shared, options.largest)


def _check_output(out: Path, scene: bool, options: argparse.Namespace) -> None:
    """Find out before the work whether the result can be written."""
    if scene:
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

    def __init__(self, labels: Any, settings: Surface, options: argparse.Namespace) -> None:
        self.labels, self.settings, self.options = labels, settings, options
        self.facts: list[dict[str, Any]] = []

    def scene(self, out: Path) -> int:
        """All organs into one file."""
        from lorgnette.systems.mesh.files import write_meshes
        from lorgnette.systems.mesh.surface import surfaces

        meshes = list(surfaces(self.labels, self.settings, lambda organs: progress_bar(organs, "organ")))
        write_meshes(out, meshes)
        self._note(meshes)
        return self._tell(f"{_organs(len(meshes))} in {out}")

    def folder(self, mask: Path, out: Path) -> int:
        """A file for each organ, but for those that are there already."""
        from lorgnette.systems.mesh.files import write_meshes
        from lorgnette.systems.mesh.surface import surfaces

        suffix = f".{self.options.format or 'stl'}"
        targets = {organ.name: out / f"{_file_name(organ.name)}{suffix}" for organ in self.labels.organs}
        written, before, left = 0, 0, []
        with Results(out, self._job(mask), self.options.overwrite) as results:
            standing = {name: results.standing(mask, target) for name, target in targets.items()}
            todo = [organ for organ in self.labels.organs if not standing[organ.name]]
            before = sum(why == DONE for why in standing.values())
            left = [why for why in standing.values() if why not in ("", DONE)]
            labels = type(self.labels)(tuple(todo), self.labels.shape, self.labels.affine, self.labels.notes)
            for mesh in surfaces(labels, self.settings, lambda organs: progress_bar(organs, "organ")) if todo else ():
                results.begin(mask, targets[mesh.name])
                write_meshes(targets[mesh.name], [mesh])
                results.end(targets[mesh.name])
                self._note([mesh])
                written += 1
        status = self._tell(f"{_organs(written)} in {out}{f', {before} there already' if before else ''}")
        for why in left:
            print(f"  {why}", file=sys.stderr)
        if left:
            raise ValueError(f"{len(left)} of {len(targets)} files are left as they are (listed above)")
        return status

    def _job(self, mask: Path) -> dict[str, Any]:
        """How results are made, by the names of the options."""
        settings = self.settings
        return {
            "mask": [digest(path) for path in sorted(mask.rglob("*"))] if mask.is_dir() else digest(mask),
            "walls": [organ.name for organ in self.labels.organs] if settings.shared_walls else "own",
            "largest": settings.largest,
        }

    def _note(self, meshes: Sequence[Any]) -> None:
        from lorgnette.systems.mesh.report import facts

        by_name = {organ.name: organ for organ in self.labels.organs}
        self.facts += [facts(mesh, by_name[mesh.name], self.labels.affine) for mesh in meshes]

    def _tell(self, line: str) -> int:
        from lorgnette.systems.mesh.report import rows

        if self.facts:
            shown = rows(self.facts)
            print(table(list(shown[0]), [[_cell(value) for value in row.values()] for row in shown]))
        print(line)
        if self.options.json:
            write_json(self.options.json, {"organs": self.facts, "notes": list(self.labels.notes)})
        return 0


def _cell(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else number(value)


def _organs(count: int) -> str:
    return "1 organ" if count == 1 else f"{count} organs"


def _file_name(name: str) -> str:
    """A name that every disk takes."""
    return "".join(c if c.isalnum() or c in "-_.+ " else "_" for c in name).strip(" .") or "organ"
