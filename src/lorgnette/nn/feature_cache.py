"""Feature maps that are kept, found again by likeness, and blended in: the cache of `low_rank_map`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.common.store import BoundedStore

MAX_BYTES = 2 * 2**30


class Recall:
    """A key for a step that may run twice on one frame, as activation checkpointing does: the second time it meets the
    maps that the first one met, and keeps nothing.

    Args:
        key: as of `FeatureCache.blend`.
    """

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.found: list[Tensor | None] | None = None


class FeatureCache:
    """The last feature maps of streams of frames, in a bounded room.

    A map is looked up among those of the same key, place in the batch, shape, dtype and device, so that neither images
    nor batch items are ever mixed. It is compared by its mean over 8 x 8 cells, and the most alike is blended in if
    its cosine reaches the threshold. Then the map itself is kept; the oldest goes when more than `size` batches are
    kept, or more than `max_bytes`.

    The cache reads what was computed, so that it never saves work: it makes frames of one clip steadier.

    Args:
        size: feature maps kept, each of a whole batch, whatever their keys.
        threshold: cosine, in [-1, 1].
        in_training: whether it is used in training.
        max_bytes: of all maps together. What is larger by itself is not kept.

    Attributes:
        hits: lookups that found one alike, one for each batch item.
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
        if not max_bytes >= 1:
            raise ValueError(f"max_bytes: {max_bytes!r} is not positive; {MAX_BYTES} is usual")
        self.size, self.threshold, self.in_training, self.max_bytes = size, threshold, in_training, max_bytes
        self.hits = self.misses = self._count = 0
        self.store = BoundedStore(max_bytes)

    def __len__(self) -> int:
        """Feature maps that are kept."""
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
        recall = key if isinstance(key, Recall) else Recall(key)
        if recall.found is None:
            place, signatures = (recall.key, tuple(x.shape), x.dtype, x.device), _signature(x.detach())
            recall.found = self._find(place, signatures)
            self._keep(place, x.detach().clone(), signatures)
        weight = weight.to(x.dtype)
        items = zip(x, recall.found, strict=True)
        return torch.stack([own if like is None else own + weight * (like - own) for own, like in items])

    def _find(self, place: tuple[Hashable, ...], signatures: Tensor) -> list[Tensor | None]:
        """For each item the map that is most like it, of those kept for the place; None where none is like it."""
        kept = [value for (own, _), value in self.store.items() if own == place]
        found: list[Tensor | None] = [None] * len(signatures)
        if kept:
            alike = torch.stack([(own * signatures).sum(1) for _, own in kept])
            for item, (cosine, best) in enumerate(zip(*alike.max(0), strict=True)):
                found[item] = kept[int(best)][0][item] if cosine >= self.threshold else None
        self.hits += sum(like is not None for like in found)
        self.misses += sum(like is None for like in found)
        return found

    def _keep(self, place: tuple[Hashable, ...], maps: Tensor, signatures: Tensor) -> None:
        self._count += 1
        self.store.put((place, self._count), (maps, signatures), maps.nbytes + signatures.nbytes)
        for oldest, _ in self.store.items()[: -self.size]:
            self.store.drop(oldest)


def _signature(x: Tensor) -> Tensor:
    """Means over 8 x 8 cells, brought to length one: (B, H, W, C) -> (B, ceil(H / 8) ceil(W / 8) C) float32."""
    cells = F.avg_pool2d(x.permute(0, 3, 1, 2).float(), 8, ceil_mode=True, count_include_pad=False)
    return F.normalize(cells.flatten(1), dim=1)
