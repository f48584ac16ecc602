"""Small models with everything an adapter meets: Linear, Conv2d, a nested layer, norms, a head."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(x)).chunk(3, dim=-1)
        return x + self.to_out((q @ k.mT).softmax(-1) @ v)


class SmallNet(nn.Module):
    """(B, 3, H, W) -> (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).flatten(2).mT
        return self.head(self.blocks(x).mean(1))


@pytest.fixture
def make_net() -> Callable[[], SmallNet]:
    def make(seed: int = 0) -> SmallNet:
        torch.manual_seed(seed)
        return SmallNet().eval()

    return make


@pytest.fixture
def net(make_net: Callable[[], SmallNet]) -> SmallNet:
    return make_net()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def shake() -> Callable[[nn.Module], None]:
    """Gives every adapter of a model random factors, as training would."""
    from lorgnette.lora import get_lora_params

    def shake(model: nn.Module, seed: int = 2) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in get_lora_params(model):
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.3

    return shake
