"""Windows of attention blocks that are kept, so that those which did not change are not computed again.

An option of `swin.SwinTransformerBlock`, and so in no room so far.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from lorgnette.common.store import BoundedStore

MAX_BYTES = 1024 * 2**20


class WindowCache:
    """Inputs and outputs of each window of a block, for each stream of frames, in a bounded room.

    A block of windowed attention computes each window from that window alone, so what a frame shares with the one
    before can be left out, window by window. A window is compared with the input its kept output was computed from,
    never with the last frame, so that small changes do not add up. One cache may serve all blocks of a network, and
    threads may share it.

    Args:
        tolerance: how much any value of a window may differ from it; 0: none, and outputs are reused only where they
            would be computed from the same numbers.
        max_bytes: of all that is kept; the least recently used goes first. A block keeps its input and its output.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(self, tolerance: float = 0.0, max_bytes: int = MAX_BYTES) -> None:
        if not 0 <= tolerance < float("inf"):
            raise ValueError(f"tolerance: {tolerance!r} is no difference of features; 0 is exact")
        if max_bytes < 1:
            raise ValueError(f"max_bytes: {max_bytes!r} is not positive; {MAX_BYTES} is usual")
        self.tolerance, self.max_bytes = tolerance, max_bytes
        self.store, self._lock = BoundedStore(max_bytes), threading.Lock()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        """Blocks of streams that are kept."""
        return len(self.store)

    def __deepcopy__(self, _: dict[int, Any]) -> WindowCache:
        return WindowCache(self.tolerance, self.max_bytes)  # a copy starts empty

    def __getstate__(self) -> dict[str, Any]:
        return {"tolerance": self.tolerance, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    @property
    def statistics(self) -> dict[str, int]:
        """Entries, bytes, and windows that were reused (hits) and computed (misses)."""
        return {"entries": len(self), "bytes": self.store.bytes, "hits": self.hits, "misses": self.misses}

    def clear(self) -> None:
        """Forget everything and start counting anew."""
        self.store.clear()
        with self._lock:
            self.hits = self.misses = 0

    def through(self, windows: Tensor, key: Hashable, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The outputs of all windows, of which only those that changed are computed.

        Args:
            windows: (N, L, C), the windows of a batch in a fixed order.
            key: stream, block and whatever else the outputs depend on.
            compute: of chosen windows (n, L, C) and their numbers (n,), the outputs (n, L, C).
        """
        key = (key, tuple(windows.shape), windows.dtype, windows.device)
        kept: tuple[Tensor, Tensor] | None = self.store.get(key)
        if kept is None:
            changed = torch.ones(len(windows), dtype=torch.bool, device=windows.device)
        elif self.tolerance:
            changed = (windows - kept[0]).abs_().flatten(1).amax(1) > self.tolerance
        else:
            changed = (windows != kept[0]).flatten(1).any(1)
        numbers = changed.nonzero().squeeze(1)
        with self._lock:
            self.misses += len(numbers)
            self.hits += len(windows) - len(numbers)
        if kept is not None and not len(numbers):
            return kept[1].clone()
        if kept is None or len(numbers) == len(windows):
            inputs, outputs = windows.clone(), compute(windows, numbers)
        else:  # what is kept stays as it is: another thread may be reading it
            inputs = kept[0].index_copy(0, numbers, windows[numbers])
            outputs = kept[1].index_copy(0, numbers, compute(windows[numbers], numbers))
        self.store.put(key, (inputs, outputs), inputs.nbytes + outputs.nbytes)
        return outputs.clone()
