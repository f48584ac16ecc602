"""Feature maps that are kept, found again by likeness, and blended in: the cache of `low_rank_map`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_BYTES = 256 * 2**20


class FeatureCache:
    """The last feature maps of each stream of frames, in a bounded room.

    A map is looked up among those of the same key, place in the batch, shape, dtype and device, so that neither images
    nor batch items are ever mixed. It is compared by its mean over 8 x 8 cells, and the most alike is blended in if
    its cosine reaches the threshold. Then the map itself is kept; the least recently used goes when there are
    more than `size` for an item, or more than `max_bytes` in all.

    The cache reads what was computed, so that it never saves work: it makes frames of one clip steadier.

    Args:
        size: maps kept for each key and batch item.
        threshold: cosine, in [-1, 1].
        in_training: whether it is used in training.
        max_bytes: of all maps together.

    Attributes:
        hits: lookups that found one alike.
        misses: lookups that did not.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self, size: int = 5, threshold: float = 0.95, in_training: bool = False, max_bytes: int = MAX_BYTES
    ) -> None:
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(
                f"cache_size: {size!r} is not a whole number of at least 1; use_lora_cache=False is without"
            )
        if not -1 <= threshold <= 1:
            raise ValueError(f"similarity_threshold: {threshold!r} is not a cosine, in [-1, 1]; 0.95 is usual")
        if max_bytes < 1:
            raise ValueError(f"max_bytes: {max_bytes!r} is not positive; {MAX_BYTES} is usual")
        self.size, self.threshold, self.in_training, self.max_bytes = size, threshold, in_training, max_bytes
        self.hits = self.misses = self.bytes = 0
        self._kept: OrderedDict[tuple[Hashable, ...], OrderedDict[int, tuple[Tensor, Tensor]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Maps that are kept."""
        return sum(len(maps) for maps in self._kept.values())

    def __deepcopy__(self, _memo: dict[int, Any]) -> FeatureCache:
        return FeatureCache(self.size, self.threshold, self.in_training, self.max_bytes)  # a copy starts empty

    def __getstate__(self) -> dict[str, Any]:
        return vars(self.__deepcopy__({}))

    @property
    def statistics(self) -> dict[str, int]:
        """Entries, bytes, hits and misses."""
        return {"entries": len(self), "bytes": self.bytes, "hits": self.hits, "misses": self.misses}

    def clear(self) -> None:
        """Forget all maps and start counting anew."""
        self._kept.clear()
        self.hits = self.misses = self.bytes = 0

    def blend(self, x: Tensor, key: Hashable, weight: Tensor) -> Tensor:
        """`x + weight (like - x)` for each item that has its like in the cache; then keep `x`.

        Args:
            x: (B, H, W, C).
            key: the stream that these frames belong to; None, and for an item that has no like, leaves `x` as it is.
            weight: (1,), the share of the kept map; gradients reach it.
        """
        if key is None:
            return x
        signatures = _signature(x.detach())
        out = []
        for item, (map_HWC, signature) in enumerate(zip(x, signatures, strict=True)):
            place = (key, item, tuple(map_HWC.shape), x.dtype, x.device)
            like = self._find(place, signature)
            out.append(map_HWC if like is None else map_HWC + weight.to(x.dtype) * (like - map_HWC))
            self._keep(place, map_HWC.detach().clone(), signature)
        return torch.stack(out)

    def _find(self, place: tuple[Hashable, ...], signature: Tensor) -> Tensor | None:
        maps = self._kept.get(place)
        if maps:
            numbers = list(maps)
            alike = torch.stack([maps[number][1] for number in numbers]) @ signature
            best = int(alike.argmax())
            if alike[best] >= self.threshold:
                self.hits += 1
                self._kept.move_to_end(place)
                maps.move_to_end(numbers[best])
                return maps[numbers[best]][0]
        self.misses += 1
        return None

    def _keep(self, place: tuple[Hashable, ...], map_HWC: Tensor, signature: Tensor) -> None:
        maps = self._kept.setdefault(place, OrderedDict())
        self._kept.move_to_end(place)
        self._count += 1
        maps[self._count] = map_HWC, signature
        self.bytes += map_HWC.nbytes + signature.nbytes
        while len(maps) > self.size:
            self._drop(place)
        while self.bytes > self.max_bytes and self._kept:
            self._drop(next(iter(self._kept)))

    def _drop(self, place: tuple[Hashable, ...]) -> None:
        _, tensors = self._kept[place].popitem(last=False)
        self.bytes -= sum(tensor.nbytes for tensor in tensors)
        if not self._kept[place]:
            del self._kept[place]


def _signature(x: Tensor) -> Tensor:
    """Means over 8 x 8 cells, brought to length one: (B, H, W, C) -> (B, ceil(H / 8) ceil(W / 8) C) float32."""
    cells = F.avg_pool2d(x.permute(0, 3, 1, 2).float(), 8, ceil_mode=True, count_include_pad=False)
    return F.normalize(cells.flatten(1), dim=1)
