"""What a clip holds beside its pictures: sound, subtitles, covers, fonts, chapters, tags, marks. Copied, or named.

Whatever a copy loses is found by reading it back (`lorgnette.video.lost`): nothing here has to know which
container holds what.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from lorgnette.video.clip import Beside, Clip
from lorgnette.video.container import open_container
from lorgnette.video.pixels import FFmpegError, av

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

# Tags that describe the file rather than the clip: the writer of the new one makes its own.
_OWN_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "vendor_id", "handler_name"}
_OWN_TAGS |= {"bps", "number_of_frames", "number_of_bytes", "source_id", "rotate", "filename", "mimetype"}
_ALIASES = {"name": "title"}  # as MP4 calls the title of a stream
_IMAGE_TYPES = {"mjpeg": ("jpg", "image/jpeg"), "png": ("png", "image/png")}

# Of a frame, by FFmpeg's names. What is not listed is called by that name.
_OF_FRAMES = {
    "A53_CC": "closed captions",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "DOVI_METADATA": "Dolby Vision metadata",
    "SPHERICAL": "the mark of a 360 degree picture",
    "STEREO3D": "the mark of a stereo picture",
    "ICC_PROFILE": "colour profile",
    "MASTERING_DISPLAY_METADATA": "incomplete mastering display",
    "S12M_TIMECODE": "timecode of frames",
    "GOP_TIMECODE": "timecode of frames",
}
# Copied as such (see `Clip`), or of the encoding alone.
_NOTHING_LOST = {"DISPLAYMATRIX", "MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL", "SEI_UNREGISTERED"}
_NOTHING_LOST |= {"MOTION_VECTORS", "VIDEO_ENC_PARAMS", "VIDEO_HINT", "REGIONS_OF_INTEREST", "AFD", "PANSCAN"}


def of_frame(frame: av.VideoFrame) -> tuple[str, ...]:
    """What comes with a frame and is not in its pixels, in words."""
    side_data: Any = frame.side_data
    names: set[str] = {data.type.name for data in side_data} - _NOTHING_LOST
    if any(data.type.name == "MASTERING_DISPLAY_METADATA" and not all(_flags(data)) for data in side_data):
        names.add("MASTERING_DISPLAY_METADATA")
    return tuple(sorted({_OF_FRAMES.get(name, name.lower().replace("_", " ")) for name in names}))


def _flags(mastering: Any) -> tuple[int, int]:
    """Whether it says colours, and whether it says brightness; no encoder takes one without the other."""
    return struct.unpack_from("=2i", bytes(mastering), 80)


def of_file(container: InputContainer, video: VideoStream) -> tuple[Beside, ...]:
    """What a file holds beside the pictures of its stream `video`."""
    chapters = container.chapters()
    found = [("", "chapter", chapter["metadata"].get("title", "")) for chapter in chapters]
    found += [("", f"tag {name}", text) for name, text in _tags(container) if name != "timecode"]
    timecodes = {text for stream in container.streams for name, text in _tags(stream) if name == "timecode"}
    found += [("", "timecode", text) for text in timecodes]
    for stream in container.streams:
        subject = "video" if stream is video else _subject(stream)
        if _is_index_of_chapters(stream, bool(chapters)) or (stream.type == "data" and "timecode" in stream.metadata):
            continue
        if stream is not video:
            found.append((subject, "", ""))
        if stream.type in ("video", "audio", "subtitle") and not _is_cover(stream):
            kept = [(name, text) for name, text in _tags(stream) if name not in ("timecode", "creation_time")]
            found += [(subject, name, text) for name, text in kept if (name, text) != ("language", "und")]
            marks = [mark.name or "" for mark in stream.disposition]
            found += [(subject, "mark", mark) for mark in marks if (stream, mark) != (video, "default")]
    return tuple(found)


def copy(
    out: OutputContainer, video: VideoStream, container: InputContainer, clip: Clip, until: Fraction | None
) -> Iterator[av.Packet]:
    """Give `out`, whose pictures are its stream `video`, all that it can hold of what `container` has beside its own.

    Args:
        out: A new file.
        video: Its stream of pictures.
        container: What `clip` was read from.
        clip: Says where the streams begin.
        until: Seconds at which the copied streams are cut; None for their end.

    Returns:
        The packets of the copied streams, as they are, in the order of the file.
    """
    out.metadata.update({name: text for name, text in container.metadata.items() if name.lower() not in _OWN_TAGS})
    out.set_chapters([_shifted(chapter, clip.start) for chapter in container.chapters()])
    streams: dict[int, Any] = {}
    pictures = [stream for stream in container.streams.video if not _is_cover(stream)]
    for stream in container.streams:
        if pictures and stream is pictures[0]:
            _describe(video, stream)
        elif stream.type in ("audio", "subtitle") or _is_cover(stream):
            if _goes_into(out, stream):
                streams[stream.index] = out.add_stream_from_template(stream)
                _describe(streams[stream.index], stream)
            elif _is_cover(stream) and out.format.name == "matroska":  # which keeps covers as attachments
                suffix, mime = _IMAGE_TYPES.get(_name(stream), ("bin", "application/octet-stream"))
                name = stream.metadata.get("filename", f"cover.{suffix}")
                out.add_attachment(name, stream.metadata.get("mimetype", mime), _picture(clip, stream.index))
        elif stream.type == "attachment" and out.format.name == "matroska":
            attached: Any = stream
            out.add_attachment(_filename(stream), attached.mimetype or "application/octet-stream", attached.data)
    return _packets(container, streams, clip, until) if streams else iter(())  # demux() of none would be of all


def _packets(
    container: InputContainer, streams: dict[int, Any], clip: Clip, until: Fraction | None
) -> Iterator[av.Packet]:
    with contextlib.suppress(FFmpegError):  # of a file that breaks off
        for packet in container.demux([container.streams[index] for index in streams]):
            if packet.dts is None and not (packet.size and _is_cover(packet.stream)):
                continue
            if packet.is_corrupt:
                continue
            shift = 0 if _is_cover(packet.stream) else round(clip.start / packet.time_base)
            packet.dts = (packet.dts or 0) - shift
            if packet.pts is not None:
                packet.pts -= shift
            if until is not None and seconds(packet) >= until:
                continue
            packet.stream = streams[packet.stream.index]
            yield packet


def seconds(packet: av.Packet) -> Fraction:
    """When a packet is decoded."""
    stamp = packet.dts if packet.dts is not None else packet.pts
    return (stamp or 0) * packet.time_base


def _goes_into(out: OutputContainer, stream: Any) -> bool:
    """Tried on a file in memory: some writers refuse what they list, when it is too late."""
    if _name(stream) not in out.supported_codecs:
        return False
    try:
        with av.open(io.BytesIO(), "w", format=out.format.name) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (FFmpegError, ValueError):
        return False
    return True


def _describe(new: Stream, old: Stream) -> None:
    """Tags, language and marks of a stream."""
    tags = {name: text for name, text in old.metadata.items() if name.lower() not in _OWN_TAGS - {"handler_name"}}
    if "name" in tags:
        tags.setdefault("title", tags["name"])
    new.metadata.update(tags)
    new.disposition = old.disposition


def _picture(clip: Clip, index: int) -> bytes:
    with open_container(clip.path) as container:
        return next(bytes(packet) for packet in container.demux(container.streams[index]) if packet.size)


def _shifted(chapter: Any, start: Fraction) -> Any:
    ticks = round(start / chapter["time_base"])
    return {**chapter, "start": max(0, chapter["start"] - ticks), "end": max(0, chapter["end"] - ticks)}


def _tags(of: Any) -> list[tuple[str, str]]:
    """Names in small letters, and values; without what the writer makes itself."""
    tags: list[tuple[str, str]] = [(name.lower(), text) for name, text in of.metadata.items()]
    tags = [(_ALIASES.get(name, name), text) for name, text in tags]
    return [(name, text) for name, text in tags if name not in _OWN_TAGS and not name.startswith("_statistics")]


def _is_cover(stream: Stream) -> bool:
    return stream.type == "video" and bool(stream.disposition & stream.disposition.attached_pic)


def _is_index_of_chapters(stream: Stream, chapters: bool) -> bool:
    """MP4 lists chapters a second time, as a stream of text."""
    return chapters and stream.type == "data" and stream.name == "bin_data"


def _filename(stream: Stream) -> str:
    return PurePath(stream.metadata.get("filename", "attachment")).name


def _name(stream: Stream) -> str:
    return stream.codec_context.name if stream.codec_context else stream.name or "unknown"


def _subject(stream: Stream) -> str:
    if stream.type == "attachment":
        return f"attachment {_filename(stream)}"
    what = "cover picture" if _is_cover(stream) else "another video stream" if stream.type == "video" else stream.type
    return f"{what} ({stream.name or 'unknown'})" if stream.type == "data" else f"{what} ({_name(stream)})"
