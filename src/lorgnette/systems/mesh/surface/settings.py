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
    error: float | None = None
    """Millimetres that a surface may change where triangles are saved; None: none are."""
    triangles: int | None = None
    """How many triangles an organ is wished to have, and not fewer; None: as few as `error` allows."""

    def __post_init__(self) -> None:
        if self.error is not None and not 0 < self.error < float("inf"):
            raise ValueError(f"error is {self.error:g}: millimetres above 0 are expected")
        if self.triangles is not None and (self.triangles < 4 or self.error is None):
            what = (
                "at least 4 are needed" if self.error is not None else "say with error by how many millimetres at most"
            )
            raise ValueError(f"triangles is {self.triangles}: {what}")
        if self.error is not None and self.shared_walls:
            raise ValueError("error is given with shared_walls: triangles can be saved for organs by themselves only")
