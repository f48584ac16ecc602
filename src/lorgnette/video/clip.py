"""What a clip is: sizes, times and colours of a video file or of a folder of frames. Imports neither av nor torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lorgnette.images.file import Image
    from lorgnette.video.journal import Journal

READ_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".vob"),
    *(".wmv", ".asf", ".flv", ".3gp", ".ogv", ".y4m", ".mxf", ".gif"),
)
"""Of files that are taken for clips."""

Progress = Callable[[str, int, int], object]
"""Called with what is done ("frame" or "write"), how many frames that is so far, and how many there are."""

Beside = tuple[str, str, str]
"""Something beside the pictures: what it belongs to ("" for the clip), its name ("" for a stream itself), its value."""

UNSPECIFIED, RGB, BT709, SMPTE170M = 2, 0, 1, 6  # code points of ITU-T H.273, which FFmpeg uses
LIMITED, FULL = 1, 2  # FFmpeg's colour ranges; 0 is unspecified, which means limited


@dataclass(frozen=True)
class Colour:
    """How numbers stand for colours: FFmpeg's range and the code points of ITU-T H.273."""

    range: int = 0
    matrix: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    def matrix_for(self, size: tuple[int, int]) -> int:
        """The matrix; guessed by the frames' size `(H, W)` where it is not said, as players do."""
        return _usual_matrix(size) if self.matrix == UNSPECIFIED else self.matrix


@dataclass(frozen=True)
class Clip:
    """A sequence of frames of one size.

    Attributes:
        path: The video file or the folder.
        size: `(H, W)` of a frame as stored, before any rotation.
        frames: How many there are; of some video files an estimate.
        time_base: Seconds of one tick of the time stamps.
        rate: Frames per second, on average.
        pixel_format: FFmpeg's name of it.
        chroma: "420", "422" or "444": the resolution of colour. RGB and grey count as the first.
        bits: Per channel.
        grey: One channel only.
        alpha: There is a transparency channel.
        interlaced: Frames are made of two fields.
        rotation: Degrees, counter-clockwise, that a player turns the frames by.
        display: The matrix by which a player turns and mirrors them: FFmpeg's nine numbers; None for as they are.
        aspect: Width of a pixel by its height; None where it is not said.
        colour: See `Colour`.
        mastering: Of HDR, the display it was made on: x and y of red, green, blue and white, greatest and least cd/m2.
        light: Of HDR, the brightest pixel and the brightest mean of a frame, in cd/m2.
        start: Seconds at which the file says its streams begin.
        breaks_off: Seconds at which a damaged file ends; None for a whole one.
        beside: What the file holds beside the pictures.
        of_frame: What comes with its first frame and is not in the pixels, as `Frame.beside`.
    """

    path: Path
    size: tuple[int, int]
    frames: int
    time_base: Fraction
    rate: Fraction
    pixel_format: str = "rgb24"
    chroma: str = "420"
    bits: int = 8
    grey: bool = False
    alpha: bool = False
    interlaced: bool = False
    rotation: int = 0
    display: tuple[int, ...] | None = None
    aspect: Fraction | None = None
    colour: Colour = Colour(matrix=RGB)
    mastering: tuple[Fraction, ...] | None = None
    light: tuple[int, int] | None = None
    start: Fraction = Fraction(0)
    breaks_off: Fraction | None = None
    beside: tuple[Beside, ...] = ()
    of_frame: tuple[str, ...] = ()

    def said(self) -> dict[str, str]:
        """What players and screens are told about the pixels beside colour: name -> value, in words."""
        a, b, _, c, d = (self.display or (1, 0, 0, 0, 1))[:5]
        values = {
            "pixel aspect": "" if self.aspect in (None, 1) else str(self.aspect),
            "rotation": str(self.rotation % 360 or ""),
            "mirroring": "left to right" if a * d < b * c else "",
            "mastering display": f"of {float(self.mastering[-2]):.0f} cd/m2 (HDR)" if self.mastering else "",
            "light level": f"of {self.light[0]} cd/m2 (HDR)" if self.light else "",
        }
        return {name: value for name, value in values.items() if value}

    def enhanced_colour(self, size: tuple[int, int], rgb: bool) -> Colour:
        """The colour of a clip made of this one.

        Args:
            size: `(H, W)` of the new frames. If players would guess another matrix at this size, it is said.
            rgb: They are stored as RGB.
        """
        if rgb:
            return replace(self.colour, matrix=RGB, range=0)
        if self.colour.matrix == RGB:
            return replace(self.colour, matrix=_usual_matrix(size), range=LIMITED)
        matrix = self.colour.matrix_for(self.size)
        return self.colour if self.colour.matrix_for(size) == matrix else replace(self.colour, matrix=matrix)


@dataclass
class Frame:
    """One picture of a clip.

    Attributes:
        index: Its place, from 0.
        image: Its pixels.
        pts: When it is shown, in ticks of `Clip.time_base` after `Clip.start`.
        duration: Ticks it is shown for; 0 where the file does not say.
        beside: What comes with it and is not in its pixels, in words, such as closed captions.
    """

    index: int
    image: Image
    pts: int
    duration: int
    beside: tuple[str, ...] = ()


class Source(Protocol):
    """Where frames come from."""

    clip: Clip

    def identity(self) -> dict[str, Any]:
        """What tells this source from another; JSON."""
        ...

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """The frames from `start` on, one by one."""
        ...


class Target(Protocol):
    """Where frames go."""

    notes: list[str]

    def keep(self, frame: Frame, image: Image, journal: Journal) -> bytes:
        """Make a frame safe in the working folder; what it returns goes into the journal."""
        ...

    def picture(self, journal: Journal, index: int) -> Image:
        """A frame that is done."""
        ...

    def finish(self, journal: Journal, tell: Progress) -> None:
        """Make the output of the frames that are done: whole or not at all."""
        ...


def _usual_matrix(size: tuple[int, int]) -> int:
    return BT709 if size[1] >= 1280 or size[0] > 576 else SMPTE170M


@dataclass(frozen=True)
class Enhanced:
    """What came of a clip.

    Attributes:
        path: The output.
        frames: In it.
        resumed: Of these, frames that an earlier run had done.
        size: `(H, W)` of a frame of the output.
        seconds: Computing time of each frame, of earlier runs too.
        reuse: For each frame which tiles came from the cache, (rows, columns) of bool; empty without a cache.
        notes: What could not be kept, in words.
    """

    path: Path
    frames: int
    resumed: int
    size: tuple[int, int]
    seconds: Sequence[float]
    reuse: Sequence[NDArray[np.bool_]]
    notes: Sequence[str]
