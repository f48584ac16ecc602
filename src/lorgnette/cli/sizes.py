"""How large an enhanced picture is to be, as said on the command line."""

from __future__ import annotations

import argparse
import re
from typing import Any

from lorgnette.common.values import factor, whole

SHAPES = {
    "fit": "--size: as large as fits, shape kept",
    "crop": "--size: filled; what reaches beyond it is cut off",
    "pad": "--size: as large as fits, with black (or transparent) bars",
    "stretch": "--size: out of shape",
}


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """The options of sizes."""
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--scale", type=_scale, metavar="S", help="factor, as 3.3 or 0.5; unset: 2, or the model's own")
    size = "width and height in pixels; of another shape, with one of:"
    wanted.add_argument("--size", type=width_by_height, metavar="WxH", help=size)
    for name, what in (("width", "width"), ("height", "height"), ("long-side", "longer side")):
        wanted.add_argument(f"--{name}", type=whole(), metavar="N", help=f"{what} in pixels, shape kept")
    shape = parser.add_mutually_exclusive_group()
    for name, what in SHAPES.items():
        shape.add_argument(f"--{name}", dest="shape", action="store_const", const=name, help=what)


def _scale(text: str) -> float:
    return factor(text, least=0.01)


def width_by_height(text: str) -> tuple[int, int]:
    """'1920x1080' as (H, W)."""
    match = re.fullmatch(r"([1-9]\d{0,5})[x×]([1-9]\d{0,5})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} does not work; WIDTHxHEIGHT such as 1920x1080 does")
    return int(match[2]), int(match[1])


def check_sizes(options: argparse.Namespace) -> None:
    """Refuse what means nothing."""
    if options.shape and not options.size:
        raise ValueError(f"--{options.shape}: is for --size, which is not set")


def wanted(options: argparse.Namespace, height: int, width: int) -> dict[str, Any]:
    """`scale` or `size` for an image of that size; what `frame` gives is cut or padded to afterwards."""
    if options.size:
        from lorgnette.images.framing import rendered_size

        return {"size": rendered_size((height, width), options.size, options.shape)}
    if options.width:
        return {"size": (max(1, round(height * options.width / width)), options.width)}
    if options.height:
        return {"size": (options.height, max(1, round(width * options.height / height)))}
    if options.long_side:
        ratio = options.long_side / max(height, width)
        return {"size": (max(1, round(height * ratio)), max(1, round(width * ratio)))}
    return {} if options.scale is None else {"scale": options.scale}


def frame(options: argparse.Namespace) -> tuple[int, int] | None:
    """(H, W) to which an enlarged picture is cut or padded; None for as it is."""
    return options.size if options.shape in ("crop", "pad") else None
