"""How large an enhanced picture is to be, as said on the command line."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields

from lorgnette.common.values import factor, whole
from lorgnette.enhancing.file import How

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


def how(options: argparse.Namespace) -> How:
    """What the options ask for of an enhanced picture."""
    return How(**{field.name: getattr(options, field.name) for field in fields(How)})
