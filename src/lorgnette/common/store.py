"""Values under keys, within a limit of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

ENTRY = 512
"""About how many bytes a key takes, and the bookkeeping for it."""


class BoundedStore:
    """Keeps the values that were used last. Threads may share it; a copy starts empty, in another process too.

    Args:
        max_bytes: limit for all values together, each counted with `ENTRY` more. The least recently used goes first.

    Attributes:
        bytes: what is kept now takes so many.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[BoundedStore], tuple[int]]:
        return BoundedStore, (self.max_bytes,)

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> Any:
        """What is kept under a key, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def get_or_make(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept under a key, or else what `make` gives, kept from now on: an array or a tensor."""
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value, value.nbytes)
        return value

    def put(self, key: Hashable, value: Any, nbytes: int) -> None:
        """Keep a value of so many bytes instead of an earlier one, and drop what no longer fits."""
        nbytes += ENTRY
        with self._lock:
            self._forget(key)
            if nbytes <= self.max_bytes:
                self._kept[key] = value, nbytes
                self.bytes += nbytes
            while self.bytes > self.max_bytes:
                self._forget(next(iter(self._kept)))

    def drop(self, key: Hashable) -> None:
        """Forget what is kept under a key, if anything is."""
        with self._lock:
            self._forget(key)

    def _forget(self, key: Hashable) -> None:
        _, nbytes = self._kept.pop(key, (None, 0))
        self.bytes -= nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0

    def items(self) -> list[tuple[Any, Any]]:
        """Keys and values of all that is kept, the least recently used first."""
        with self._lock:
            return [(key, value) for key, (value, _) in self._kept.items()]
