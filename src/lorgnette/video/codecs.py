"""Which codec, pixel format and settings a clip is written with. Plain tables; imports neither av nor torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from lorgnette.video.clip import Clip, Colour

CONTAINERS = {
    ".mp4": ("h264", "hevc", "av1", "mpeg4"),
    ".m4v": ("h264", "hevc", "mpeg4"),
    ".mov": ("h264", "hevc", "prores", "mpeg4"),
    ".mkv": ("h264", "hevc", "av1", "vp9", "mpeg4", "prores", "ffv1"),
    ".webm": ("vp9", "av1"),
}
"""Suffix -> codecs that it may hold, the usual one first."""

ENCODERS = {
    "h264": ("libx264",),
    "hevc": ("libx265",),
    "av1": ("libsvtav1", "libaom-av1"),
    "vp9": ("libvpx-vp9",),
    "mpeg4": ("mpeg4",),
    "prores": ("prores_ks",),
    "ffv1": ("ffv1",),
}
"""Codec -> FFmpeg's encoders of it, the best first. FFV1 loses nothing."""

# Encoder -> its own scale of quality at our 0 and at our 100, under the name of its option.
_QUALITY = {
    "libx264": ("crf", 50, 10),
    "libx265": ("crf", 51, 12),
    "libsvtav1": ("crf", 63, 15),
    "libaom-av1": ("crf", 63, 15),
    "libvpx-vp9": ("crf", 63, 15),
    "mpeg4": ("global_quality", 31 * 118, 1 * 118),  # in FFmpeg's units of its quantiser
    "prores_ks": ("global_quality", 32 * 118, 1 * 118),
}
_MORE = {
    "libx265": {"x265-params": "log-level=error"},
    "libaom-av1": {"b": "0"},
    "libvpx-vp9": {"b": "0", "row-mt": "1"},
    "mpeg4": {"flags": "+qscale"},
    "prores_ks": {"flags": "+qscale"},
    "ffv1": {"level": "3", "g": "1"},
}
OWN_SETTINGS = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}
"""Encoder -> the option under which it takes settings of its own, joined by colons."""

_NEED_EVEN = ("libx264", "libx265")  # where colour has half the pixels
_LEAST_SIDE = {"libx265": 64}  # with less, x265 (4.2) writes past its memory
_FINEST_TIME = {"mpeg4": 65535}  # ticks per second


@dataclass(frozen=True)
class Encoding:
    """How frames are written.

    Attributes:
        codec: A key of `ENCODERS`.
        encoder: FFmpeg's name of it.
        pixel_format: FFmpeg's name of it.
        quality: 1 to 100.
        size: `(H, W)`.
        colour: What the numbers mean.
    """

    codec: str
    encoder: str
    pixel_format: str
    quality: int
    size: tuple[int, int]
    colour: Colour

    @property
    def depth(self) -> int:
        """Bits per channel, as FFmpeg's names say them: yuv420p10le, gbrp12le; 8 where they say nothing."""
        number = re.search(r"p(\d+)le$", self.pixel_format)
        return int(number[1]) if number else 8

    @property
    def options(self) -> dict[str, str]:
        """The encoder's own settings."""
        options = dict(_MORE.get(self.encoder, {}))
        if self.encoder in _QUALITY:
            name, worst, best = _QUALITY[self.encoder]
            options[name] = str(round(worst + (best - worst) * self.quality / 100))
        return options

    def time_base(self, wanted: Fraction) -> Fraction:
        """The tick that the encoder can count in."""
        finest = _FINEST_TIME.get(self.encoder)
        return wanted if finest is None or wanted.denominator <= finest else Fraction(1, finest)


