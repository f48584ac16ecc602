"""Pictures whose numbers use a small part of their depth, as counts of a camera do: brought to [0, 1] and back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lorgnette.common.lazy import needed
from lorgnette.images.errors import ImageWarning
from lorgnette.images.file import Image

LITTLE = 0.25
"""A picture of 16 bits whose largest number is below this share of the depth is taken for counts."""
_REACH = 6.0  # pixels around each over which sums are kept


def used_range(image: Image) -> tuple[float, float] | None:
    """The numbers between which a picture of counts lies, from 0 on, in [0, 1]; None where it uses its depth.

    Floating-point numbers of another range than 0 to 1 have no depth: they were brought to [0, 1] as they are.
    """
    most = float(image.pixels.max())
    return (0.0, most) if image.bits > 8 and 0 < most < LITTLE else None


def in_own_range(
    image: Image,
    work: Callable[[Image], Image],
    given: tuple[float, float] | None = None,
    name: str = "",
    hint: str = "",
) -> Image:
    """Work done on a picture in the range that is asked for, or in that of counts or floats, which is said.

    Args:
        image: numbers in [0, 1], and what those stand for.
        work: takes and gives a picture in [0, 1].
        given: the picture's own numbers for black and white. Unset: see `used_range`.
        name: stands before what is said.
        hint: stands behind it.

    Raises:
        ValueError: the first number is not below the second, in one line.

    Warns:
        ImageWarning: numbers other than those of the depth are taken for black and white.
    """
    zero, one = image.span if image.bits == 32 else (0, 2**image.bits - 1)  # what 0 and 1 are in the file
    found = None if given else used_range(image)
    about = ""
    if found:
        low, high = (zero + value * (one - zero) for value in found)
        about = f"taken for counts: {low:.6g} to {high:.6g} of {one:g} are black and white"
    elif not given and (zero, one) != (0, 1) and image.bits == 32:
        about = f"floating-point numbers: {zero:g} to {one:g} are black and white"
    if about:
        warnings.warn(f"{name}{about}{hint}", ImageWarning, stacklevel=2)
    low, high = found or ((value - zero) / (one - zero) for value in given or (zero, one))
    whole = (low, high) == (0, 1) and image.span == (0, 1)
    return work(image) if whole else in_range(image, low, high, work)


def in_range(image: Image, low: float, high: float, work: Callable[[Image], Image]) -> Image:
    """Work done on a picture as if `low` were black and `high` white.

    Where the result has the size of the picture, it has its sums too, around each pixel over some pixels: a network
    that dims a spot puts its light beside it rather than nowhere. Numbers outside the range stay as they are. Where the
    work changes nothing, the picture itself comes back.

    Args:
        image: numbers in [0, 1].
        low, high: of the same numbers; `low` below `high`.
        work: takes and gives a picture in [0, 1].

    Raises:
        ValueError: `low` is not below `high`, in one line.
    """
    if not low < high:
        raise ValueError(f"range: {low:g} {high:g} does not work; the first must be below the second")
    before = image.pixels
    given = replace(image, pixels=((before - low) / (high - low)).clip(0, 1).astype(np.float32))
    done = work(given)
    if done.pixels is given.pixels:
        return image
    pixels = done.pixels * np.float32(high - low) + np.float32(low)
    if pixels.shape == before.shape:
        cv2 = needed("cv2", "opencv-python-headless", "--range of a picture that keeps its size")
        lost = (before.clip(low, high) - pixels).astype(np.float32)
        pixels = pixels + cv2.GaussianBlur(lost, (0, 0), _REACH, borderType=cv2.BORDER_REFLECT).reshape(lost.shape)
        pixels = np.where((before < low) | (before > high), before, pixels)
    return replace(done, pixels=pixels.astype(np.float32))
