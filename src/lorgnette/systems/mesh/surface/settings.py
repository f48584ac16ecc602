"""How a mask becomes a surface. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Surface:
    """The settings of `surfaces`."""

    shared_walls: bool = False
    """Organs that touch share their wall: no gap and no overlap. False: each is made by itself, and is smoother."""
    largest: bool = False
    """Only the largest connected part of each organ, by faces of voxels; False: all parts."""
