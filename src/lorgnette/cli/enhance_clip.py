"""What `lorgnette enhance` does with clips: video files, and folders that hold the frames of one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.images.folders import SUFFIXES, written_as
from lorgnette.images.formats.table import WRITABLE
from lorgnette.video.clip import READ_SUFFIXES
from lorgnette.video.codecs import CONTAINERS, ENCODERS

if TYPE_CHECKING:
    from lorgnette.enhancing.enhancer import Enhancer

_OPTIONS = {
    "frames": False,
    "rate": None,
    "cache": "off",
    "tolerance": None,
    "codec": None,
    "truncated": False,
    "report": None,
    "json": None,
    "clips": False,
}
"""Options for clips alone, with their defaults."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of clips."""
    about = f"OUT is {', '.join(CONTAINERS)}. The same command goes on with a clip that was interrupted."
    group = parser.add_argument_group("clips", about)
    group.add_argument("--frames", action="store_true", help="folders hold the frames of one clip, in order")
    rate = "frames per second of a folder, as 24000/1001; unset: 25"
    clips = "of a folder that holds pictures too, do the clips as well"
    group.add_argument("--clips", action="store_true", help=clips)
    group.add_argument("--rate", type=_rate, metavar="R", help=rate)
    group.add_argument("--codec", choices=list(ENCODERS), help="unset: h264, or vp9 in WebM; ffv1 is lossless")
    cache = "reuse equal tiles, or similar ones; unset: off"
    group.add_argument("--cache", choices=("exact", "near", "off"), default="off", help=cache)
    tolerance = "with --cache near: how near, as PSNR; more is stricter"
    group.add_argument("--tolerance", type=float, metavar="DB", help=tolerance)
    truncated = "do the frames that are left of a file that is cut off"
    group.add_argument("--truncated", action="store_true", help=truncated)
    group.add_argument("--report", metavar="FILE", help="write a page with times, reuse and pictures (HTML)")
    group.add_argument("--json", metavar="FILE", help="write the figures to this file as well")


def is_clip(source: Path, out: Path, options: argparse.Namespace) -> bool:
    """Whether this is about a clip rather than pictures."""
    to_video = out.suffix.lower() in CONTAINERS and not out.is_dir()
    if source.is_dir():
        return options.frames or to_video
    suffix = source.suffix.lower()
    if suffix in SUFFIXES and suffix in READ_SUFFIXES and not to_video:  # a GIF: a picture, or a clip
        from lorgnette.images.file import count_images

        is_picture = out.suffix.lower() in WRITABLE and not out.is_dir()
        return not is_picture and count_images(source) > 1
    return suffix in READ_SUFFIXES or (to_video and suffix not in SUFFIXES)


def formats() -> list[str]:
    """What --format takes."""
    return [suffix[1:] for suffix in (*WRITABLE, *CONTAINERS)]


def as_clip(file: Path, format: str | None) -> Path:
    """What a clip is called when it is done: the same, but for a suffix that is asked for or cannot be written."""
    if format is None and file.suffix.lower() in CONTAINERS:
        return file
    return file.with_suffix(f".{format or 'mp4'}")


def as_picture(file: Path, format: str | None) -> Path:
    """The same of a picture."""
    return file.with_suffix(f".{format}") if format else written_as(file)


def refuse_options(options: argparse.Namespace, but: Sequence[str] = ()) -> None:
    """Refuse options for clips where pictures are enhanced, all but some."""
    for name, usual in _OPTIONS.items():
        if name not in but and getattr(options, name) != usual:
            raise ValueError(f"--{name}: is for clips, and this is a picture or a folder of them")


def run(source: Path, out: Path, options: argparse.Namespace, load: Callable[[], Enhancer]) -> int:
    """Enhance a clip; returns the exit status."""
    from lorgnette.common.files import write_json
    from lorgnette.video.enhance import check_output, working_folder

    target = _target(source, out, options)
    check_output(source, target, options.overwrite)
    if options.rate is not None and source.is_file():
        raise ValueError(f"--rate: {source} knows its own; a folder of frames does not")
    if options.clips:
        raise ValueError(f"--clips: is for a folder of pictures and clips, and {source} is one clip")
    clip = opened(source, options)
    try:
        figures = do(load(), clip, target, options, options.overwrite)
    except KeyboardInterrupt:
        same = "the same command without --overwrite" if options.overwrite else "the same command"
        kept = f": what is done is kept in {working_folder(target)}; {same} goes on"
        print(f"lorgnette: interrupted{kept if working_folder(target).exists() else ''}", file=sys.stderr)
        return 130
    if options.json:
        write_json(options.json, figures)
    resumed = figures["frames done by earlier runs"]
    print(f"{target}  ({figures['frames']} frames{f', {resumed} of them by an earlier run' if resumed else ''})")
    return 0


