"""Tiles of frames that are kept, so that what a frame shares with earlier ones is not computed again.

    cache = TileCache(max_bytes=2**28)
    for frame in clip:
        restored = restore.enhance(task, frame, cache=cache, stream="clip")
    cache.statistics(), cache.reuse_map("clip")

Exact: a tile is taken from the cache if the pixels it is computed from, halo included, are the same, bit for bit. The
result then is that of the same tiling without a cache, bit for bit: every tile is computed by itself, in one shape.

Near: a tile is taken if it is near enough to the very input its kept output was computed from (its anchor). See
`lorgnette.near_tiles`.

Kept outputs are found under the stream, the model with its adapter (`identity`), the precision, the device, the place
of the output pixels within the crop, and the pixels. So a cut, other weights, another adapter or another stream
never meet what belongs elsewhere, and nothing has to be cleared.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lorgnette.tiling import Render, Tile, Tiling

MAX_BYTES = 512 * 2**20
TILINGS = {"exact": Tiling(tile=48, halo=5, blend=2), "near": Tiling(tile=32, halo=5, blend=2)}
"""With a cache: the smaller a tile the more are reused, but its margins are computed twice (near mode computes
neighbours together, and can afford smaller ones). Narrow margins are enough for trained networks; see the page on
video."""
MAX_STREAMS = 256
_ENTRY = 512  # bytes of a key and what goes with it, about


class TileCache:
    """Kept tiles of any number of streams, in a bounded room. Threads may share it.

    Args:
        max_bytes: of what is kept, all streams together. The least recently used goes first.
        mode: 'exact' or 'near'.
        tolerance: near mode: how far a block of 8 x 8 pixels may be from that of the anchor, as PSNR in dB; more is
            stricter.
        cosine: near mode: least cosine between the two, their means taken off, in [-1, 1].
        refresh: near mode: frames after which a tile is computed anew, however near it is.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        max_bytes: int = MAX_BYTES,
        mode: Literal["exact", "near"] = "exact",
        tolerance: float = 36.0,
        cosine: float = 0.0,
        refresh: int = 30,
    ) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes: {max_bytes!r} is not positive; {MAX_BYTES} is usual")
        if mode not in ("exact", "near"):
            raise ValueError(f"mode: {mode!r} is not known; 'exact' and 'near' are")
        if not (math.isfinite(tolerance) and tolerance > 0):
            raise ValueError(f"tolerance: {tolerance!r} is no PSNR in dB; 36 is usual, more is stricter")
        if not -1 <= cosine <= 1:
            raise ValueError(f"cosine: {cosine!r} is not in [-1, 1]; 0 is usual, more is stricter")
        if refresh < 1:
            raise ValueError(f"refresh: {refresh!r} is no number of frames; 30 is usual")
        self.max_bytes, self.mode = max_bytes, mode
        self.tolerance, self.cosine, self.refresh = tolerance, cosine, refresh
        self._lock = threading.Lock()
        self.clear()

    def __len__(self) -> int:
        """Entries that are kept."""
        return len(self._kept)

    def clear(self) -> None:
        """Forget everything and start counting anew."""
        with self._lock:
            self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
            self._bytes = 0
            self._counts = dict.fromkeys(("frames", "whole_frames", "hits", "misses"), 0)
            self._maps: OrderedDict[Hashable, tuple[int, NDArray[np.bool_], NDArray[np.float64]]] = OrderedDict()

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
                "entries": len(self._kept),
                "bytes": self._bytes,
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
        with self._lock:
            if stream not in self._maps:
                return None
            frames, last, total = self._maps[stream]
            return total / frames if mean else last.astype(float)

    def get(self, key: Hashable) -> Any:
        """What is kept under a key, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Any, nbytes: int) -> None:
        """Keep a value of so many bytes, and drop what no longer fits."""
        nbytes += _ENTRY
        with self._lock:
            _, old = self._kept.pop(key, (None, 0))
            self._bytes -= old
            if nbytes <= self.max_bytes:
                self._kept[key] = value, nbytes
                self._bytes += nbytes
            while self._bytes > self.max_bytes:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._bytes -= dropped

    def count(self, stream: Hashable, reused: NDArray[np.bool_], whole: bool = False) -> None:
        """Note a frame: (rows, columns) of tiles that were reused, and whether it was computed as a whole."""
        with self._lock:
            hits = int(reused.sum())
            self._counts["frames"] += 1
            self._counts["whole_frames"] += whole
            self._counts["hits"] += hits
            self._counts["misses"] += reused.size - hits
            frames, _, total = self._maps.pop(stream, (0, reused, np.zeros(reused.shape)))
            if total.shape != reused.shape:
                frames, total = 0, np.zeros(reused.shape)
            self._maps[stream] = frames + 1, reused, total + reused
            while len(self._maps) > MAX_STREAMS:
                self._maps.popitem(last=False)


class ExactReuse:
    """A renderer that looks its tiles up first.

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
        rendered = self.cache.get(key)
        self.reused[part] = rendered is not None
        if rendered is None:
            rendered = self.render(crop, part)
            self.cache.put(key, compact(rendered), rendered.nbytes)
        return rendered

    def count(self, stream: Hashable) -> None:
        """Note the frame whose tiles were rendered."""
        self.cache.count(stream, as_grid(self.reused))


def as_grid(reused: dict[Tile, bool]) -> NDArray[np.bool_]:
    """(rows, columns) of what is said of the tiles of a plan, in its order."""
    rows = len({part.y for part in reused})
    return np.array(list(reused.values()), dtype=bool).reshape(rows, -1)


def geometry(part: Tile) -> Hashable:
    """Where the output pixels of a tile lie within its crop: all that a renderer may know of the place of a tile.

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


# ------------------------------------------------------------------------------------------ which model it is


def identity(model: nn.Module) -> bytes:
    """16 bytes that tell a model, its weights and its adapter from all others: equal models give equal outputs.

    Values are summed up anew at each call, a few milliseconds for a million: a counter of changes would miss those
    that are written through `.data` or by other libraries. Against mistakes, not against forgery.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.numel()}
    layout = tuple((name, tuple(tensor.shape), tensor.dtype, tensor.device) for name, tensor in tensors.items())
    settings = tuple((name, type(module), _settings(module)) for name, module in model.named_modules())
    whole = repr((layout, _checksum(tensors.values()), settings))
    return hashlib.blake2b(whole.encode(), digest_size=16).digest()


def _settings(module: nn.Module) -> tuple[object, ...]:
    plain = (bool, int, float, str, type(None))
    found: list[object] = []
    for name, value in vars(module).items():
        members = value if isinstance(value, tuple | list) else (value,)
        if name != "training" and all(isinstance(member, plain) for member in members):
            found.append((name, *members))
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return (*found, *map(id, hooks))


@torch.no_grad()
def _checksum(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Sums of the words of the tensors' bytes times random odd numbers, for each device."""
    devices: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        devices.setdefault(tensor.device, []).append(raw)
    return tuple(_weighted_sum(torch.cat(raws)) for raws in devices.values())


def _weighted_sum(raw: Tensor, width: int = 4096, at_once: int = 2**20) -> int:
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.int64, device=raw.device)
    within = torch.randint(-(2**62), 2**62, (width,), generator=generator).to(raw.device) | 1
    for piece in raw.split(at_once):
        padded = torch.nn.functional.pad(piece, (0, -len(piece) % (4 * width)))
        rows = (padded.view(torch.int32).view(-1, width).long() * within).sum(1)
        across = torch.randint(-(2**62), 2**62, (len(rows),), generator=generator).to(raw.device) | 1
        total += (rows * across).sum()
    return int(total)
