"""Values under keys, in a bounded room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

ENTRY = 512
"""Bytes of a key and what goes with it, about."""


class BoundedStore:
    """Keeps what was used last. Threads may share it.

    Args:
        max_bytes: of all values together, `ENTRY` more for each. The least recently used goes first.

    Attributes:
        bytes: of what is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> Any:
        """What is kept under a key, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Any, nbytes: int) -> None:
        """Keep a value of so many bytes instead of an earlier one, and drop what no longer fits."""
        nbytes += ENTRY
        with self._lock:
            _, old = self._kept.pop(key, (None, 0))
            self.bytes -= old
            if nbytes <= self.max_bytes:
                self._kept[key] = value, nbytes
                self.bytes += nbytes
            while self.bytes > self.max_bytes:
                _, (_, dropped) = self._kept.popitem(last=False)
                self.bytes -= dropped

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0

    def values(self) -> list[Any]:
        """All that is kept."""
        with self._lock:
            return [value for value, _ in self._kept.values()]
