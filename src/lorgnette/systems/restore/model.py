"""MambaIR (Guo et al., arXiv 2402.15648): the network, under the names of upstream's checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lorgnette.nn.feature_cache import MAX_BYTES, Recall
from lorgnette.nn.low_rank_map import LowRankMap
from lorgnette.nn.ss2d import SS2D

RGB_MEAN = (0.4488, 0.4371, 0.4040)
UPSAMPLERS = ("", "pixelshuffle", "pixelshuffledirect")
CONNECTIONS = ("1conv", "3conv")
IGNORED = ("window_size", "patch_size", "num_heads")  # upstream's option files carry them; its network reads none


class MambaIR(nn.Module):
    """Restores images: (B, in_chans, H, W) in [0, 1] -> (B, in_chans, upscale H, upscale W), not clamped.

    Settings have upstream's names and defaults (csguoh/MambaIR).

    Args:
        img_size: side of training images; kept for option files, it changes nothing.
        in_chans: 3 for colour, 1 for grey; others have no mean taken off.
        embed_dim: channels, at least 30.
        depths: blocks of each group.
        drop_rate: dropout behind the first convolution.
        d_state: size of the scan's state.
        mlp_ratio: inner channels of SS2D, in multiples of `embed_dim` (upstream's name for `expand`).
        drop_path_rate: of the last block; it rises from 0 (stochastic depth, in training).
        patch_norm: a LayerNorm behind the first convolution.
        use_checkpoint: keep only the inputs of blocks for the backward pass, and compute them again.
        upscale: factor of enlargement; 1 with `upsampler` ''.
        img_range: largest pixel value the inner layers see.
        upsampler: '' (denoising), 'pixelshuffle', or 'pixelshuffledirect' (light networks, with light attention).
        resi_connection: '1conv' or '3conv' at the end of a group.
        use_lora_cache: the residual low-rank map and the feature cache inside every SS2D.
        lora_rank: see `SS2D`; so are `lora_alpha`, `lora_dropout`, `cache_size`, `similarity_threshold` and
            `cache_in_training`.
        max_bytes: of all feature maps that the network keeps; every block has its share.
        ignored: settings of upstream's option files that its network does not read either.

    Raises:
        ValueError: a setting is unknown or out of range.
    """

    mean: Tensor

    def __init__(
        self,
        img_size: int = 64,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        drop_rate: float = 0.0,
        d_state: int = 16,
        mlp_ratio: float = 2.0,
        drop_path_rate: float = 0.1,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int = 2,
        img_range: float = 1.0,
        upsampler: str = "",
        resi_connection: str = "1conv",
        use_lora_cache: bool = False,
        lora_rank: int = 16,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        cache_size: int = 5,
        similarity_threshold: float = 0.95,
        cache_in_training: bool = False,
        max_bytes: int = MAX_BYTES,
        **ignored: Any,
    ) -> None:
        super().__init__()
        _check(embed_dim, upsampler, resi_connection, upscale, ignored)
        self.in_chans, self.img_size, self.img_range = in_chans, img_size, img_range
        self.upscale, self.upsampler = upscale, upsampler
        mean = torch.tensor(RGB_MEAN) if in_chans == 3 else torch.zeros(1)
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)
        cache = {
            "use_lora_cache": use_lora_cache,
            "lora_rank": lora_rank,
            "lora_alpha": lora_alpha,
            "lora_dropout": lora_dropout,
            "cache_size": cache_size,
            "similarity_threshold": similarity_threshold,
            "cache_in_training": cache_in_training,
            "max_bytes": max_bytes // max(1, sum(depths)),
        }
        light = upsampler == "pixelshuffledirect"
        drops = (drop_path_rate * i / max(1, sum(depths) - 1) for i in range(sum(depths)))
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)
        self.patch_embed = _PatchEmbed(embed_dim, patch_norm)
        self.pos_drop = nn.Dropout(drop_rate)
        self.layers = nn.ModuleList(
            ResidualGroup(
                [VSSBlock(embed_dim, next(drops), d_state, mlp_ratio, light, cache) for _ in range(depth)],
                embed_dim,
                resi_connection,
                use_checkpoint,
            )
            for depth in depths
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = _connection(embed_dim, resi_connection)
        self._add_head(embed_dim)
        self.apply(_initialise)

    def forward(self, x: Tensor, cache_key: object = None) -> Tensor:
        """Restore images.

        Args:
            x: (B, in_chans, H, W) in [0, 1], of any size.
            cache_key: what the frame belongs to, such as the name of a clip. None: no feature cache.

        Raises:
            ValueError: another number of channels.
        """
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            kind = "colour" if self.in_chans == 3 else "grey"
            raise ValueError(
                f"x: {tuple(x.shape)} is no batch for this {kind} network; (B, {self.in_chans}, H, W) is needed"
            )
        mean = self.mean.to(x.dtype)
        x = (x - mean) * self.img_range
        first = self.conv_first(x.contiguous(memory_format=torch.channels_last))
        if not self.upsampler:
            out = x + self.conv_last(self.conv_after_body(self._features(first, cache_key)) + first)
        else:
            deep = self.conv_after_body(self._features(first, cache_key)) + first
            if self.upsampler == "pixelshuffledirect":
                out = self.upsample(deep)
            else:
                out = self.conv_last(self.upsample(self.conv_before_upsample(deep)))
        return out / self.img_range + mean

    def clear_cache(self) -> None:
        """Empty the feature caches, for instance between clips."""
        for layer in self._maps():
            layer.clear_cache()

    def shares(self) -> Tensor:
        """How much of a kept feature map each block blends in, in (-1, 1); nothing without `use_lora_cache`."""
        gates = [torch.tanh(layer.gate) for layer in self._maps() if layer.lora_enabled]
        return torch.cat(gates) if gates else self.mean.new_zeros(0)

    def hold(self, pieces: int) -> bool:
        """Have the feature caches keep at least so many maps, the pieces of one frame; whether they have kept them."""
        caches = [layer.cache for layer in self._maps()]
        kept = all(len(cache) >= pieces for cache in caches)
        for cache in caches:
            cache.size = max(cache.size, pieces)
        return kept

    def _maps(self) -> list[LowRankMap]:
        return [module for module in self.modules() if isinstance(module, LowRankMap)]

    def _features(self, first: Tensor, cache_key: object) -> Tensor:
        x_BHWC = self.pos_drop(self.patch_embed(first.permute(0, 2, 3, 1)))
        for layer in self.layers:
            x_BHWC = layer(x_BHWC, cache_key)
        return self.norm(x_BHWC).permute(0, 3, 1, 2)

    def _add_head(self, width: int) -> None:
        if self.upsampler == "pixelshuffle":
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(width, 64, 3, padding=1), nn.LeakyReLU())
            self.upsample = nn.Sequential(*_shuffles(self.upscale, 64))
            self.conv_last = nn.Conv2d(64, self.in_chans, 3, padding=1)
        elif self.upsampler == "pixelshuffledirect":
            wide = nn.Conv2d(width, self.upscale**2 * self.in_chans, 3, padding=1)
            self.upsample = nn.Sequential(wide, nn.PixelShuffle(self.upscale))
        else:
            self.conv_last = nn.Conv2d(width, self.in_chans, 3, padding=1)


class ResidualGroup(nn.Module):
    """Blocks, a convolution, and the way around them: (B, H, W, C) -> the same."""

    def __init__(self, blocks: Sequence[nn.Module], width: int, connection: str, use_checkpoint: bool) -> None:
        super().__init__()
        self.residual_group = nn.Module()
        self.residual_group.blocks = nn.ModuleList(blocks)
        self.conv = _connection(width, connection)
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor, cache_key: object = None) -> Tensor:
        y = x
        for block in self.residual_group.blocks:  # type: ignore[union-attr]
            if self.use_checkpoint and torch.is_grad_enabled():
                key = None if cache_key is None else Recall(cache_key)  # the block runs again in the backward pass
                y = checkpoint(block, y, key, use_reentrant=False)
            else:
                y = block(y, cache_key)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[union-attr]


class VSSBlock(nn.Module):
    """Vision state space block: SS2D, then channel attention, each with a scaled skip: (B, H, W, C) -> the same."""

    def __init__(
        self, width: int, drop_path: float, d_state: int, expand: float, light: bool, cache: dict[str, Any]
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.self_attention = SS2D(width, d_state, expand=expand, **cache)
        self.drop_path = drop_path
        self.skip_scale = nn.Parameter(torch.ones(width))
        self.conv_blk = CAB(width, light)
        self.ln_2 = nn.LayerNorm(width)
        self.skip_scale2 = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, cache_key: object = None) -> Tensor:
        scanned = self.self_attention(self.ln_1(x), cache_key)
        x = x * self.skip_scale + _drop_path(scanned, self.drop_path if self.training else 0.0)
        return x * self.skip_scale2 + self.conv_blk(self.ln_2(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class CAB(nn.Module):
    """Convolutions with channel attention (RCAN, arXiv 1807.02758): (B, C, H, W) -> the same."""

    def __init__(self, width: int, light: bool) -> None:
        super().__init__()
        if light:
            half = width // 2
            self.cab = nn.Sequential(
                nn.Conv2d(width, half, 1),
                nn.Conv2d(half, half, 3, padding=1, groups=half),
                nn.GELU(),
                nn.Conv2d(half, width, 1),
                nn.Conv2d(width, width, 3, padding=2, groups=width, dilation=2),
                ChannelAttention(width),
            )
        else:
            third = width // 3
            self.cab = nn.Sequential(
                nn.Conv2d(width, third, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(third, width, 3, padding=1),
                ChannelAttention(width),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.cab(x)


class ChannelAttention(nn.Module):
    """Channels weighted by what the whole image holds of them."""

    def __init__(self, width: int, squeeze: int = 30) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width // squeeze, 1),
            nn.ReLU(),
            nn.Conv2d(width // squeeze, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


class _PatchEmbed(nn.Module):
    """A LayerNorm over channels, or nothing."""

    def __init__(self, width: int, normed: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if normed else None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.norm is None else self.norm(x)


def _connection(width: int, kind: str) -> nn.Module:
    if kind == "1conv":
        return nn.Conv2d(width, width, 3, padding=1)
    quarter = width // 4
    return nn.Sequential(
        nn.Conv2d(width, quarter, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(quarter, quarter, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(quarter, width, 3, padding=1),
    )


def _shuffles(scale: int, width: int) -> list[nn.Module]:
    if scale == 3:
        return [nn.Conv2d(width, 9 * width, 3, padding=1), nn.PixelShuffle(3)]
    return [
        layer
        for _ in range(scale.bit_length() - 1)
        for layer in (nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
    ]


def _drop_path(x: Tensor, rate: float) -> Tensor:
    """Whole samples set to zero at this rate, the others scaled up (stochastic depth, arXiv 1603.09382)."""
    if not rate:
        return x
    kept = torch.rand(x.shape[0], *(1 for _ in x.shape[1:]), device=x.device) >= rate
    return x * kept.to(x.dtype) / (1 - rate)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(embed_dim: int, upsampler: str, connection: str, upscale: int, ignored: dict[str, Any]) -> None:
    if embed_dim < 30:
        raise ValueError(f"embed_dim: {embed_dim} leaves no channel to the attention; at least 30 works")
    if upsampler not in UPSAMPLERS:
        raise ValueError(f"upsampler: {upsampler!r} is not known; {', '.join(map(repr, UPSAMPLERS))} work")
    if connection not in CONNECTIONS:
        raise ValueError(f"resi_connection: {connection!r} is not known; '1conv' and '3conv' work")
    power_of_two = upscale >= 1 and math.log2(upscale).is_integer()
    if upsampler == "pixelshuffle" and not (power_of_two or upscale == 3):
        raise ValueError(f"upscale: {upscale} cannot be shuffled; 3 and powers of 2 work with 'pixelshuffle'")
    for name in ignored:
        if name not in IGNORED:
            raise ValueError(f"{name}: is no setting of MambaIR")
