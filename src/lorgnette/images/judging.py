"""Which image files can be read, looked at before the work: a broken one must not end it in its midst."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from tqdm import tqdm

from lorgnette.common.parts import LeftOut
from lorgnette.images.exif import upright
from lorgnette.images.file import MAX_PIXELS, read_image

THUMBNAIL = 16  # pixels of a side
SHOWN = 3  # how many broken files a warning names; all are kept with a run
THREADS = 2
BAR_SECONDS = 2.0  # of looking, before there is a bar
_JPEG = b"\xff\xd8\xff"
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
_LUMA = (0.299, 0.587, 0.114)  # as a JPEG file's grey


class Look(NamedTuple):
    """What was found in a file."""

    problem: str = ""
    """Why it cannot be read, in one line that names it; empty where it can."""
    size: tuple[int, int] = (0, 0)
    """Height and width, upright."""
    thumbnail: NDArray[np.float32] | None = None
    """(16, 16) grey, in [0, 1], upright."""
    digest: str = ""
    """A hash of the file's bytes."""


def look_at(files: Iterable[Path]) -> dict[Path, Look]:
    """Look at each file: its header, its pixels, its bytes. With a bar on a terminal, where it takes long.

    JPEG files are decoded at a part of their size, which finds what is cut off; all others as for training.
    """
    wanted = list(dict.fromkeys(files))
    with ThreadPoolExecutor(THREADS) as pool:
        looks = pool.map(_look, wanted)
        bar = tqdm(looks, "looking at the images", len(wanted), leave=False, disable=None, delay=BAR_SECONDS)
        return dict(zip(wanted, bar, strict=True))


def say_left_out(left_out: Mapping[str, str], of: int) -> None:
    """Warn of files that are left out, in one line.

    Args:
        left_out: name -> why, in a line that names it.
        of: how many there were.

    Raises:
        ValueError: there is no other.
    """
    if not left_out:
        return
    reasons = list(left_out.values())[:SHOWN]
    rest = [f"and {len(left_out) - SHOWN} more"] if len(left_out) > SHOWN else []
    line = f"{len(left_out)} of {of} images left out: {'; '.join(reasons + rest)}"
    if len(left_out) == of:
        raise ValueError(f"no image is left to work with: {line}")
    warnings.warn(LeftOut(line, left_out), stacklevel=3)


def _look(path: Path) -> Look:
    try:
        size, thumbnail = _quick(path) or _whole(path)
        with path.open("rb") as file:
            return Look("", size, thumbnail, hashlib.file_digest(file, "blake2b").hexdigest()[:32])
    except (ValueError, OSError) as error:
        return Look(" ".join(str(error).split()) or f"{path} cannot be read ({type(error).__name__})")
    except MemoryError:
        return Look(f"{path} is too large for the memory there is")


def _quick(path: Path) -> tuple[tuple[int, int], NDArray[np.float32]] | None:
    """Size and thumbnail of a JPEG file; None for all others and for what is odd about one."""
    with contextlib.suppress(Exception), path.open("rb") as stream:
        if stream.read(3) != _JPEG:
            return None
        stream.seek(0)
        file = JpegImageFile(stream)
        width, height = file.size
        turned = file.getexif().get(_ORIENTATION, 1)
        if width * height > MAX_PIXELS:
            return None
        file.draft("L", (4 * THUMBNAIL, 4 * THUMBNAIL))
        grey = np.asarray(file.convert("L"), np.float32) / 255
        return ((width, height) if turned in _TURNED else (height, width)), _small(upright(grey, turned))
    return None


def _whole(path: Path) -> tuple[tuple[int, int], NDArray[np.float32]]:
    pixels = read_image(path).pixels
    return pixels.shape[:2], _small(pixels @ np.array(_LUMA, np.float32))


def _small(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA), np.float32)
