"""Stacks of blocks as vision models have them, in plain torch and of our own blocks: what adapters are measured on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.nn.swin import SwinTransformerBlock
from lorgnette.nn.transformer import TransformerBlock


class ViTBlock(nn.Module):
    """A block of ViT: (B, T, width) -> (B, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class SwinBlock(nn.Module):
    """A block of Swin as SwinIR uses it: (B, H, W, width) -> the same; H and W are multiples of `window`."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.norm1 = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(1, heads, window**2, window**2))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def attend(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        x = x.roll((-self.shift, -self.shift), (1, 2))
        x = x.view(B, H // self.window, self.window, W // self.window, self.window, C)
        windows = x.transpose(2, 3).reshape(-1, self.window**2, C)
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        windows = self.proj(attended.transpose(1, 2).flatten(2))
        x = windows.view(B, H // self.window, W // self.window, self.window, self.window, C)
        return x.transpose(2, 3).reshape(B, H, W, C).roll((self.shift, self.shift), (1, 2))


class ConvBlock(nn.Module):
    """A residual block of EDSR: (B, width, H, W) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class Stack(NamedTuple):
    """A model to adapt and the shape of its input."""

    make: Callable[[], nn.Module]
    """A fresh model, base frozen or not; the same each time for the same seed."""
    targets: list[str]
    """The layers to adapt."""
    shape: tuple[int, ...]
    title: str


LINEARS = ["qkv", "proj", "fc1", "fc2"]
CONVS = ["conv1", "conv2"]


def vit(depth: int = 2, width: int = 768, batch: int = 8, tokens: int = 197) -> Stack:
    """Blocks of ViT-B/16 at 224 pixels."""
    return Stack(
        lambda: nn.Sequential(*(ViTBlock(width, width // 64) for _ in range(depth))),
        LINEARS,
        (batch, tokens, width),
        f"ViT, {depth} blocks of {width}, {batch} x {tokens} tokens",
    )


def swin(depth: int = 2, width: int = 180, batch: int = 4, side: int = 64) -> Stack:
    """Blocks of SwinIR: 6 heads, windows of 8, every other one shifted."""
    return Stack(
        lambda: nn.Sequential(*(SwinBlock(width, 6, 8, 4 * (i % 2)) for i in range(depth))),
        LINEARS,
        (batch, side, side, width),
        f"Swin, {depth} blocks of {width}, {batch} x {side} x {side} tokens",
    )


def conv(depth: int = 4, width: int = 64, batch: int = 8, side: int = 64) -> Stack:
    """Residual blocks of EDSR."""
    return Stack(
        lambda: nn.Sequential(*(ConvBlock(width) for _ in range(depth))),
        CONVS,
        (batch, width, side, side),
        f"convolutions, {depth} blocks of {width}, {batch} x {side} x {side} pixels",
    )


def own_vit(depth: int = 2, batch: int = 8, tokens: int = 197) -> Stack:
    """`vit` of the blocks of `lorgnette.nn`, which can recompute."""
    return vit(depth, 768, batch, tokens)._replace(
        make=lambda: nn.Sequential(*(TransformerBlock(768, 12) for _ in range(depth)))
    )


def own_swin(depth: int = 2, batch: int = 4, side: int = 64) -> Stack:
    """`swin` of the blocks of `lorgnette.nn`, which mask what is shifted and can recompute."""
    return swin(depth, 180, batch, side)._replace(
        make=lambda: nn.Sequential(*(SwinTransformerBlock(180, 6, 8, 4 * (i % 2)) for i in range(depth)))
    )


STACKS: dict[str, Callable[[], Stack]] = {
    "vit": vit,
    "swin": swin,
    "conv": conv,
    "own-vit": own_vit,
    "own-swin": own_swin,
}
"""At the size one step takes about a second on one CPU core."""

SMALL: dict[str, Callable[[], Stack]] = {
    "vit": lambda: vit(depth=1, width=768, batch=1, tokens=50),
    "swin": lambda: swin(depth=2, width=180, batch=1, side=16),
    "conv": lambda: conv(depth=1, batch=1, side=16),
    "own-vit": lambda: own_vit(batch=1, tokens=50),
    "own-swin": lambda: own_swin(batch=8, side=16),
}
"""For figures that do not depend on the size."""
