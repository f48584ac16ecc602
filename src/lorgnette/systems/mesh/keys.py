"""Places in a sparse grid as one number each, so that they can be sorted and found."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 16
LIMIT = 2**_BITS - 2
"""Coordinates lie in [-1, `LIMIT`)."""


def keys(coords: Tensor) -> Tensor:
    """(..., 4) rows (batch item, x, y, z), or (..., 3) without the item, as int64 in lexicographic order."""
    *item, x, y, z = coords.long().unbind(-1)
    key = (x + 1 << 2 * _BITS) + (y + 1 << _BITS) + (z + 1)
    return key + (item[0] << 3 * _BITS) if item else key


def step(x: int, y: int, z: int) -> int:
    """What a key grows by from one place to another."""
    return (x << 2 * _BITS) + (y << _BITS) + z


def places(key: Tensor) -> Tensor:
    """(..., 3) coordinates of keys without a batch item."""
    return torch.stack([(key >> 2 * _BITS), (key >> _BITS) & 2**_BITS - 1, key & 2**_BITS - 1], -1) - 1


def find(sorted_keys: Tensor, wanted: Tensor) -> Tensor:
    """Place of each wanted key among the sorted ones, or their number where it is not there."""
    place = torch.searchsorted(sorted_keys, wanted)
    missing = sorted_keys[place.clamp(max=len(sorted_keys) - 1)] != wanted
    return place.masked_fill_(missing, len(sorted_keys))