def hdr_settings(encoder: str, clip: Clip) -> list[str]:
    """An encoder's own settings that say the mastering display and light level of `clip`; none where it has none."""
    if encoder not in OWN_SETTINGS:
        return []
    of_display, of_light = {
        "libx264": ("mastering-display", "cll"),
        "libx265": ("master-display", "max-cll"),
        "libsvtav1": ("mastering-display", "content-light"),
    }[encoder]
    settings = []
    if clip.mastering:
        units = (1, 1) if encoder == "libsvtav1" else (50000, 10000)  # of colours, and of cd/m2
        scaled = [float(n * units[i > 7]) for i, n in enumerate(clip.mastering)]
        rx, ry, gx, gy, bx, by, wx, wy, most, least = (f"{n:.6f}" if units == (1, 1) else str(round(n)) for n in scaled)
        settings.append(f"{of_display}=G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({most},{least})")
    if clip.light:
        settings.append(f"{of_light}={clip.light[0]},{clip.light[1]}")
    return settings


def check_container(path: Path, codec: str | None) -> None:
    """Refuse, before the work, a file or codec that cannot be.

    Raises:
        ValueError: the suffix is none of `CONTAINERS`, or `codec` does not go into it.
    """
    suffix = path.suffix.lower()
    if suffix not in CONTAINERS:
        raise ValueError(f"cannot write {path}: the suffix of a clip must be one of {', '.join(CONTAINERS)}")
    if codec is not None and codec not in CONTAINERS[suffix]:
        raise ValueError(f"--codec: {codec} does not go into {suffix}; {', '.join(CONTAINERS[suffix])} do")


def choose_encoding(
    path: Path,
    codec: str | None,
    quality: int,
    clip: Clip,
    size: tuple[int, int],
    formats_of: Callable[[str], list[str]],
) -> Encoding:
    """Codec and pixel format for frames of `size` `(H, W)` made of those of `clip`.

    Depth and colour resolution stay as they are where the encoder can; an odd width or height asks for colour in
    full resolution. RGB becomes YUV with half the colour resolution, which every player shows; FFV1 keeps it.

    Args:
        path: Its suffix says the container.
        codec: A key of `ENCODERS`; None for the first that there is.
        quality: 1 to 100.
        clip: Where the frames come from.
        size: `(H, W)` of the new frames.
        formats_of: The pixel formats of an encoder of this build of FFmpeg; empty where it has no such encoder.

    Raises:
        ValueError: this build of FFmpeg has no encoder for it.
    """
    check_container(path, codec)
    for name in CONTAINERS[path.suffix.lower()] if codec is None else (codec,):
        for encoder in ENCODERS[name]:
            formats = formats_of(encoder)
            for wanted in _wanted_formats(clip, size, encoder):
                if wanted in formats:
                    rgb = wanted.startswith(("gbr", "bgr"))
                    return Encoding(name, encoder, wanted, quality, size, clip.enhanced_colour(size, rgb))
    raise ValueError(
        f"--codec: this build of FFmpeg has no encoder of {codec or 'a usual codec'} for {path.suffix} files of "
        f"{size[1]}x{size[0]} pixels"
    )


def _wanted_formats(clip: Clip, size: tuple[int, int], encoder: str) -> Iterator[str]:
    """Pixel formats, the best first; none where the frames are too small."""
    if min(size) < _LEAST_SIDE.get(encoder, 1):
        return
    depths = (8, 10) if clip.bits <= 8 else (10, 8)
    if encoder == "ffv1":
        depths = {8: (8,), 9: (10,), 10: (10,), 12: (12,)}.get(clip.bits, (16,))
        if clip.colour.matrix == 0:
            yield from ("bgr0" if depth == 8 else f"gbrp{depth}le" for depth in depths)
    odd = (size[0] % 2 == 1, size[1] % 2 == 1)
    for depth in depths:
        for chroma in {"420": ("420", "422", "444"), "422": ("422", "444", "420")}.get(clip.chroma, ("444", "420")):
            too_odd = (odd[0] and chroma == "420") or (odd[1] and chroma != "444")
            if not (too_odd and encoder in _NEED_EVEN):
                yield f"yuv{chroma}p" if depth == 8 else f"yuv{chroma}p{depth}le"
