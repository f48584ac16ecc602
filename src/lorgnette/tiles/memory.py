"""Too little memory: the work goes on with smaller tiles."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from lorgnette.tiles.plan import LEAST_TILE

T = TypeVar("T")

_largest: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Model -> side of the tiles that memory sufficed for, where it once did not: for the pictures that come after."""


class SmallerTiles(UserWarning):
    """Memory did not suffice for tiles of the usual size."""


def within_memory(model: nn.Module, side: int, work: Callable[[int], T]) -> T:
    """Do something with tiles of a side, or with ever smaller ones until memory suffices.

    Args:
        model: what computes; the side that sufficed holds for it from then on.
        side: of the tiles, in input pixels.
        work: is called with the side.

    Warns:
        SmallerTiles: memory did not suffice.

    Raises:
        ValueError: not even the smallest tiles fit.
    """
    side = min(side, _largest.get(model, side))
    while True:
        try:
            return work(side)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if side <= LEAST_TILE:
                works = "a smaller picture or size, or another device, may do"
                raise ValueError(f"out of memory even with tiles of {side} pixels: {works}") from None
        # Here, where the error holds nothing of the work any more.
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()
        smaller = max(LEAST_TILE, side // 2)
        warnings.warn(SmallerTiles(f"out of memory with tiles of {side} pixels: {smaller} from here on"), stacklevel=3)
        side = _largest[model] = smaller


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory of the processor or of an accelerator was lacking; torch has no one type for all of them."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
