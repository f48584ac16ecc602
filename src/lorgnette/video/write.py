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
from lorgnette.video.clip import Clip, Frame, Progress
from lorgnette.video.codecs import Encoding, choose_encoding
from lorgnette.video.journal import Journal
from lorgnette.video.pixels import FFmpegError, av, to_frame, to_image
from lorgnette.video.read import open_container, read_clip

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
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
        lost = write_video(whole, frames(), self.clip, encoding, until)
        written = read_clip(whole)
        with whole.open("rb") as file:
            os.fsync(file.fileno())
        whole.replace(self.path)
        suffix = self.path.suffix
        self.notes = [f"{stream} does not go into {suffix} and was left out" for stream in lost]
        for what, wanted, kept in (
            ("pixel aspect", self.clip.aspect, written.aspect),
            ("rotation", self.clip.rotation, written.rotation),
        ):
            if (wanted or 1) != (kept or 1):  # FFmpeg's writer of some formats drops it
                self.notes.append(f"{what} {wanted} is not kept in {suffix} of {encoding.codec}: .mkv of h264 keeps it")

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
) -> list[str]:
    """Encode frames, and copy sound, subtitles, chapters and tags of the file they came from.

    Args:
        path: The file to write.
        frames: (frame, pts, duration) in ticks of `clip.time_base`.
        clip: What they were made of.
        encoding: How to write them.
        until: Seconds at which the copied streams are cut; None for their end.

    Returns:
        What could not be kept, in words.

    Raises:
        ValueError: FFmpeg refuses, in one line.
    """
    options = {"movflags": "+faststart"} if path.suffix.lower() in (".mp4", ".m4v", ".mov") else {}
    try:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(av.open(str(path), "w", options=options))
            frames = iter(frames)
            first = list(itertools.islice(frames, _X265_DELAY + 1))
            stream = _add_video(out, clip, encoding, reordered=len(first) > _X265_DELAY)
            if clip.path.is_dir():
                copied, lost = iter(()), []
            else:
                copied, lost = _copied(out, stack.enter_context(open_container(clip.path)), clip, until)
            for packet in heapq.merge(
                _encoded(stream, itertools.chain(first, frames), clip, encoding), copied, key=_seconds
            ):
                out.mux(packet)
    except FFmpegError as error:
        height, width = encoding.size
        raise ValueError(
            f"{encoding.encoder} cannot write {width}x{height} pixels of {encoding.pixel_format} into {path.suffix} "
            f"({error.strerror}): another --codec may"
        ) from None
    return lost


def _add_video(out: OutputContainer, clip: Clip, encoding: Encoding, reordered: bool) -> VideoStream:
    os.environ.setdefault("SVT_LOG", "1")  # else one encoder fills the terminal
    options = encoding.options
    if encoding.encoder == "libx264" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        options["x264-params"] = "asm=avx2"  # with AVX-512, x264 (build 165) gives other bits from run to run
    if encoding.encoder == "libx265" and not reordered:
        options["x265-params"] += ":bframes=0"
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
    if clip.rotation:
        stream.set_display_rotation(clip.rotation)
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


def _copied(
    out: OutputContainer, container: InputContainer, clip: Clip, until: Fraction | None
) -> tuple[Iterator[av.Packet], list[str]]:
    """(packets as they are, what the file to write cannot hold)."""
    streams, lost = {}, []
    for stream in container.streams:
        if stream.type in ("audio", "subtitle"):
            if stream.codec_context.name in out.supported_codecs:
                streams[stream.index] = out.add_stream_from_template(stream)
                streams[stream.index].metadata.update(stream.metadata)
            else:
                lost.append(f"{stream.type} ({stream.codec_context.name})")
    tags = {name: text for name, text in container.metadata.items() if name.lower() not in _OWN_TAGS}
    out.metadata.update(tags)
    out.set_chapters(container.chapters())

    def packets() -> Iterator[av.Packet]:
        with contextlib.suppress(FFmpegError):  # of a file that breaks off
            for packet in container.demux([container.streams[index] for index in streams]):
                if packet.dts is None or packet.is_corrupt:
                    continue
                shift = round(clip.start / packet.time_base)
                packet.dts -= shift
                if packet.pts is not None:
                    packet.pts -= shift
                if until is not None and _seconds(packet) >= until:
                    continue
                packet.stream = streams[packet.stream.index]
                yield packet

    return packets() if streams else iter(()), lost  # demux() of none would be of all


_X265_DELAY = 2  # frames that x265 (4.2) reorders by; of a shorter clip it gives packets with times from unset memory
_OWN_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration")


def _seconds(packet: av.Packet) -> Fraction:
    stamp = packet.dts if packet.dts is not None else packet.pts
    return (stamp or 0) * packet.time_base
