"""A residual low-rank map of features, with a cache of what it gave: an option of `ss2d`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora import AdapterPart
from lorgnette.nn.feature_cache import FeatureCache


class LowRankMap(AdapterPart):
    """`x + s B A drop(x)` over the last axis, then a blend with the like of it in a cache.

    It stands behind a nonlinearity and so cannot be folded into a weight: merging keeps it. With B = 0 and the gate
    of the cache at 0, as at the start, it gives back `x` bit for bit.

    Args:
        width: channels.
        rank: of the map.
        alpha: strength; the map is scaled by `alpha / rank`.
        dropout: on its input, in [0, 1).
        cache: of its outputs.

    Attributes:
        map_A: (rank, width).
        map_B: (width, rank), zero at the start.
        gate: (1,), how much of a kept feature map is blended in: its tanh; zero at the start.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(self, width: int, rank: int, alpha: float, dropout: float, cache: FeatureCache) -> None:
        super().__init__()
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"lora_rank: {rank!r} is not a whole number of at least 1; 16 is usual")
        if not 0 < alpha < math.inf:
            raise ValueError(f"lora_alpha: {alpha!r} is not a positive number; lora_rank is usual")
        if not 0 <= dropout < 1:
            raise ValueError(f"lora_dropout: {dropout!r} is not in [0, 1); 0.05 is usual")
        self.scaling, self.dropout, self.cache = alpha / rank, dropout, cache
        self.map_A = nn.Parameter(torch.empty(rank, width))
        self.map_B = nn.Parameter(torch.zeros(width, rank))
        self.gate = nn.Parameter(torch.zeros(1))
        self.reset()
        self.register_load_state_dict_post_hook(lambda module, _: module.clear_cache())

    def forward(self, x: Tensor, key: object = None) -> Tensor:
        """(B, H, W, width) -> the same. `key` as in `FeatureCache.blend`."""
        if not self.lora_enabled:
            return x
        low = F.linear(F.dropout(x, self.dropout, self.training), self.map_A)
        x = x + F.linear(low, self.map_B) * self.scaling
        learning = self.training and torch.is_grad_enabled()
        if key is None or (learning and not self.cache.in_training):
            return x
        return self.cache.blend(x, key, torch.tanh(self.gate))

    def reset(self) -> None:
        """See `AdapterPart`; the cache is emptied."""
        nn.init.kaiming_uniform_(self.map_A, a=math.sqrt(5))
        nn.init.zeros_(self.map_B)
        nn.init.zeros_(self.gate)
        self.clear_cache()

    def clear_cache(self) -> None:
        """Forget all kept feature maps, as after every change of the weights."""
        self.cache.clear()
