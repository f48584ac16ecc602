"""EDSR: residual blocks of two convolutions (Lim et al., "Enhanced Deep Residual Networks", CVPRW 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MeanShift(nn.Conv2d):
    """A fixed 1x1 convolution which adds or removes the DIV2K colour mean (EDSR, Lim et al. 2017).

    The published EDSR encoders carry two of these in their checkpoints without ever calling them.
    """

    RGB_MEAN = (0.4488, 0.4371, 0.4040)

    def __init__(self, rgb_range: float = 1.0, sign: int = -1):
        super().__init__(3, 3, kernel_size=1)
        with torch.no_grad():
            self.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            assert self.bias is not None
            self.bias.copy_(sign * rgb_range * torch.tensor(self.RGB_MEAN))
        self.requires_grad_(False)


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


class ResBlock(nn.Module):
    """Convolution, ReLU, convolution, added to the input with a factor (EDSR, figure 2)."""

    def __init__(self, n_feats: int, res_scale: float = 1.0):
        super().__init__()
        self.body = nn.Sequential(conv3x3(n_feats, n_feats), nn.ReLU(inplace=True), conv3x3(n_feats, n_feats))
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        residual = self.body(x)
        return x + residual if self.res_scale == 1 else torch.add(x, residual, alpha=self.res_scale)


class EDSR(nn.Module):
    """EDSR without its upsampler.

    Args:
        n_resblocks: number of residual blocks.
        n_feats: channels of every feature map.
        res_scale: factor on each residual branch.
    """

    window = 1

    def __init__(self, n_resblocks: int = 16, n_feats: int = 64, res_scale: float = 1.0):
        super().__init__()
        self.sub_mean = MeanShift(sign=-1)
        self.add_mean = MeanShift(sign=1)
        self.head = nn.Sequential(conv3x3(3, n_feats))
        blocks: list[nn.Module] = [ResBlock(n_feats, res_scale) for _ in range(n_resblocks)]
        self.body = nn.Sequential(*blocks, conv3x3(n_feats, n_feats))

    @property
    def out_dim(self) -> int:
        """Channels of the features."""
        return self.body[-1].out_channels  # pyright: ignore[reportReturnType]

    @property
    def receptive_radius(self) -> int:
        """Input pixels, to each side, that one feature can see: one for every 3x3 convolution."""
        return 1 + 2 * (len(self.body) - 1) + 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return x + self.body(x)
