"""What a picture may be too large for: its format, the memory, the disk. Known before the work."""

from __future__ import annotations

import shutil
from pathlib import Path

from lorgnette.common.memory import free_memory
from lorgnette.images.errors import ImageError
from lorgnette.images.formats.table import FORMATS, Format

_WORKING = 24
"""Bytes that a pixel of a result takes at the most: as float32, with alpha, as integers, and as they are packed."""


def check_fits(path: Path, format: Format, size: tuple[int, int], channels: int = 3, bits: int = 8) -> None:
    """Refuse a picture of `size` (H, W) that this format cannot hold, or for which the disk has no room.

    Raises:
        ImageError: (a ValueError) with what would work.
    """
    height, width = size
    raw = height * width * channels * format.bits(bits) // 8
    too_large = "" if max(size) <= format.side else f"it holds {format.side} pixels a side at most"
    if format.name == "BMP" and raw >= 2**32 - 2**10:
        too_large = "it holds 4 GB at most"
    if too_large:
        others = [other for other in FORMATS if other.name in ("PNG", "TIFF") and max(size) <= other.side]
        raise ImageError(
            f"cannot write {path} as {format.name} of {width} x {height} pixels: {too_large}; "
            f"{' or '.join(other.suffixes[0] for other in others)} holds more, or make it smaller"
        )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free, least = shutil.disk_usage(folder).free, raw * format.share
    if free < least:
        raise ImageError(
            f"cannot write {path} of {width} x {height} pixels: it takes about {megabytes(least)}, and "
            f"{megabytes(free)} are free on its disk; another folder, or .jpg, may have room"
        )


def check_memory(size: tuple[int, int]) -> None:
    """Refuse to make a picture of `size` (H, W) for which this machine has not the memory.

    Raises:
        ValueError: with how much there is.
    """
    needed, free = size[0] * size[1] * _WORKING, free_memory()
    if free is not None and needed > free:
        raise ValueError(
            f"{size[1]} x {size[0]} pixels do not work here: they need about {megabytes(needed)} of memory, and "
            f"{megabytes(free)} are free; a smaller scale or size does, or another machine"
        )


def megabytes(amount: float) -> str:
    """'35 MB', '2.1 GB'."""
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.3g} MB"
