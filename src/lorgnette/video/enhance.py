"""Clips: a network's room applied frame by frame, to video files and to folders of frames.

Finished frames are kept without loss in a working folder beside the output, so that a run that was killed goes on
where it was, and its result is that of a run which was not. The output appears whole or not at all.
"""

from __future__ import annotations

import os
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorgnette.common.files import check_free, check_writable, make_folder
from lorgnette.common.identity import lasting_identity
from lorgnette.images.file import Image
from lorgnette.images.framing import framed
from lorgnette.systems import room_name, verb_of
from lorgnette.tiles.cache import TileCache
from lorgnette.train.task import Task
from lorgnette.video.clip import Clip, Enhanced, Frame, Progress, Source, Target
from lorgnette.video.codecs import check_container
from lorgnette.video.folder import FolderSource, FolderTarget
from lorgnette.video.journal import Journal, may_replace

STREAM = 64
"""Frames after which a network that remembers earlier ones starts afresh."""
WORKING = ".part"  # what the name of the working folder adds to that of the output


def enhance_video(
    task: Task,
    source: str | os.PathLike[str] | Source,
    target: str | os.PathLike[str],
    *,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    frame: tuple[int, int] | None = None,
    tile: int | None = None,
    halo: int | None = None,
    precision: str = "fp32",
    cache: TileCache | None = None,
    codec: str | None = None,
    quality: int | None = None,
    rate: float | Fraction = 25,
    truncated: bool = False,
    overwrite: bool = False,
    frame_format: str | None = None,
    report: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Enhanced:
    """Enhance a clip: a video file or a folder of frames, into a video file or a folder of frames.

    Frames stream: memory holds a few of them, however long the clip. Frame rate, time stamps, pixel aspect, rotation,
    colour range and matrix stay as they are; sound, subtitles, chapters and tags are copied without encoding them anew.
    The same call goes on with what an earlier one, interrupted in whatever way, has left in `target` + ".part".

    Args:
        task: of a room that enhances images, from `lorgnette.load` or `lorgnette.build`, on any device.
        source: what FFmpeg can read, or a folder of pictures of one size, taken in the order of their numbers; or what
            `open_clip` made of it.
        target: .mp4, .m4v, .mov, .mkv or .webm; else a folder for pictures.
        scale: factor, as the room's `enhance` has it. A size of odd pixels that comes of it is made even.
        size: (H, W) instead of `scale`, of frames as they are stored.
        frame: (H, W) to which enhanced frames are cut or padded around their middle, as
            `lorgnette.images.framing.framed` does it.
        tile: side of the tiles in input pixels; smaller needs less memory.
        halo: input pixels that a tile sees beyond its own.
        precision: 'fp32' or 'bf16'.
        cache: reuses tiles that a frame shares with earlier ones. In near mode it starts afresh every
            `cache.refresh` frames, so that an interrupted run can go on from there.
        codec: 'h264', 'hevc', 'av1', 'vp9', 'mpeg4', 'prores' or 'ffv1' (lossless); None for the usual one.
        quality: 1 to 100; None for 80, and 95 for pictures.
        rate: frames per second of a folder.
        truncated: for a file that is cut off, do the frames before the cut.
        overwrite: replace what is there already, and forget what an earlier run left unfinished.
        frame_format: suffix of the pictures in a folder, such as 'jpg'; None for PNG, or those of the source.
        report: HTML file to write, with times, the cache's figures and pictures.
        progress: called with how far the work is.

    Raises:
        FileNotFoundError: there is no such source, or it holds no frames.
        ValueError: a setting or file that does not work, in one line; what is done is kept.
        KeyboardInterrupt: as usual; what is done is kept.
    """
    frames = open_clip(source, rate, truncated) if isinstance(source, str | os.PathLike) else source
    clip, target = frames.clip, Path(target)
    overwrite_now = check_output(clip.path, target, overwrite)
    if report is not None:
        make_folder(Path(report).parent)
    out = _target(target, frames, codec, quality, overwrite_now, frame_format)
    settings = {"precision": precision, "tile": tile, "halo": halo} | wanted_size(clip, scale, size)
    enhance = _Enhancer(task, settings, cache, frame)
    job = {
        "source": frames.identity(),
        "weights": lasting_identity(task.model),
        "settings": _plain(settings | ({"frame": frame} if frame else {})),
        "cache": enhance.about_cache,
        "codec": codec,
    } | ({"frame format": frame_format} if frame_format else {})
    tell = progress or (lambda *_: None)
    with Journal(working_folder(target), job, fresh=overwrite) as journal:
        if overwrite:
            journal.allow_replacing()
        resumed = len(journal)
        if not journal.complete:
            _do_frames(enhance, frames, out, journal, tell)
        if not len(journal):
            raise ValueError(f"{clip.path} holds no frames: use an intact copy")
        after = None if report is None else out.picture(journal, 0)
        out.finish(journal, tell)
        about = journal.about
        done = Enhanced(
            path=target,
            frames=len(about),
            resumed=resumed,
            size=(about[0]["size"][0], about[0]["size"][1]),
            seconds=[frame["seconds"] for frame in about],
            reuse=[_from_text(frame["reuse"]) for frame in about if "reuse" in frame],
            notes=[*enhance.notes, *_notes(frames, out)],
        )
        if report is not None and after is not None:
            from lorgnette.video.report import write_video_report

            write_video_report(report, done, clip, next(frames.frames()).image, after)
        journal.remove()
    return done


def open_clip(source: str | os.PathLike[str], rate: float | Fraction = 25, truncated: bool = False) -> Source:
    """A clip to be enhanced; its `clip` says size, times and colours.

    A video file is read through once without decoding it, to find out whether it is whole.

    Args:
        source: video file, or folder of pictures of one size.
        rate: frames per second of a folder.
        truncated: accept a file that is cut off; the frames before the cut are the clip.

    Raises:
        FileNotFoundError: there is no such source, or no picture in the folder.
        ValueError: it is no video, is damaged, or holds no frames; PyAV is not installed.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    if source.is_dir():
        if not 0 < rate <= 1000:
            raise ValueError(f"rate: {rate} does not work; frames per second, such as 25, do")
        return FolderSource(source, Fraction(rate).limit_denominator(1001))
    from lorgnette.video.read import VideoSource

    return VideoSource(source, truncated)


def working_folder(target: str | os.PathLike[str]) -> Path:
    """Where the finished frames of a clip are until all are."""
    target = Path(target)
    return target.parent / (target.name + WORKING)


def check_output(source: Path, target: Path, overwrite: bool = False) -> bool:
    """Find out before the work whether a clip can be written.

    Returns:
        Whether what is there already may be replaced: that is asked for, or was, by a run that was interrupted.

    Raises:
        ValueError: something is there already; the target is the source, its suffix is no container's, or its folder
            is not writable.
    """
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the input itself: give another output")
    if target.suffix and not target.is_dir():
        check_container(target, None)
    elif source.is_dir() and source.resolve() in target.resolve().parents:
        raise ValueError(f"{target} lies in the folder of the frames itself: give another one")
    overwrite = overwrite or may_replace(working_folder(target))
    if not target.is_dir():
        check_free(target, overwrite)
    check_writable(target)
    return overwrite


def wanted_size(clip: Clip, scale: float | None, size: tuple[int, int] | None) -> dict[str, Any]:
    """`scale` or `size` for the room. A side that was even stays even, by one pixel more: players need that."""
    if size is not None:
        return {"size": size} if scale is None else {"size": size, "scale": scale}
    if scale is None:
        return {}
    exact = [round(n * scale) for n in clip.size]
    even = [out + out % 2 if n % 2 == 0 else out for n, out in zip(clip.size, exact, strict=True)]
    return {"scale": scale} if even == exact else {"size": (even[0], even[1])}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _target(
    target: Path, source: Source, codec: str | None, quality: int | None, overwrite: bool, format: str | None
) -> Target:
    if target.is_dir() or not target.suffix:
        if codec is not None:
            raise ValueError(f"codec: {codec} is of a video file, and {target} is a folder")
        names = source.names(format) if isinstance(source, FolderSource) else None
        quality = 95 if quality is None else quality
        return FolderTarget(target, names, quality, overwrite, source.clip, format or "png")
    check_container(target, codec)
    from lorgnette.video.write import VideoTarget

    return VideoTarget(target, source.clip, codec, 80 if quality is None else quality)


class _Enhancer:
    """A room's `enhance` for the frames of one clip."""

    def __init__(
        self, task: Task, settings: dict[str, Any], cache: TileCache | None, frame: tuple[int, int] | None
    ) -> None:
        self._frame = frame
        self._enhance = verb_of(room_name(task), "enhance")
        self._task, self._settings, self._cache = task, settings, cache
        self.about_cache: dict[str, Any] | None = None
        self._every: int | None = None
        self.notes: list[str] = []
        if task.remembers and cache is None:
            self._every = STREAM
            self.about_cache = {"mode": "features", "refresh": STREAM}
        elif task.remembers:
            self.notes.append("what the network remembers of earlier frames rests, as tiles of them are reused")
        if cache is not None:
            self.about_cache = {"mode": cache.mode}
            if cache.mode == "near":
                self._every = cache.refresh
                self.about_cache |= {name: getattr(cache, name) for name in ("tolerance", "cosine", "refresh")}

    def lead(self, index: int) -> int:
        """How many frames before this one must be done again on resuming, because its result depends on them."""
        return 0 if self._every is None else index % self._every

    def __call__(self, frame: Frame) -> tuple[Image, dict[str, Any]]:
        """The enhanced picture, and what the journal notes about it."""
        more: dict[str, Any] = {}
        if self.about_cache is not None:
            # Where a result depends on the frames before, a new stream every so often is a place to resume at.
            part = 0 if self._every is None else frame.index // self._every
            more = {"cache": self._cache, "stream": (self, part) if self._cache is None else part}
        began = time.perf_counter()
        image = self._enhance(self._task, frame.image, **self._settings, **more)
        about: dict[str, Any] = {"seconds": round(time.perf_counter() - began, 6)}
        if self._cache is not None:
            reused = self._cache.reuse_map(more["stream"])
            assert reused is not None
            about["reuse"] = _as_text(reused > 0)
        return framed(image, self._frame), about


def _do_frames(enhance: _Enhancer, source: Source, out: Target, journal: Journal, tell: Progress) -> None:
    ready = len(journal)
    for frame in source.frames(ready - enhance.lead(ready)):
        image, about = enhance(frame)
        if frame.index < ready:
            continue
        data = out.keep(frame, image, journal)
        about |= {"beside": frame.beside} if frame.beside else {}
        size = list(image.pixels.shape[:2])
        journal.append({"pts": frame.pts, "duration": frame.duration, "size": size, **about}, data)
        tell("frame", frame.index + 1, max(frame.index + 1, source.clip.frames))
    journal.finish()


def _notes(source: Source, out: Target) -> list[str]:
    clip, notes = source.clip, list(out.notes)
    if isinstance(source, FolderSource) and source.passed_over:
        notes.append(source.passed_over)
    if clip.alpha and not isinstance(out, FolderTarget):
        notes.append("transparency is not kept in a video file")
    if clip.interlaced:
        notes.append("the clip is interlaced: frames were done as they are; deinterlace it first for a better result")
    return notes


def _as_text(reused: NDArray[np.bool_]) -> str:
    """'4 6 0f00c3': rows, columns, bits."""
    return f"{reused.shape[0]} {reused.shape[1]} {np.packbits(reused).tobytes().hex()}"


def _from_text(text: str) -> NDArray[np.bool_]:
    rows, columns, bits = text.split()
    shape = int(rows), int(columns)
    found = np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), count=shape[0] * shape[1])
    return found.reshape(shape).astype(bool)
