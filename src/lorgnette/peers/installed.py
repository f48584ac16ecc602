"""Which packages are there, and which programs are asked for. Nothing is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TypeVar

from lorgnette.common.text import nearest

Program = TypeVar("Program")


def installed(*packages: str) -> bool:
    return all(find_spec(package) for package in packages)


def chosen(programs: Mapping[str, Program], names: Sequence[str]) -> dict[str, Program]:
    """All `programs`, or those of these `names`; a one-line ValueError for one that is not there."""
    for name in names:
        if name not in programs:
            raise ValueError(
                f"peers: {name!r} is not known, or its package is not installed{nearest(name, programs)}; "
                f"{', '.join(programs)} can be had here (lorgnette/peers says how to get others)"
            )
    return {name: program for name, program in programs.items() if not names or name in names}
