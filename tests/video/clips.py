"""Small clips for the tests, made with PyAV, and what a clip holds."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

RATE = 44100


def scene(count: int, size: tuple[int, int], seed: int = 0) -> list[NDArray[np.uint8]]:
    """A smooth background with a square that moves: frames (H, W, 3)."""
    height, width = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phase = rng.uniform(0, 6, 3)
    still = 110 + 60 * np.sin(x[..., None] / 9 + phase) * np.cos(y[..., None] / 7 + phase)
    frames = []
    for number in range(count):
        frame = still.copy()
        left = (number * 3) % max(1, width - 12)
        frame[height // 3 : height // 3 + 10, left : left + 10] = (220, 60, 40)
        frames.append(frame.astype(np.uint8))
    return frames


def make_clip(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    *,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    sound: str | None = None,
    rotation: int = 0,
    matrix: tuple[int, ...] | None = None,
    aspect: Fraction | None = None,
    colour: tuple[int, int] = (0, 2),
    title: str = "",
    of_video: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames to a video file; `colour` is (range, matrix)."""
    with av.open(f"file:{path}", "w", options=options or {}) as out:
        stream: Any = out.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = stream.time_base = time_base
        stream.codec_context.color_range, stream.codec_context.colorspace = colour
        if codec == "libx264":
            stream.options = {"crf": "12", "preset": "fast"}
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        if matrix:
            stream.set_display_matrix(matrix)
        stream.metadata.update(of_video or {})
        if title:
            out.metadata["title"] = title
        audio: Any = out.add_stream(sound, rate=RATE) if sound else None
        if audio:
            length = (pts[-1] if pts else len(frames)) * time_base * RATE
            for packet in tone(audio, int(length)):
                out.mux(packet)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format=pixel_format, dst_color_range=colour[0] or None, dst_colorspace=5, threads=1
            )
            frame.pts, frame.time_base = pts[number] if pts else number, time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def tone(audio: Any, length: int) -> list[av.Packet]:
    wave = np.sin(np.arange(length) / 20).astype(np.float32)
    packets: list[av.Packet] = []
    for start in range(0, length, 1024):
        piece = wave[start : start + 1024]
        if audio.format.name == "s16":
            frame = av.AudioFrame.from_ndarray((piece * 9999).astype(np.int16)[None], format="s16", layout="mono")
        else:
            frame = av.AudioFrame.from_ndarray(np.stack([piece, piece]), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        packets += audio.encode(frame)
    return packets + audio.encode(None)


def decoded(path: Path) -> list[av.VideoFrame]:
    """All frames of a clip."""
    with av.open(f"file:{path}") as container:
        return list(container.decode(video=0))


def times(path: Path) -> list[float]:
    """Seconds of each frame."""
    return [float(frame.time or 0) for frame in decoded(path)]


def pixels(path: Path) -> list[NDArray[np.float32]]:
    """Frames (H, W, 3) in [0, 1] as Lorgnette reads them."""
    from lorgnette.video.read import VideoSource

    return [frame.image.pixels for frame in VideoSource(path).frames()]


def packets(path: Path, kind: str) -> list[tuple[float, bytes]]:
    """(seconds, bytes) of every packet of the first stream of a kind."""
    with av.open(f"file:{path}") as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.size]
