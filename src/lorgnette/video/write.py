"""Video files through PyAV (FFmpeg): frames into them."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lorgnette.images.file import Image
from lorgnette.video import beside, lost
from lorgnette.video.clip import Clip, Frame, Progress
from lorgnette.video.codecs import OWN_SETTINGS, Encoding, choose_encoding, hdr_settings
from lorgnette.video.container import open_container, url
from lorgnette.video.journal import Journal
from lorgnette.video.pixels import FFmpegError, av, to_frame, to_image
from lorgnette.video.read import read_clip

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_LENGTH = struct.Struct("<I")


class Packer:
    """Frames to bytes and back without loss: FFV1, each by itself."""

    def __init__(self) -> None:
        self._encoder: av.VideoCodecContext | None = None
        self._decoder: av.VideoCodecContext | None = None

    def pack(self, frame: av.VideoFrame) -> bytes:
        """The bytes of one frame."""
        if self._encoder is None:
            self._encoder = _ffv1("w")
            self._encoder.width, self._encoder.height = frame.width, frame.height
            self._encoder.pix_fmt, self._encoder.time_base = frame.format.name, Fraction(1)
            small = min(frame.width, frame.height) < 16  # version 3 cuts pictures into slices
            self._encoder.options = {"level": "1" if small else "3", "g": "1"}
            self._encoder.open()
        frame.pts = None
        (packet,) = self._encoder.encode(frame)
        extra = self._encoder.extradata or b""
        return _LENGTH.pack(len(extra)) + extra + bytes(packet)

    def unpack(self, data: bytes, size: tuple[int, int]) -> av.VideoFrame:
        """The frame of these bytes."""
        (length,) = _LENGTH.unpack_from(data)
        extra, packet = data[_LENGTH.size : _LENGTH.size + length], data[_LENGTH.size + length :]
        if self._decoder is None or self._decoder.extradata != extra:  # another version wrote the rest
            self._decoder = _ffv1("r")
            self._decoder.height, self._decoder.width = size
            self._decoder.extradata = extra
        (frame,) = self._decoder.decode(av.Packet(packet))
        return frame


def _ffv1(mode: Literal["r", "w"]) -> av.VideoCodecContext:
    context = av.CodecContext.create("ffv1", mode)
    assert isinstance(context, av.VideoCodecContext)
    return context


# -------------------------------------------------------------------------------------------------------- files


class VideoTarget:
    """A video file to which frames go. Until all are done they are kept in the journal, without loss.

    Args:
        path: appears when all frames are done.
        clip: what the frames are made of.
        codec: see `lorgnette.video.codecs.choose_encoding`, also for `quality`.
        quality: 1 to 100.
    """

    def __init__(self, path: Path, clip: Clip, codec: str | None, quality: int) -> None:
        if not 1 <= quality <= 100:
            raise ValueError(f"quality={quality} must be between 1 and 100")
        self.path, self.clip, self.codec, self.quality = path, clip, codec, quality
        self.notes: list[str] = []
        self._packer = Packer()
        self._tried = False

    def keep(self, frame: Frame, image: Image, journal: Journal) -> bytes:
        """The frame as bytes for the journal. The first is tried on the encoder: better now than in the end."""
        encoding = self._encoding((image.pixels.shape[0], image.pixels.shape[1]))
        pixels = to_frame(image, encoding)
        if not self._tried:
            trial = journal.folder / f"trial{self.path.suffix}"
            write_video(trial, [(pixels, 0, 1)], self.clip, encoding, until=Fraction(0))
            trial.unlink()
            self._tried = True
        return self._packer.pack(pixels)

    def picture(self, journal: Journal, index: int) -> Image:
        """A frame that is done."""
        about, data = next(itertools.islice(journal.records(), index, None))
        encoding = self._encoding(tuple(about["size"]))
        return to_image(self._packer.unpack(data, encoding.size), encoding.colour, self.clip)

    def finish(self, journal: Journal, tell: Progress) -> None:
        """Encode all frames."""
        encoding = self._encoding(tuple(journal.about[0]["size"]))
        last = journal.about[-1]
        until = None if self.clip.breaks_off is None else (last["pts"] + last["duration"]) * self.clip.time_base

        def frames() -> Iterator[tuple[av.VideoFrame, int, int]]:
            for done, (about, data) in enumerate(journal.records(), 1):
                yield self._packer.unpack(data, encoding.size), about["pts"], about["duration"]
                tell("write", done, len(journal))

        whole = journal.folder / f"whole{self.path.suffix}"  # not beside the output, where a kill would leave it
        write_video(whole, frames(), self.clip, encoding, until)
        written = read_clip(whole)
        with whole.open("rb") as file:
            os.fsync(file.fileno())
        journal.allow_replacing()
        whole.replace(self.path)
        suffix, kept = self.path.suffix, written.said()
        self.notes = lost.of_file(self.clip.beside, written.beside, suffix)
        for what, wanted in self.clip.said().items():
            if kept.get(what) != wanted:  # FFmpeg's writer of some formats drops it
                self.notes.append(f"{what} {wanted} is not kept in {suffix} of {encoding.codec}: .mkv of h264 keeps it")
        self.notes += lost.of_frames(journal.about, suffix, kept=written.of_frame)

    def _encoding(self, size: tuple[int, int]) -> Encoding:
        return choose_encoding(self.path, self.codec, self.quality, self.clip, size, formats_of)


def formats_of(encoder: str) -> list[str]:
    """The pixel formats of an encoder; none where this build of FFmpeg has no such encoder."""
    try:
        return [format.name for format in av.Codec(encoder, "w").video_formats or []]
    except ValueError:
        return []


def write_video(
    path: Path,
    frames: Iterable[tuple[av.VideoFrame, int, int]],
    clip: Clip,
    encoding: Encoding,
    until: Fraction | None = None,
) -> None:
    """Encode frames, and copy what the file they came from holds beside its pictures.

    Args:
        path: The file to write.
        frames: (frame, pts, duration) in ticks of `clip.time_base`.
        clip: What they were made of.
        encoding: How to write them.
        until: Seconds at which the copied streams are cut; None for their end.

    Raises:
        ValueError: FFmpeg refuses, in one line.
    """
    options = {"movflags": "+faststart"} if path.suffix.lower() in (".mp4", ".m4v", ".mov") else {}
    if options and any(name.startswith("tag com.apple.") for _, name, _ in clip.beside):  # as QuickTime stores them
        options["movflags"] += "+use_metadata_tags"
    try:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(av.open(url(path), "w", options=options))
            frames = iter(frames)
            first = list(itertools.islice(frames, _X265_DELAY + 1))
            stream = _add_video(out, clip, encoding, reordered=len(first) > _X265_DELAY)
            copied = iter(())
            if not clip.path.is_dir():
                copied = beside.copy(out, stream, stack.enter_context(open_container(clip.path)), clip, until)
            for packet in heapq.merge(
                _encoded(stream, itertools.chain(first, frames), clip, encoding), copied, key=beside.seconds
            ):
                out.mux(packet)
    except FFmpegError as error:
        height, width = encoding.size
        raise ValueError(
            f"{encoding.encoder} cannot write {width}x{height} pixels of {encoding.pixel_format} into {path.suffix} "
            f"({error.strerror}): another --codec may"
        ) from None


def _add_video(out: OutputContainer, clip: Clip, encoding: Encoding, reordered: bool) -> VideoStream:
    os.environ.setdefault("SVT_LOG", "1")  # else one encoder fills the terminal
    own = hdr_settings(encoding.encoder, clip)
    if encoding.encoder == "libx264" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        own.append("asm=avx2")  # with AVX-512, x264 (build 165) gives other bits from run to run
    if encoding.encoder == "libx265" and not reordered:
        own.append("bframes=0")
    options = encoding.options
    if own:
        name = OWN_SETTINGS[encoding.encoder]
        options[name] = ":".join(filter(None, (options.get(name), *own)))
    stream: Any = out.add_stream(encoding.encoder, rate=clip.rate.limit_denominator(1001), options=options)
    context = stream.codec_context
    context.height, context.width = encoding.size
    context.pix_fmt = encoding.pixel_format
    context.thread_type = "AUTO"
    context.time_base = stream.time_base = encoding.time_base(clip.time_base)
    context.color_range, context.colorspace = encoding.colour.range, encoding.colour.matrix
    context.color_primaries, context.color_trc = encoding.colour.primaries, encoding.colour.transfer
    if clip.aspect:
        context.sample_aspect_ratio = clip.aspect
    if clip.display:
        stream.set_display_matrix(clip.display)
    if encoding.codec == "hevc" and out.format.name in ("mp4", "mov"):
        context.codec_tag = "hvc1"  # or Apple's players show nothing
    return stream


def _encoded(
    stream: VideoStream, frames: Iterable[tuple[av.VideoFrame, int, int]], clip: Clip, encoding: Encoding
) -> Iterator[av.Packet]:
    base = encoding.time_base(clip.time_base)
    durations: dict[int | None, int] = {}
    for frame, pts, duration in frames:
        frame.pts, frame.time_base = round(pts * clip.time_base / base), base
        frame.color_range, frame.colorspace = encoding.colour.range, encoding.colour.matrix
        frame.color_primaries, frame.color_trc = encoding.colour.primaries, encoding.colour.transfer
        frame.pict_type = 0  # as the encoder likes
        durations[frame.pts] = round(duration * clip.time_base / base)
        yield from _timed(stream.encode(frame), durations)
    yield from _timed(stream.encode(None), durations)


def _timed(packets: Iterable[av.Packet], durations: dict[int | None, int]) -> Iterator[av.Packet]:
    for packet in packets:
        packet.duration = durations.pop(packet.pts, 0) or packet.duration  # of variable frame rate
        yield packet


_X265_DELAY = 2  # frames that x265 (4.2) reorders by; of a shorter clip it gives packets with times from unset memory
