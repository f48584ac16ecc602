"""`lorgnette embed DIR OUT --detector F --landmarks F --recognizer F`: embeddings of faces by your own models."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorgnette.cli.arguments import Arguments, add_json, progress_bar
from lorgnette.common.files import atomic_write, check_free, make_folder, write_json
from lorgnette.common.text import one_line
from lorgnette.common.values import whole

NOTICE = "The models are yours: mind their licences (InsightFace's packs are for non-commercial research)."
SHOWN = 5


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)
    source, out = Path(options.folder), Path(options.out)
    if not source.is_dir():
        raise FileNotFoundError(f"no such folder: {source}")
    people = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not people:
        raise ValueError(f"{source} has no subfolders: one for each person, with pictures or clips in it, is expected")
    targets = [out / f"{kind}_{person.name}.npz" for person in people for kind in ("front", "video")]
    for target in targets:
        check_free(target, options.overwrite)

    from lorgnette.systems.faceview.chain import FaceModels

    models = FaceModels(options.detector, options.landmarks, options.recognizer, options.least_score)
    for model in models.models:
        print(f"{model.name}  sha256 {model.digest}")
    print(NOTICE)
    make_folder(out)
    left_out: dict[str, str] = {}
    counts: dict[str, dict[str, int]] = {}
    for person in progress_bar(people, unit="person"):
        counts[person.name] = _embed(person, out, models, options, left_out)
        print(f"{person.name}: {counts[person.name]['front']} frontal, {counts[person.name]['video']} other views")
    reasons = Counter(left_out.values())
    for reason, number in reasons.items():
        names = [name for name, why in left_out.items() if why == reason]
        rest = f" and {number - SHOWN} more" if number > SHOWN else ""
        print(f"left out, {reason}: {', '.join(names[:SHOWN])}{rest}", file=sys.stderr)
    if options.json:
        digests = {model.name: model.digest for model in models.models}
        write_json(options.json, {"models": digests, "people": counts, "left_out": left_out})
    if not any(sum(found.values()) for found in counts.values()):
        raise ValueError(f"{source}: no face was good enough (reasons above); nothing was written")
    return 0


def _embed(
    person: Path, out: Path, models: Any, options: argparse.Namespace, left_out: dict[str, str]
) -> dict[str, int]:
    """The files of one person; how many views are in each."""
    import numpy as np

    rows: dict[str, list[Any]] = {"front": [], "video": []}
    for name, pixels in _pictures(person, options.every, left_out):
        faces = models.faces(pixels)
        problem = _problem(faces, options)
        if problem:
            left_out[name] = problem
            continue
        turned = abs(float(np.rad2deg(faces[0].pose[1])))
        rows["front" if turned < options.front else "video"].append((name, faces[0]))
    for kind, found in rows.items():
        if found:
            arrays: dict[str, Any] = {
                "embedding": np.stack([face.embedding for _, face in found]),
                "pose": np.stack([face.pose for _, face in found]),
                "kps3d": np.stack([face.keypoints for _, face in found]),
                "score": np.array([face.score for _, face in found]),
                "source": np.array([name for name, _ in found]),
            }
            with atomic_write(out / f"{kind}_{person.name}.npz") as temporary:
                np.savez(temporary, **arrays)
        else:
            (out / f"{kind}_{person.name}.npz").unlink(missing_ok=True)  # of an earlier time
    return {kind: len(found) for kind, found in rows.items()}


def _problem(faces: list[Any], options: argparse.Namespace) -> str:
    if not faces:
        return "no face"
    if len(faces) > 1 and faces[1].side > 0.5 * faces[0].side:
        return "several faces of like size"
    if faces[0].side < options.least_side:
        return f"a face smaller than {options.least_side} pixels"
    if faces[0].sharpness < options.least_sharpness:
        return "a blurred face"
    return ""


def _pictures(person: Path, every: int, left_out: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Names and RGB levels (H, W, 3) of all pictures and of every so many frames of all clips."""
    from lorgnette.images.file import read_image
    from lorgnette.images.folders import SUFFIXES
    from lorgnette.images.pixels import to_uint8
    from lorgnette.video import open_clip
    from lorgnette.video.clip import READ_SUFFIXES

    for file in sorted(path for path in person.rglob("*") if path.is_file() and not path.name.startswith(".")):
        name = file.relative_to(person.parent).as_posix()
        suffix = file.suffix.lower()
        try:
            if suffix in SUFFIXES:
                yield name, to_uint8(read_image(file).pixels)
            elif suffix in READ_SUFFIXES:
                for frame in open_clip(file).frames():
                    if frame.index % every == 0:
                        yield f"{name} frame {frame.index}", to_uint8(frame.image.pixels)
            else:
                left_out[name] = "neither a picture nor a clip"
        except (ValueError, OSError, MemoryError) as error:
            left_out[name] = one_line(error).replace(str(file), "the file")


def _arguments() -> Arguments:
    parser = Arguments(
        "embed",
        "lorgnette embed faces out --detector det_10g.onnx --landmarks 1k3d68.onnx --recognizer w600k_r50.onnx",
        "Makes embeddings, poses and keypoints of the faces in pictures and clips, for `lorgnette train faceview`: one "
        "subfolder of DIR for each person, one front_NAME.npz and one video_NAME.npz in OUT. The models are your own "
        "ONNX files (InsightFace's detector SCRFD, 1k3d68 and any recogniser of 112 x 112); nothing is downloaded or "
        "sent.",
    )
    parser.add_argument("folder", metavar="DIR", help="a folder with a subfolder for each person")
    parser.add_argument("out", metavar="OUT", help="where the arrays go")
    for name, about in (
        ("detector", "ONNX file of SCRFD with keypoints"),
        ("landmarks", "ONNX file of 68 points in space, 1k3d68"),
        ("recognizer", "ONNX file of the recogniser"),
    ):
        parser.add_argument(f"--{name}", required=True, metavar="FILE", help=about)
    front = "views turned by less are frontal, in degrees; unset: 20"
    parser.add_argument("--front", type=float, default=20.0, metavar="DEGREES", help=front)
    parser.add_argument("--every", type=whole(), default=10, metavar="N", help="of clips, every Nth frame; unset: 10")
    score = "leave out faces that the detector is less sure of, 0 to 1; unset: 0.5"
    parser.add_argument("--least-score", type=float, default=0.5, metavar="P", help=score)
    side = "leave out faces that are smaller, in pixels; unset: 40"
    parser.add_argument("--least-side", type=whole(), default=40, metavar="N", help=side)
    sharp = "leave out blurred faces: least variance of the Laplacian; unset: 0, none; 50 is usual"
    parser.add_argument("--least-sharpness", type=float, default=0.0, metavar="V", help=sharp)
    parser.add_argument("--overwrite", action="store_true", help="replace arrays that are there")
    add_json(parser)
    return parser
