"""SS2D: a state-space model that reads an image in four directions (VMamba, arXiv 2401.10166, as MambaIR has it)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora import effective_parameter
from lorgnette.nn.feature_cache import MAX_BYTES, FeatureCache
from lorgnette.nn.low_rank_map import LowRankMap
from lorgnette.nn.selective_scan import DIRECTIONS, selective_scan

K = len(DIRECTIONS)


class SS2D(nn.Module):
    """Gate and selective scan over the pixels of an image: (B, H, W, d_model) -> (B, H, W, d_model).

    Parameters bear upstream's names and shapes (csguoh/MambaIR, `mambair_arch.py`). Those that it reads raw are read
    through their adapters: `target_parameters=["x_proj_weight", "dt_projs_weight"]` gives each direction its own.

    Args:
        d_model: channels.
        d_state: size N of the state of each channel.
        d_conv: side of the depthwise convolution.
        expand: inner channels are `int(expand * d_model)`.
        dt_rank: rank of the step sizes; 'auto' is `ceil(d_model / 16)`.
        dt_min: least step size at the start.
        dt_max: largest step size at the start.
        dt_scale: of the deviation of `dt_projs_weight` at the start.
        dt_init_floor: no step size starts below it.
        dropout: on the output, in [0, 1).
        conv_bias: whether the convolution has a bias.
        bias: whether the two projections have one.
        use_lora_cache: put a residual low-rank map, and a cache of its outputs, behind the activation.
        lora_rank: rank of that map.
        lora_alpha: its strength; it is scaled by `lora_alpha / lora_rank`.
        lora_dropout: on its input, in [0, 1).
        cache_size: feature maps that the cache keeps, of all keys together.
        similarity_threshold: cosine, in [-1, 1], from which a kept feature map is blended in.
        cache_in_training: use the cache in training as well, on keyed frames: so its gate can learn.
        max_bytes: of all these maps.

    Raises:
        ValueError: a setting of the map or the cache is out of range.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 3,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        dropout: float = 0.0,
        conv_bias: bool = True,
        bias: bool = False,
        use_lora_cache: bool = False,
        lora_rank: int = 16,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        cache_size: int = 5,
        similarity_threshold: float = 0.95,
        cache_in_training: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state = d_model, d_state
        self.d_inner = d = int(expand * d_model)
        self.dt_rank = rank = math.ceil(d_model / 16) if isinstance(dt_rank, str) else dt_rank
        self.use_lora_cache = use_lora_cache
        self.in_proj = nn.Linear(d_model, 2 * d, bias=bias)
        self.conv2d = nn.Conv2d(d, d, d_conv, padding=(d_conv - 1) // 2, groups=d, bias=conv_bias)
        bound = d**-0.5
        self.x_proj_weight = nn.Parameter(torch.empty(K, rank + 2 * d_state, d).uniform_(-bound, bound))
        bound = rank**-0.5 * dt_scale
        self.dt_projs_weight = nn.Parameter(torch.empty(K, d, rank).uniform_(-bound, bound))
        self.dt_projs_bias = nn.Parameter(_first_steps((K, d), dt_min, dt_max, dt_init_floor))
        self.A_logs = nn.Parameter(torch.arange(1, d_state + 1, dtype=torch.float32).log().repeat(K * d, 1))
        self.Ds = nn.Parameter(torch.ones(K * d))
        self.out_norm = nn.LayerNorm(d)
        self.out_proj = nn.Linear(d, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.lora_cache = None
        if use_lora_cache:
            cache = FeatureCache(cache_size, similarity_threshold, cache_in_training, max_bytes)
            self.lora_cache = LowRankMap(d, lora_rank, lora_alpha, lora_dropout, cache)

    def forward(self, x: Tensor, cache_key: object = None) -> Tensor:
        """Scan an image.

        Args:
            x: (B, H, W, d_model).
            cache_key: what the frame belongs to, such as the name of a clip. None: no cache.
        """
        b, h, w, _ = x.shape
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(self.conv2d(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        if self.lora_cache is not None:
            x = self.lora_cache(x, cache_key)
        y = self.scan(x.reshape(b, h * w, -1), (h, w)).view(b, h, w, -1)
        y = self.out_proj(self.out_norm(y) * F.silu(gate))
        return y if self.dropout is None else self.dropout(y)

    def scan(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The sum of the four directions: (B, L, d_inner) -> the same, L = H W pixels row by row.

        Step sizes and the matrices B and C depend on each pixel alone: one product makes them for all directions.
        """
        projections = F.linear(x, effective_parameter(self, "x_proj_weight").flatten(0, 1)).unflatten(-1, (K, -1))
        low_BLKr, B_BLKN, C_BLKN = projections.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt_BLKd = torch.einsum("blkr,kdr->blkd", low_BLKr, effective_parameter(self, "dt_projs_weight").to(x.dtype))
        A = -torch.exp(self.A_logs.float()).view(K, -1, self.d_state)
        return selective_scan(x, dt_BLKd, A, B_BLKN, C_BLKN, self.Ds.view(K, -1), self.dt_projs_bias, size)


def _first_steps(shape: tuple[int, ...], least: float, largest: float, floor: float) -> Tensor:
    """Biases whose softplus is spread evenly in logarithm between two step sizes (Mamba's initialisation)."""
    steps = torch.exp(torch.rand(shape) * (math.log(largest) - math.log(least)) + math.log(least)).clamp(min=floor)
    return steps + torch.log(-torch.expm1(-steps))
