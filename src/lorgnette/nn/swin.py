"""Blocks of the Swin transformer, under the names that SwinIR's checkpoints use."""

from __future__ import annotations

from collections.abc import Hashable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.common.identity import identity
from lorgnette.nn.recompute import linear_dtype, recomputed
from lorgnette.nn.transformer import Mlp, check_heads, joined, normed
from lorgnette.nn.window_cache import WindowCache


class WindowAttention(nn.Module):
    """Attention inside windows, with a learned bias for each relative position.

    Args:
        dim: channels.
        window_size: side of a window.
        num_heads: a divisor of `dim`.
        recompute: as in `SwinTransformerBlock`.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, window_size: int, num_heads: int, recompute: bool = False) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads, self.recompute = num_heads, recompute
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_positions(window_size))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within each window.

        Args:
            windows: (B * windows, window_size ** 2, dim), the windows of an image one after the other.
            mask: (windows, window_size ** 2, window_size ** 2), added to the scores of each window of an image.

        Returns:
            As `windows`.
        """
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        qkv = self.qkv(windows)
        if mask is None:
            q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            return joined(self.proj, F.scaled_dot_product_attention(q, k, v, bias[None].to(q.dtype)), self.recompute)
        # Windows count as heads here: so one mask serves all images of the batch.
        count = mask.shape[0]
        split = qkv.unflatten(0, (-1, count)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = split.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        scores = (bias + mask[:, None]).flatten(0, 1)[None].to(q.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, scores).unflatten(1, (count, self.num_heads))
        return joined(self.proj, attended.flatten(0, 1), self.recompute)


class SwinTransformerBlock(nn.Module):
    """A block of Swin (Liu et al., arXiv 2103.14030) as SwinIR has it (arXiv 2108.10257): (B, H, W, dim) -> the same.

    Args:
        dim: channels.
        num_heads: a divisor of `dim`.
        window_size: side of a window; H and W are multiples of it.
        shift_size: by how much the windows are shifted, in [0, window_size).
        mlp_ratio: width inside the MLP, in multiples of `dim`.
        input_resolution: (H, W) of training images, whose mask upstream's checkpoints hold as `attn_mask`; the masks
            of other sizes are made when they come. None: no such buffer.
        recompute: make outputs of LayerNorm and GELU again in the backward pass instead of keeping them.
        window_cache: keeps the windows of keyed frames, so that those which did not change are not computed again.

    Raises:
        ValueError: a setting is out of range.
    """

    attn_mask: Tensor | None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 8,
        shift_size: int = 0,
        mlp_ratio: float = 2.0,
        input_resolution: tuple[int, int] | None = None,
        recompute: bool = False,
        window_cache: WindowCache | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= shift_size < window_size:
            raise ValueError(f"shift_size: {shift_size} is not in [0, {window_size}), below the window_size")
        self.window_size, self.shift_size, self.recompute = window_size, shift_size, recompute
        self.input_resolution, self.window_cache = input_resolution, window_cache
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window_size, num_heads, recompute)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(mlp_ratio * dim), recompute)
        mask = shift_mask(input_resolution, window_size, shift_size) if shift_size and input_resolution else None
        self.register_buffer("attn_mask", mask)

    def forward(self, x: Tensor, cache_key: Hashable = None) -> Tensor:
        """Attend and transform.

        Args:
            x: (B, H, W, dim).
            cache_key: what the frames belong to, such as the name of a clip. None, and in training or wherever
                gradients are recorded: without the cache.
        """
        _, h, w, _ = x.shape
        if h % self.window_size or w % self.window_size:
            raise ValueError(f"x: {h} x {w} is not a multiple of the window_size {self.window_size}; pad it first")
        if self.window_cache is not None and cache_key is not None and not (self.training or torch.is_grad_enabled()):
            return self._cached(x, cache_key, self.window_cache)
        shift = self.shift_size

        dtype = linear_dtype(x) if self.recompute else None

        def windows() -> Tensor:
            y = self.norm1(x).to(dtype=dtype)
            return partition(y.roll((-shift, -shift), (1, 2)) if shift else y, self.window_size)

        y = windows()
        with recomputed(y, windows, self.recompute):
            y = self.attn(y, self._mask((h, w), x.device) if shift else None)
        y = unpartition(y, self.window_size, (h, w))
        attended = x + (y.roll((shift, shift), (1, 2)) if shift else y)  # `x` itself is read again later
        return attended + normed(self.norm2, self.mlp, attended, self.recompute)

    def _cached(self, x: Tensor, cache_key: Hashable, cache: WindowCache) -> Tensor:
        """As `forward`, window by window: all that the block does stays within one."""
        b, h, w, _ = x.shape
        shift = self.shift_size
        mask = self._mask((h, w), x.device) if shift else None

        def compute(windows: Tensor, numbers: Tensor) -> Tensor:
            own = None if mask is None else mask[numbers % len(mask)]
            attended = windows + self.attn(self.norm1(windows), own)
            return attended + self.mlp(self.norm2(attended))

        precision = linear_dtype(x)
        key = (id(self), identity(self), cache_key, b, h, w, precision)
        windows = cache.through(
            partition(x.roll((-shift, -shift), (1, 2)) if shift else x, self.window_size), key, compute
        )
        y = unpartition(windows, self.window_size, (h, w))
        return y.roll((shift, shift), (1, 2)) if shift else y

    def _mask(self, size: tuple[int, int], device: torch.device) -> Tensor:
        if self.attn_mask is not None and not torch.compiler.is_exporting() and size == self.input_resolution:
            return self.attn_mask
        return shift_mask(size, self.window_size, self.shift_size, device)


def partition(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, window ** 2, C)."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c).transpose(2, 3)
    return x.reshape(-1, window * window, c)


def unpartition(windows: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """(B * windows, window ** 2, C) -> (B, H, W, C)."""
    h, w = size
    x = windows.view(-1, h // window, w // window, window, window, windows.shape[-1]).transpose(2, 3)
    return x.reshape(-1, h, w, windows.shape[-1])


def shift_mask(size: tuple[int, int], window: int, shift: int, device: torch.device | None = None) -> Tensor:
    """What keeps parts apart that shifting brought into one window: (windows, window ** 2, window ** 2), 0 or -100."""
    places = [torch.arange(n, device=device) for n in size]
    rows, columns = ((at >= n - window).long() + (at >= n - shift).long() for at, n in zip(places, size, strict=True))
    part = partition((3 * rows[:, None] + columns)[None, ..., None], window).squeeze(-1)
    return (part[:, None, :] != part[:, :, None]).float() * -100.0


def _relative_positions(window: int) -> Tensor:
    """(window ** 2, window ** 2) int64: which row of the bias table a pair of positions takes."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return (y[:, None] - y[None] + window - 1) * (2 * window - 1) + x[:, None] - x[None] + window - 1
