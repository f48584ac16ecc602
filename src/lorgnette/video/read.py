"""Video files through PyAV (FFmpeg): frames out of them."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.images.file import MAX_PIXELS
from lorgnette.video import beside
from lorgnette.video.clip import FULL, RGB, Clip, Colour, Frame
from lorgnette.video.container import open_container
from lorgnette.video.pixels import FFmpegError, av, to_image

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_BREAK = Fraction(1, 2)  # seconds that may be missing at the end of a whole file: streams differ in length


# ------------------------------------------------------------------------------------------------------ reading


def read_clip(path: Path) -> Clip:
    """What a video file holds. Reads all of it without decoding, to find out whether it is whole.

    Raises:
        ValueError: it is no video, holds no video stream or no frame, or is too large.
    """
    with open_container(path) as container:
        stream = _video_stream(path, container)
        frames, end = _scan(container, stream)
    with open_container(path) as container:
        stream = _video_stream(path, container)
        first = next(_decoded(path, container, stream), None)
        if first is None:
            raise ValueError(f"{path} holds no frames: use an intact copy")
        if first.width * first.height > MAX_PIXELS:
            raise ValueError(f"{path} has frames of {first.width} x {first.height} pixels, more than {MAX_PIXELS}")
        parts = first.format.components
        begin = Fraction(container.start_time or 0, av.time_base)
        length = Fraction(container.duration or 0, av.time_base)
        # Other containers do not say how long they are, or say it at their end.
        tells = any(name in container.format.name for name in ("mp4", "matroska"))
        rgb = first.format.is_rgb or first.format.has_palette
        grey = not rgb and len([part for part in parts if not part.is_alpha]) == 1
        range = int(first.color_range)
        if first.format.name.startswith("yuvj") or (grey and not range):  # what is not said is limited, but for grey
            range = FULL
        return Clip(
            path=path,
            size=(first.height, first.width),
            frames=frames,
            time_base=stream.time_base or Fraction(1, 1000),
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            pixel_format=first.format.name,
            chroma=_chroma(first.format),
            bits=max(part.bits for part in parts),
            grey=grey,
            alpha=any(part.is_alpha for part in parts),
            interlaced=first.interlaced_frame,
            rotation=first.rotation,
            display=_display(first),
            aspect=stream.sample_aspect_ratio or None,
            colour=Colour(
                range, RGB if rgb else int(first.colorspace), int(first.color_primaries), int(first.color_trc)
            ),
            mastering=_mastering(first),
            light=_light(first),
            start=begin,
            breaks_off=end if tells and length - (end - begin) > _BREAK else None,
            beside=beside.of_file(container, stream),
            of_frame=beside.of_frame(first),
        )


class VideoSource:
    """The frames of a video file.

    Args:
        path: The file.
        truncated: Of a file that breaks off, the frames before the break are all.

    Raises:
        ValueError: See `read_clip`; or the file breaks off.
    """

    def __init__(self, path: Path, truncated: bool = False) -> None:
        self.clip, self.truncated = read_clip(path), truncated
        if self.clip.breaks_off is not None and not truncated:
            raise _broken(path, f"after {float(self.clip.breaks_off - self.clip.start):.1f} seconds")

    def identity(self) -> dict[str, Any]:
        """Its size in bytes, and a hash of its first and last megabyte."""
        with self.clip.path.open("rb") as file:
            hasher = hashlib.blake2b(file.read(2**20), digest_size=16)
            size = file.seek(0, 2)
            file.seek(max(0, size - 2**20))
            hasher.update(file.read())
        return {"bytes": size, "hash": hasher.hexdigest()}

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """The frames from `start` on. What comes before is decoded and left out, which is exact in every format.

        Raises:
            ValueError: the file breaks off and `truncated` is not set, or a frame has another size.
        """
        clip = self.clip
        offset = round(clip.start / clip.time_base)
        step = max(1, round(1 / (clip.rate * clip.time_base)))
        last = None
        with open_container(clip.path) as container:
            decoded = _decoded(clip.path, container, _video_stream(clip.path, container), self.truncated)
            for index, frame in enumerate(decoded):
                if (frame.height, frame.width) != clip.size:
                    raise ValueError(
                        f"{clip.path} changes its size at frame {index} from {clip.size[1]}x{clip.size[0]} to "
                        f"{frame.width}x{frame.height}: cut it there"
                    )
                pts = (0 if last is None else last + step) if frame.pts is None else frame.pts - offset
                last = pts if last is None else max(pts, last + 1)  # some files repeat a time stamp
                if index >= start:
                    yield Frame(
                        index, to_image(frame, clip.colour, clip), last, frame.duration or 0, beside.of_frame(frame)
                    )


def _side_data(frame: av.VideoFrame, name: str, layout: str) -> tuple[int, ...] | None:
    """The numbers of a structure of FFmpeg's, where the frame has one."""
    side_data: Any = frame.side_data
    for data in side_data:
        if data.type.name == name and len(bytes(data)) >= struct.calcsize(layout):
            return struct.unpack_from(layout, bytes(data))
    return None


def _display(frame: av.VideoFrame) -> tuple[int, ...] | None:
    matrix = _side_data(frame, "DISPLAYMATRIX", "=9i")
    if matrix is None:
        return None
    a, b, u, c, d, v, _, _, w = matrix  # without the shift: it is in pixels, and players do without it
    return None if (a, b, c, d) == (a, 0, 0, a) and a > 0 else (a, b, u, c, d, v, 0, 0, w)


def _mastering(frame: av.VideoFrame) -> tuple[Fraction, ...] | None:
    numbers = _side_data(frame, "MASTERING_DISPLAY_METADATA", "=22i")  # ten fractions: primaries, white, least, most
    if numbers is None or not (numbers[20] and numbers[21]) or 0 in numbers[1:20:2]:
        return None
    *places, least, most = (Fraction(numbers[i], numbers[i + 1]) for i in range(0, 20, 2))
    return (*places, most, least)


def _light(frame: av.VideoFrame) -> tuple[int, int] | None:
    found = _side_data(frame, "CONTENT_LIGHT_LEVEL", "=2I")
    return None if found is None else (found[0], found[1])


def _chroma(format: av.VideoFormat) -> str:
    if format.is_rgb or format.has_palette or format.chroma_width(16) > 8:
        return "444" if format.name.startswith("yuv444") else "420"
    return "422" if format.chroma_height(16) > 8 else "420"


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & stream.disposition.attached_pic:
            stream.thread_type = "AUTO"
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise ValueError(f"{path} has no video stream; it holds {kinds}")


def _scan(container: InputContainer, video: VideoStream) -> tuple[int, Fraction]:
    """(packets of the video, seconds at which the last packet of any stream ends)."""
    count, end = 0, Fraction(0)
    with contextlib.suppress(FFmpegError):
        for packet in container.demux():
            if packet.size and not packet.is_corrupt:
                count += packet.stream is video
                stamp = packet.pts if packet.pts is not None else packet.dts
                if stamp is not None:
                    end = max(end, (stamp + (packet.duration or 0)) * packet.time_base)
    return count, end


def _decoded(
    path: Path, container: InputContainer, stream: VideoStream, truncated: bool = True
) -> Iterator[av.VideoFrame]:
    count = 0
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:  # the last, cut in two
                continue
            for frame in packet.decode():
                yield frame
                count += 1
    except FFmpegError as error:
        if not truncated:
            raise _broken(path, f"at frame {count} ({error.strerror})") from None


def _broken(path: Path, where: str) -> ValueError:
    return ValueError(f"{path} is damaged or incomplete: it breaks off {where}; --truncated does the frames before")
