"""The original's cache of features: so many, and so many bytes."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import Any

from lorgnette.common.store import BoundedStore


class FeatureCache:
    """Keeps what was used last.

    Args:
        max_size: how many values.
        max_bytes: of all together; a value that is larger by itself is not kept.

    Raises:
        ValueError: `max_size` is below 1.
    """

    def __init__(self, max_size: int = 100, max_bytes: int = 2**30):
        if max_size < 1:
            raise ValueError(f"max_size: {max_size} keeps nothing; 1 or more works")
        self.max_size, self._store = max_size, BoundedStore(max_bytes)

    def __len__(self) -> int:
        return len(self._store)

    def get(self, key: Hashable) -> Any:
        """What is kept under a key, or None."""
        return self._store.get(key)

    def put(self, key: Hashable, value: Any) -> None:
        """Keep a value: a tensor, an array, or a tuple, list or dict of such."""
        self._store.put(key, value, _bytes(value))
        while len(self._store) > self.max_size:
            self._store.drop(self._store.items()[0][0])


def _bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    if isinstance(value, tuple | list):
        return sum(map(_bytes, value))
    return int(getattr(value, "nbytes", sys.getsizeof(value)))