def opened(source: Path, options: argparse.Namespace) -> Any:
    """The clip that a file or folder holds."""
    from lorgnette.video.enhance import open_clip

    return open_clip(source, options.rate or 25, options.truncated)


def do(enhancer: Enhancer, clip: Any, target: Path, options: argparse.Namespace, overwrite: bool) -> dict[str, Any]:
    """Enhance a clip, say what could not be kept, and return its figures."""
    for name in ("strength", "range", "preview", "cmsr"):
        if getattr(options, name) not in (None, False):
            raise ValueError(f"--{name}: is for pictures, and {clip.clip.path} is a clip")
    from lorgnette.video.enhance import enhance_video
    from lorgnette.video.report import figures

    task = enhancer.for_all_of(clip.clip.path, lambda: next(iter(clip.frames(0))).image.pixels)
    for said in enhancer.said(clip.clip.path):
        print(said)
    bars = _Bars()
    try:
        done = enhance_video(
            task,
            clip,
            target,
            tile=options.tile,
            halo=options.halo,
            cache=_cache(options),
            precision=options.precision,
            codec=options.codec,
            quality=options.quality,
            overwrite=overwrite,
            frame_format=options.format,
            report=options.report,
            progress=bars,
            **_size(options, clip.clip.size, turned=clip.clip.rotation % 180 != 0),
        )
    finally:
        bars.close()
    for note in done.notes:
        print(f"lorgnette: {clip.clip.path}: {note}", file=sys.stderr)
    return figures(done, clip.clip) | {"notes": list(done.notes)}


class _Bars:
    """A bar for the frames, and one for writing the file."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if what != self._what:
            self.close()
            names = {"frame": "frames", "write": "writing"}
            # Frames of an earlier run would falsify the rate.
            self._bar = tqdm(
                desc=names[what],
                total=total,
                initial=done - 1,
                unit="frame",
                disable=None,
                leave=False,
                dynamic_ncols=True,
            )
            self._what = what
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _cache(options: argparse.Namespace) -> Any:
    if options.tolerance is not None and options.cache != "near":
        raise ValueError("--tolerance: is for --cache near")
    if options.cache == "off":
        return None
    from lorgnette.tiles.cache import TileCache

    return TileCache(mode=options.cache, **({} if options.tolerance is None else {"tolerance": options.tolerance}))


def _target(source: Path, out: Path, options: argparse.Namespace) -> Path:
    frames, format = options.frames, options.format
    if format and f".{format}" not in (WRITABLE if frames else tuple(CONTAINERS)):
        raise ValueError(f"--format: {source} cannot become {format} {'frames' if frames else ''}".rstrip())
    if out.is_dir() and not frames:
        return out / as_clip(Path(source.name), format)
    if not out.suffix and not frames:
        raise ValueError(f"{out}: give a clip ({', '.join(CONTAINERS)}), or --frames for a folder of frames")
    if format and not frames and out.suffix.lower() != f".{format}":
        raise ValueError(f"--format: {out} says another one; leave --format out, or give a folder")
    return out


def _size(options: argparse.Namespace, size: tuple[int, int], turned: bool) -> dict[str, Any]:
    """How large frames of `size` `(H, W)` as stored are to be; people speak of them as they are shown."""
    from lorgnette.cli.sizes import how

    found: dict[str, Any] = how(options).wanted(*(size[::-1] if turned else size))
    found["frame"] = how(options).frame
    if "size" in found and (options.shape == "fit" or not options.size):  # players want even sides
        found["size"] = tuple(max(2, n - n % 2) if options.shape else n + n % 2 for n in found["size"])
    if turned:
        found |= {name: value[::-1] for name, value in found.items() if isinstance(value, tuple)}
    return found


def _rate(text: str) -> Fraction:
    """'25', '23.976' or '24000/1001'."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} does not work; frames per second do, such as 25 or 24000/1001")
    return value
