"""How large an enhanced picture is to be, as said on the command line."""

from __future__ import annotations

import argparse
import re
from typing import Any


def width_by_height(text: str) -> tuple[int, int]:
    """'1920x1080' as (H, W)."""
    match = re.fullmatch(r"([1-9]\d{0,5})[x×]([1-9]\d{0,5})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} does not work; WIDTHxHEIGHT such as 1920x1080 does")
    return int(match[2]), int(match[1])


def wanted(options: argparse.Namespace, height: int, width: int) -> dict[str, Any]:
    """`scale` or `size` for an image of that size."""
    if options.size:
        return {"size": options.size}
    if options.width:
        return {"size": (max(1, round(height * options.width / width)), options.width)}
    if options.height:
        return {"size": (options.height, max(1, round(width * options.height / height)))}
    if options.long_side:
        ratio = options.long_side / max(height, width)
        return {"size": (max(1, round(height * ratio)), max(1, round(width * ratio)))}
    return {} if options.scale is None else {"scale": options.scale}
