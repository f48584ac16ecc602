"""`lorgnette rotate IN OUT --adapter FOLDER`: map embeddings of faces to another pose."""

from __future__ import annotations

import math
from pathlib import Path
from zipfile import BadZipFile

from lorgnette.cli.arguments import Arguments, add_device, kept_folder
from lorgnette.common.files import check_free, check_writable


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)
    out = Path(options.output)
    if out.suffix != ".npz":
        raise ValueError(f"{out}: an .npz file is written; name it so")
    check_free(out, options.overwrite)
    check_writable(out)

    import numpy as np

    from lorgnette.checkpoint import load, load_recipe
    from lorgnette.common.devices import to_device
    from lorgnette.common.files import atomic_write
    from lorgnette.systems import room_name, rooms_with, verb_of

    name = room_name(load_recipe(options.adapter))
    if name not in rooms_with("rotate"):
        raise ValueError(f"--adapter: {options.adapter} is of the room {name}, which turns no faces")
    given = _arrays(Path(options.input), ("embedding", "pose", "kps3d"))
    task = to_device(load(options.adapter), options.device)
    radians = 1 if options.unit == "rad" else math.pi / 180
    target = [angle * radians for angle in options.target]
    mapped = verb_of(name, "rotate")(
        task, given["embedding"], given["pose"] * radians, target_pose=target, keypoints=given.get("kps3d")
    ).numpy()
    pose = np.broadcast_to(np.array(target, np.float32), given["pose"].shape)
    with atomic_write(out) as temporary:
        np.savez(temporary, embedding=mapped, pose=pose)
    print(f"{mapped.reshape(-1, mapped.shape[-1]).shape[0]} embeddings turned to {target} radians: {out}")
    return 0


def _arrays(file: Path, names: tuple[str, ...]):
    """Arrays of a .npz file; the last one may be missing."""
    import numpy as np

    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as found:  # numpy may leave it open
            arrays = {name: found[name] for name in names if name in found.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, BadZipFile) as error:
        reason = (str(error).splitlines() or ["?"])[0]
        raise ValueError(f"{file} is no intact .npz file of arrays ({reason})") from None
    if missing := [name for name in names[:-1] if name not in arrays]:
        raise ValueError(f"{file} has no array {missing[0]!r}; `lorgnette embed` writes such files")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{file}: {name} does not hold numbers")
    return arrays


def _arguments() -> Arguments:
    parser = Arguments(
        "rotate",
        "lorgnette rotate video_anna.npz anna_front.npz --adapter runs/NAME/adapter",
        "Maps embeddings of faces to another pose, frontal unless said otherwise. IN is an .npz file with embedding "
        "(N, 512), pose (N, 3) as pitch, yaw, roll, and kps3d (N, 5, 3), as `lorgnette embed` writes it; OUT gets "
        "embedding and pose.",
    )
    parser.add_argument("input", metavar="IN", help="an .npz file of embeddings, poses and keypoints")
    parser.add_argument("output", metavar="OUT", help="the .npz file that is written")
    adapter = "an adapter, a whole model or a run"
    parser.add_argument("--adapter", type=kept_folder, required=True, metavar="FOLDER", help=adapter)
    wanted = "the pose that is wanted: pitch, yaw, roll; unset: 0 0 0, frontal"
    parser.add_argument("--target", type=float, nargs=3, default=[0.0, 0.0, 0.0], metavar="ANGLE", help=wanted)
    unit = "of the poses in IN and of --target; unset: rad"
    parser.add_argument("--unit", choices=["rad", "deg"], default="rad", help=unit)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT where it is there")
    add_device(parser)
    return parser
