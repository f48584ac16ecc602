"""Pictures for people: a labelled grid of crops, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow, ImageDraw, ImageFont

MARGIN, LABEL = 8, 26


def labelled_grid(
    rows: Sequence[Mapping[str, NDArray[np.uint8]]], enlarge: int = 1, captions: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """Rows of pictures of one size under their column's label.

    Args:
        rows: for each row, label -> (h, w, 3); the same labels, in the same order, in every row.
        enlarge: each pixel is drawn this many times along both axes.
        captions: what stands above each row; none by default.

    Returns:
        (H, W, 3).
    """
    labels = list(rows[0])
    height, width = (n * enlarge for n in rows[0][labels[0]].shape[:2])
    step = height + (LABEL if captions else MARGIN)
    first = LABEL + (LABEL - MARGIN if captions else 0)
    size = (MARGIN + (width + MARGIN) * len(labels), first + step * (len(rows) - 1) + height + MARGIN)
    canvas = Pillow.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(16)
    for column, label in enumerate(labels):
        left = MARGIN + column * (width + MARGIN)
        draw.text((left + width / 2, LABEL / 2), label, fill="black", font=font, anchor="mm")
        for number, row in enumerate(rows):
            tile = Pillow.fromarray(row[label]).resize((width, height), Pillow.Resampling.NEAREST)
            canvas.paste(tile, (left, first + number * step))
    for number, caption in enumerate(captions):
        draw.text((MARGIN, first + number * step - 4), caption, fill="black", font=font, anchor="ls")
    return np.asarray(canvas)


def busiest(image: NDArray[np.uint8], side: int, step: int = 8) -> tuple[int, int]:
    """(top, left) of the square with the most edges, on a grid of `step` pixels."""
    grey = image.astype(np.float32).mean(axis=-1)
    edges = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    total = np.pad(edges.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    top = np.arange(0, max(1, edges.shape[0] - side), step)[:, None]
    left = np.arange(0, max(1, edges.shape[1] - side), step)[None]
    bottom, right = np.minimum(top + side, edges.shape[0]), np.minimum(left + side, edges.shape[1])
    inside = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    return int(top[row, 0]), int(left[0, column])
