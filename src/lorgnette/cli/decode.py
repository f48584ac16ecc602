"""`lorgnette decode MASK OUT --scan SCAN --adapter FOLDER`: organs as meshes, as a trained decoder sees them."""

from __future__ import annotations

import sys
from pathlib import Path

from lorgnette.cli.arguments import Arguments, add_device, kept_folder, progress_bar
from lorgnette.common.files import check_free, check_writable
from lorgnette.common.text import number, table


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)
    out = Path(options.out)
    from lorgnette.checkpoint import load, load_recipe
    from lorgnette.common.devices import to_device
    from lorgnette.shipped import load_shipped
    from lorgnette.systems import mesh, room_name, verb_of
    from lorgnette.systems.mesh.files import check_suffix, write_meshes
    from lorgnette.systems.mesh.volumes import read_image, read_labels
    from lorgnette.systems.mesh.volumes.labels import same_grid

    check_suffix(out)
    check_free(out, options.overwrite)
    check_writable(out)
    if options.adapter:
        decode = verb_of(room_name(load_recipe(options.adapter)), "decode")
        task = load(options.adapter)
    else:
        decode, task = mesh.decode, load_shipped("mesh")
    assert isinstance(task, mesh.MeshDecoding)
    scan = read_image(Path(options.scan)) if options.scan else None
    if scan is None and task.data.features == "scan":
        raise ValueError("--scan: not set; this decoder reads the scan that the mask belongs to")
    labels = read_labels(Path(options.mask), only=options.only or ())
    for note in labels.notes:
        print(f"lorgnette: {note}", file=sys.stderr)
    if scan is not None and not same_grid(labels.affine, labels.shape, scan.affine, scan.values.shape):
        raise ValueError(f"--scan: {options.scan} is on another grid than {options.mask}")
    task = to_device(task, options.device)
    values = None if scan is None else scan.values
    meshes = [
        decode(task, labels.whole(organ), labels.affine, values, organ.name)
        for organ in progress_bar(labels.organs, "organ")
    ]
    write_meshes(out, meshes)
    size = abs(labels.spacing.prod()) / 1000
    rows = [
        [mesh.name, number(organ.voxels * size), number(mesh.volume / 1000), str(len(mesh.triangles))]
        for organ, mesh in zip(labels.organs, meshes, strict=True)
    ]
    print(table(["organ", "mask, ml", "mesh, ml", "triangles"], rows))
    return 0


def _arguments() -> Arguments:
    parser = Arguments(
        "decode",
        "lorgnette decode segmentation.nii.gz organs.glb --scan ct.nii.gz --adapter runs/NAME/adapter",
        "Makes closed meshes of organs with a trained decoder, which looks for the surface near that of the mask. "
        "`lorgnette mesh` needs no training and keeps to the mask exactly.",
    )
    parser.add_argument("mask", metavar="MASK", help="as of `lorgnette mesh`")
    parser.add_argument("out", metavar="OUT", help="a file of meshes: stl, ply, obj, glb or vtp")
    parser.add_argument("--scan", metavar="FILE", help="the CT or MR that the mask belongs to")
    parser.add_argument("--adapter", type=kept_folder, metavar="FOLDER", help="unset: the decoder that ships")
    parser.add_argument("--only", nargs="+", metavar="ORGAN", help="these organs, by name or number; unset: all")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")
    add_device(parser)
    return parser
