"""Feature maps that are kept, found again by likeness, and blended in: the cache of `low_rank_map`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.common.store import BoundedStore

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
        self.hits = self.misses = self._count = 0
        self.store = BoundedStore(max_bytes)

    def __len__(self) -> int:
        """Maps that are kept."""
        return len(self.store)

    def __deepcopy__(self, _: dict[int, Any]) -> FeatureCache:
        return FeatureCache(self.size, self.threshold, self.in_training, self.max_bytes)  # a copy starts empty

    def __getstate__(self) -> dict[str, Any]:
        return vars(self.__deepcopy__({}))

    @property
    def statistics(self) -> dict[str, int]:
        """Entries, bytes, hits and misses."""
        return {"entries": len(self), "bytes": self.store.bytes, "hits": self.hits, "misses": self.misses}

    def clear(self) -> None:
        """Forget all maps and start counting anew."""
        self.store.clear()
        self.hits = self.misses = 0

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

    def _of(self, place: tuple[Hashable, ...]) -> list[tuple[Hashable, tuple[Tensor, Tensor]]]:
        return [(key, maps) for key, maps in self.store.items() if key[0] == place]

    def _find(self, place: tuple[Hashable, ...], signature: Tensor) -> Tensor | None:
        if kept := self._of(place):
            alike = torch.stack([own for _, (_, own) in kept]) @ signature
            best = int(alike.argmax())
            if alike[best] >= self.threshold:
                self.hits += 1
                return self.store.get(kept[best][0])[0]
        self.misses += 1
        return None

    def _keep(self, place: tuple[Hashable, ...], map_HWC: Tensor, signature: Tensor) -> None:
        self._count += 1
        self.store.put((place, self._count), (map_HWC, signature), map_HWC.nbytes + signature.nbytes)
        for key, _ in self._of(place)[: -self.size]:
            self.store.drop(key)


def _signature(x: Tensor) -> Tensor:
    """Means over 8 x 8 cells, brought to length one: (B, H, W, C) -> (B, ceil(H / 8) ceil(W / 8) C) float32."""
    cells = F.avg_pool2d(x.permute(0, 3, 1, 2).float(), 8, ceil_mode=True, count_include_pad=False)
    return F.normalize(cells.flatten(1), dim=1)
