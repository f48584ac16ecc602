"""Transformer blocks over tokens, under the names that ViT's checkpoints use. Public; no room uses them so far.

`swin` takes its MLP and two helpers from here.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.nn.recompute import linear_dtype, recomputed


class Mlp(nn.Module):
    """Two linear layers with a GELU between: (..., width) -> (..., width).

    Args:
        width: of input and output.
        hidden: between the layers.
        recompute: make the GELU's output again in the backward pass instead of keeping it.
    """

    def __init__(self, width: int, hidden: int, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        active = F.gelu(hidden)
        with recomputed(active, lambda: F.gelu(hidden), self.recompute):
            return self.fc2(active)


class SelfAttention(nn.Module):
    """Multi-head attention of tokens to each other: (B, T, width) -> (B, T, width).

    Args:
        width: of a token.
        heads: a divisor of `width`.
        recompute: make the heads' outputs side by side again in the backward pass instead of keeping both layouts.

    Raises:
        ValueError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int, recompute: bool = False) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads, self.recompute = heads, recompute
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended_BHTD = F.scaled_dot_product_attention(q, k, v)
        return joined(self.proj, attended_BHTD, self.recompute)


class TransformerBlock(nn.Module):
    """A block of ViT (Dosovitskiy et al., arXiv 2010.11929), norm first: (B, T, width) -> (B, T, width).

    Args:
        width: of a token.
        heads: a divisor of `width`.
        mlp_ratio: width inside the MLP, in multiples of `width`.
        recompute: make outputs of LayerNorm and GELU again in the backward pass instead of keeping them.

    Raises:
        ValueError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads, recompute)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(mlp_ratio * width), recompute)

    def forward(self, x: Tensor) -> Tensor:
        x = x + normed(self.norm1, self.attn, x, self.recompute)
        return x + normed(self.norm2, self.mlp, x, self.recompute)


def normed(norm: nn.Module, layer: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """`layer(norm(x))`, where the norm's output is not kept if `recompute`."""
    dtype = linear_dtype(x) if recompute else None

    def norm_of_x() -> Tensor:
        return norm(x).to(dtype=dtype)

    y = norm_of_x()
    with recomputed(y, norm_of_x, recompute):
        return layer(y)


def joined(proj: nn.Module, attended_BHTD: Tensor, recompute: bool) -> Tensor:
    """`proj` of the heads' outputs side by side: (B, H, T, D) -> (B, T, H D)."""

    def side_by_side() -> Tensor:
        return attended_BHTD.transpose(1, 2).flatten(2)

    y = side_by_side()
    with recomputed(y, side_by_side, recompute):
        return proj(y)


def check_heads(width: int, heads: int) -> None:
    """A one-line ValueError unless `heads` divides `width`."""
    if heads < 1 or width % heads:
        raise ValueError(f"heads: {heads} does not divide the width {width}")
