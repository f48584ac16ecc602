"""Clips that hold much beside their pictures, made with PyAV, and what is found in them: without Lorgnette."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import PIL.Image
from av.stream import Disposition
from av.subtitles.stream import SubtitleStream
from tests.video.clips import RATE, scene, tone

SIZE = (64, 80)
ONE = 65536
MIRRORED = (0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30)
"""The fifth of EXIF's eight orientations."""
FONT = b"a font, for all that a container knows"
HDR = "master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1):max-cll=900,400"
ASS_HEADER = b"[Script Info]\nScriptType: v4.00+\n[V4+ Styles]\nFormat: Name\nStyle: Default\n[Events]\nFormat: Text\n"


def rich_clip(path: Path, codec: str = "libx265", matrix: tuple[int, ...] = MIRRORED, sound: str = "aac") -> Path:
    """Three frames, two tones, two lines of subtitles, chapters, tags, a cover, and in Matroska a font."""
    in_mp4 = path.suffix != ".mkv"
    with av.open(
        f"file:{path}", "w", options={"movflags": "use_metadata_tags"} if path.suffix == ".mov" else {}
    ) as out:
        options = {"x265-params": f"log-level=none:hdr10=1:{HDR}"} if codec == "libx265" else {}
        video: Any = out.add_stream(codec, rate=25, options=options)
        video.height, video.width, video.pix_fmt = *SIZE, "yuv420p10le"
        video.codec_context.sample_aspect_ratio = Fraction(4, 3)
        video.set_display_matrix(matrix)
        video.metadata.update({"title": "the stage", "language": "jpn", "timecode": "01:02:03:04"})
        german, english = (_sound(out, sound, language) for language in ("ger", "eng"))
        german.disposition, english.disposition = Disposition.default, Disposition.comment
        english.metadata["title"] = "the director"
        lines = [_subtitle(out, path, "mov_text" if in_mp4 else "subrip", language) for language in ("fre", "ita")]
        lines[0][0].disposition = Disposition.forced
        png = io.BytesIO()
        PIL.Image.fromarray(scene(1, (32, 32))[0]).save(png, "PNG")
        cover = None
        if not in_mp4:
            out.add_attachment("font.ttf", "application/x-truetype-font", FONT)
            out.add_attachment("cover.png", "image/png", png.getvalue())
        elif path.suffix == ".mp4":
            cover = _cover(out, png)
        out.metadata.update({"title": "A play", "artist": "a company", "my_own": "tag"})
        if path.suffix == ".mov":
            out.metadata["com.apple.quicktime.make"] = "a telephone"
        out.set_chapters([_chapter(1, 0, 40, "arrival"), _chapter(2, 40, 120, "departure")])
        out.mux([packet for packet in (cover, *(packet for _, packet in lines)) if packet is not None])
        out.mux(tone(german, 4000) + tone(english, 4000))
        for number, pixels in enumerate(scene(3, SIZE)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p10le", threads=1)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def found(path: Path) -> dict[str, object]:
    """What a file holds beside its pixels, by name."""
    with av.open(f"file:{path}") as container:
        video: Any = next(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
        index, sounds, lines = video.index, list(container.streams.audio), list(container.streams.subtitles)
        covers = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
        tags: Mapping[str, str] = {name.lower(): text for name, text in container.metadata.items()}
        of_video = {name.lower(): text for name, text in video.metadata.items()}
        result: dict[str, object] = {
            "sound": [s.codec_context.name for s in sounds],
            "subtitles": [s.codec_context.name for s in lines],
            "title and artist": [tags.get("title"), tags.get("artist")],
            "a tag of one's own": tags.get("my_own"),
            "tags of QuickTime": tags.get("com.apple.quicktime.make"),
            "chapters": [
                (chapter["metadata"]["title"], round(1000 * chapter["start"] * (chapter["time_base"] or 0)))
                for chapter in container.chapters()
            ],
            "languages of the sound": [s.language for s in sounds],
            "titles of the sound": [_title(s) for s in sounds],
            "title of the pictures": _title(video),
            "marks of the sound": [int(s.disposition) for s in sounds],
            "marks of the subtitles": [int(s.disposition & ~Disposition.default) for s in lines],
            "timecode": tags.get("timecode") or of_video.get("timecode"),
            "cover picture": [bytes(next(p for p in container.demux(s) if p.size)) for s in covers],
            "attached font": [s.data for s in container.streams.attachments],
            "pixel aspect": video.sample_aspect_ratio,
        }
    with av.open(f"file:{path}") as container:
        side: Any = next(container.decode(container.streams[index])).side_data  # type: ignore[arg-type]
        data = {kind.type.name: bytes(kind) for kind in side}
    matrix = data.get("DISPLAYMATRIX")
    result["rotation and mirroring"] = matrix and struct.unpack_from("=9i", matrix)
    mastering = data.get("MASTERING_DISPLAY_METADATA")
    result["mastering display (HDR10)"] = mastering and [
        round(a / b, 3) for a, b in struct.iter_unpack("=2i", mastering[:80])
    ]
    result["light level (HDR10)"] = data.get("CONTENT_LIGHT_LEVEL")
    return result


def _title(stream: Any) -> str | None:
    return stream.metadata.get("title") or stream.metadata.get("name")


def _sound(out: Any, codec: str, language: str) -> Any:
    stream = out.add_stream(codec, rate=48000 if codec == "libopus" else RATE)
    stream.metadata["language"] = language
    return stream


def _chapter(number: int, start: int, end: int, title: str) -> Any:
    return {"id": number, "start": start, "end": end, "time_base": Fraction(1, 1000), "metadata": {"title": title}}


def _subtitle(out: Any, path: Path, codec: str, language: str) -> tuple[SubtitleStream, av.Packet]:
    """A stream and its one packet; made from a file of its own, as FFmpeg does not encode plain text."""
    beside = path.with_name(f"{path.stem}-{language}.{'srt' if codec == 'subrip' else 'mp4'}")
    if codec == "subrip":
        beside.write_text("1\n00:00:00,000 --> 00:00:00,100\nhello\n\n")
    else:
        with av.open(str(beside), "w") as alone:
            text: Any = alone.add_stream(codec)
            text.codec_context.subtitle_header, text.codec_context.time_base = ASS_HEADER, Fraction(1, 1000)
            packet = av.Packet(b"\x00\x05hello")
            packet.pts, packet.dts, packet.duration, packet.time_base = 0, 0, 100, Fraction(1, 1000)
            packet.stream = text
            alone.mux(packet)
    with av.open(str(beside)) as source:
        stream: Any = out.add_stream_from_template(source.streams[0])
        stream.metadata["language"] = language
        packet = next(packet for packet in source.demux() if packet.size)
        packet.stream = stream
    beside.unlink()
    return stream, packet


def _cover(out: Any, png: io.BytesIO) -> av.Packet:
    with av.open(io.BytesIO(png.getvalue())) as source:
        stream = out.add_stream_from_template(source.streams.video[0])
        stream.disposition = Disposition.attached_pic
        packet = next(packet for packet in source.demux() if packet.size)
        packet.stream = stream
    return packet
