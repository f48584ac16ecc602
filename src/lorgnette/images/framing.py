"""A picture into a width and a height that have another shape than it: within them, cut, padded or stretched."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lorgnette.images.file import Image

Shape = Literal["fit", "crop", "pad", "stretch"]


def rendered_size(size: tuple[int, int], wanted: tuple[int, int], shape: Shape | None) -> tuple[int, int]:
    """(H, W) to which a picture is enlarged before `framed` cuts or pads it.

    Args:
        size: (H, W) of the picture.
        wanted: (H, W) that is asked for.
        shape: 'fit' and 'pad': the largest of the picture's shape within `wanted`; 'crop': the smallest around it;
            'stretch': `wanted` itself; None: `wanted`, where the shape is the picture's but for rounding.

    Raises:
        ValueError: None, and `wanted` has another shape.
    """
    exact = [wanted[0] / size[0], wanted[1] / size[1]]
    by = max(exact) if shape == "crop" else min(exact)
    inner = (max(1, round(size[0] * by)), max(1, round(size[1] * by)))
    if shape == "stretch":
        return wanted
    if shape is not None:
        return inner
    if abs(inner[0] - wanted[0]) <= 1 and abs(inner[1] - wanted[1]) <= 1:
        return wanted
    raise ValueError(
        f"--size: {wanted[1]}x{wanted[0]} has another shape than {size[1]}x{size[0]}: "
        f"add --fit ({inner[1]}x{inner[0]}), --crop, --pad or --stretch"
    )


def framed(image: Image, size: tuple[int, int] | None) -> Image:
    """A picture at (H, W): what is larger is cut and what is smaller padded, evenly on both sides.

    Padding is black, and transparent in a picture with an alpha plane. None for the picture as it is.
    """
    if size is None or image.pixels.shape[:2] == size:
        return image
    alpha = None if image.alpha is None else _centred(image.alpha, size)
    return replace(image, pixels=_centred(image.pixels, size), alpha=alpha)


def _centred(plane: NDArray, size: tuple[int, int]) -> NDArray:
    for axis, wanted in enumerate(size):
        spare = wanted - plane.shape[axis]
        if spare < 0:
            plane = np.take(plane, range(-spare // 2, -spare // 2 + wanted), axis)
        else:
            room = [(spare // 2, spare - spare // 2) if n == axis else (0, 0) for n in range(plane.ndim)]
            plane = np.pad(plane, room)
    return np.ascontiguousarray(plane)
