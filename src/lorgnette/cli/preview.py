"""`lorgnette enhance IN OUT --preview`: three parts of a picture, as given and enhanced, side by side in seconds."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lorgnette.cli.sizes import how

if TYPE_CHECKING:
    from lorgnette.enhancing.enhancer import Enhancer

PARTS, SIDE = 3, 96  # of the picture as given


def write_preview(source: Path, target: Path, enhancer: Enhancer, options: argparse.Namespace) -> None:
    """Write a grid of the busiest parts of the left, the middle and the right of a picture.

    What suits a picture is judged by all of it.

    Args:
        source: the picture.
        target: where the grid goes.
        enhancer: of `lorgnette enhance`.
        options: of the command line: sizes, strength, precision.
    """
    from lorgnette.images.file import Image, read_image, write_image
    from lorgnette.images.pixels import to_uint8
    from lorgnette.report.grid import busiest, labelled_grid
    from lorgnette.shipped import scale_of
    from lorgnette.systems import room, room_name

    image = read_image(source)
    task = enhancer.for_all_of(source, lambda: image.pixels)
    home: Any = room(room_name(task))
    factor = scale_of(image.pixels.shape, how(options).wanted(*image.pixels.shape[:2]))
    settings: dict[str, Any] = {} if factor is None else {"scale": factor}
    more = {} if options.strength is None else {"strength": options.strength}
    more |= {"cmsr": options.levels} if options.levels else {}
    height, width = image.pixels.shape[:2]
    side, third = min(SIDE, height, width), width // PARTS
    rows = []
    for start in (0, third, 2 * third):
        strip = image.pixels[:, start : max(start + third, start + side)][:, -max(third, side) :]
        top, left = busiest(to_uint8(strip), side)
        part = replace(image, pixels=np.ascontiguousarray(strip[top : top + side, left : left + side]), alpha=None)
        enhanced = home.enhance(task, part, precision=options.precision, **settings, **more)
        given = home.plain(part, **settings)
        rows.append({"as given": to_uint8(given.pixels), "enhanced": to_uint8(enhanced.pixels)})
    write_image(target, Image(labelled_grid(rows).astype(np.float32) / 255))
