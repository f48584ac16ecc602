"""Tiles of frames that are kept, so that what a frame shares with earlier ones is not computed again.

    cache = TileCache(max_bytes=2**28)
    for frame in clip:
        restored = restore.enhance(task, frame, cache=cache, stream="clip")
    cache.statistics(), cache.reuse_map("clip")

Exact: a tile is taken from the cache if the pixels it is computed from, halo included, are the same, bit for bit. The
result then is that of the same tiling without a cache, bit for bit: every tile is computed by itself, in one shape.

Near: a tile is taken if it is near enough to the very input its kept output was computed from (its anchor). See
`lorgnette.tiles.near`.

The key of a kept output holds the stream, the model with its adapter and device (`lorgnette.common.identity`), the
precision, the place of the output pixels within the crop, and the pixels. So nothing has to be cleared after a cut in
the clip, or for other weights, another adapter or another stream.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Hashable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorgnette.common.store import ENTRY, BoundedStore
from lorgnette.tiles.plan import Render, Tile, Tiling

MAX_BYTES = 512 * 2**20
TILINGS = {"exact": Tiling(tile=48, halo=5, blend=2), "near": Tiling(tile=32, halo=5, blend=2)}
"""Tilings with a cache. Of smaller tiles more are reused, but more margins are computed twice; near mode computes
neighbours together, and so can afford smaller ones. Narrow margins are enough for trained networks: see the page on
video."""
MAX_STREAMS = 256


ReuseMap = tuple[int, NDArray[np.bool_], NDArray[np.float64]]
"""Frames, the tiles that were reused in the last of them, and the sum over all: (rows, columns) of tiles."""


class TileCache:
    """Kept tiles of any number of streams, in a bounded room. Threads may share it.

    Args:
        max_bytes: limit for all streams together. The least recently used tile goes first.
        mode: 'exact' or 'near'.
        tolerance: near mode: how far a block of 8 x 8 pixels may be from that of the anchor, as PSNR in dB; more is
            stricter. Unset: 38 for enlarging, and 50 for taking noise off, beside the noise itself.
        cosine: near mode: least cosine between the two, their means taken off, in [-1, 1].
        refresh: near mode: frames after which a tile is computed anew, however near it is.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        max_bytes: int = MAX_BYTES,
        mode: Literal["exact", "near"] = "exact",
        tolerance: float | None = None,
        cosine: float = 0.0,
        refresh: int = 30,
    ) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes: {max_bytes!r} is not positive; {MAX_BYTES} is usual")
        if mode not in ("exact", "near"):
            raise ValueError(f"mode: {mode!r} is not known; 'exact' and 'near' are")
        if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
            raise ValueError(f"tolerance: {tolerance!r} is no PSNR in dB; 38 is usual, more is stricter")
        if not -1 <= cosine <= 1:
            raise ValueError(f"cosine: {cosine!r} is not in [-1, 1]; 0 is usual, more is stricter")
        if refresh < 1:
            raise ValueError(f"refresh: {refresh!r} is no number of frames; 30 is usual")
        self.max_bytes, self.mode = max_bytes, mode
        self.tolerance, self.cosine, self.refresh = tolerance, cosine, refresh
        self.store, self._lock = BoundedStore(max_bytes), threading.Lock()
        self._maps = BoundedStore(MAX_STREAMS * ENTRY)  # these are small: they are counted, not measured
        self.clear()

    def __len__(self) -> int:
        """Entries that are kept."""
        return len(self.store)

    def clear(self) -> None:
        """Forget everything and start counting anew."""
        with self._lock:
            self.store.clear()
            self._counts = dict.fromkeys(("frames", "whole_frames", "hits", "misses"), 0)
            self._maps.clear()

    def statistics(self) -> dict[str, float]:
        """What was reused and what is kept.

        Returns:
            `frames`; `whole_frames` of them that were computed as a whole (near mode); `hits` and `misses`, the tiles
            that were reused and computed; `hit_rate` in [0, 1]; `entries`, `bytes`, `max_bytes`.
        """
        with self._lock:
            tiles = self._counts["hits"] + self._counts["misses"]
            return {
                **self._counts,
                "hit_rate": self._counts["hits"] / tiles if tiles else 0.0,
                "entries": len(self.store),
                "bytes": self.store.bytes,
                "max_bytes": self.max_bytes,
            }

    def reuse_map(self, stream: Hashable = "", mean: bool = False) -> NDArray[np.float64] | None:
        """Which tiles of a stream were reused: (rows, columns) of tiles, in [0, 1]; 1 is reused.

        Args:
            stream: as given to `enhance`.
            mean: over all frames of the stream since its size changed, instead of the last frame.

        Returns:
            None for a stream that had no frame yet, or is not among the last 256 streams.
        """
        found: ReuseMap | None = self._maps.get(stream)
        if found is None:
            return None
        frames, last, total = found
        return total / frames if mean else last.astype(float)

    def count(self, stream: Hashable, reused: NDArray[np.bool_], whole: bool = False) -> None:
        """Note a frame: (rows, columns) of tiles that were reused, and whether it was computed as a whole."""
        with self._lock:
            hits = int(reused.sum())
            self._counts["frames"] += 1
            self._counts["whole_frames"] += whole
            self._counts["hits"] += hits
            self._counts["misses"] += reused.size - hits
            found: ReuseMap | None = self._maps.get(stream)
            frames, total = (found[0], found[2]) if found and found[2].shape == reused.shape else (0, 0.0)
            total = total + reused
            self._maps.put(stream, (frames + 1, reused, total), 0)


class ExactReuse:
    """A renderer that looks for each tile in the cache first.

    Args:
        cache: where tiles are kept.
        render: what computes a tile; a function of the crop and of where output pixels lie in it.
        owner: stream, model and whatever else the result depends on.
    """

    def __init__(self, cache: TileCache, render: Render, owner: Hashable) -> None:
        self.cache, self.render, self.owner = cache, render, owner
        self.reused: dict[Tile, bool] = {}

    def __call__(self, crop: Tensor, part: Tile) -> Tensor:
        key = (self.owner, "exact", geometry(part), tuple(crop.shape), crop.dtype, digest(crop))
        rendered = self.cache.store.get(key)
        self.reused[part] = rendered is not None
        if rendered is None:
            rendered = self.render(crop, part)
            self.cache.store.put(key, compact(rendered), rendered.nbytes)
        return rendered

    def count(self, stream: Hashable) -> None:
        """Note the frame whose tiles were rendered."""
        self.cache.count(stream, as_grid(self.reused))


def as_grid(reused: dict[Tile, bool]) -> NDArray[np.bool_]:
    """(rows, columns) of the values for the tiles of a plan, in its order."""
    rows = len({part.y for part in reused})
    return np.array(list(reused.values()), dtype=bool).reshape(rows, -1)


def geometry(part: Tile) -> Hashable:
    """Where the output pixels of a tile lie within its crop: all that a renderer may know about where a tile is.

    Equal for tiles anywhere in an image, so that one result serves all that have the same pixels.
    """
    axes = (part.y, part.x)
    return tuple((axis.cell, axis.n_out / axis.n_in, digest(torch.from_numpy(axis.coordinates()))) for axis in axes)


def digest(x: Tensor) -> bytes:
    """16 bytes that tell the values of a tensor from all others'."""
    return hashlib.blake2b(np.ascontiguousarray(x.detach().cpu().numpy()).data, digest_size=16).digest()


def compact(x: Tensor) -> Tensor:
    """The tensor, without what else lies in its memory."""
    return x if x.untyped_storage().nbytes() == x.nbytes and x.is_contiguous() else x.contiguous().clone()
