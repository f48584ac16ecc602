"""RDN: residual blocks whose convolutions see all before them (Zhang et al., "Residual Dense Network", CVPR 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lorgnette.systems.superres.encoders.edsr import conv3x3


class _DenseConv(nn.Module):
    """A convolution and ReLU, whose channels are put behind those it saw."""

    def __init__(self, in_channels: int, growth: int):
        super().__init__()
        self.conv = nn.Sequential(conv3x3(in_channels, growth), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(x)), dim=1)


class _DenseBlock(nn.Module):
    """Dense convolutions, fused by a 1x1 convolution and added to the input (RDN, figure 3)."""

    def __init__(self, n_feats: int, convs: int, growth: int):
        super().__init__()
        self.convs = nn.Sequential(*(_DenseConv(n_feats + i * growth, growth) for i in range(convs)))
        self.LFF = nn.Conv2d(n_feats + convs * growth, n_feats, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.LFF(self.convs(x)) + x


class RDN(nn.Module):
    """RDN without its upsampler.

    Args:
        blocks: number of residual dense blocks.
        convs: convolutions in each.
        growth: channels that each of them adds.
        n_feats: channels of what goes from block to block, which is also `out_dim`.
    """

    window = 1

    def __init__(self, blocks: int = 16, convs: int = 8, growth: int = 64, n_feats: int = 64):
        super().__init__()
        self.SFENet1 = conv3x3(3, n_feats)
        self.SFENet2 = conv3x3(n_feats, n_feats)
        self.RDBs = nn.ModuleList(_DenseBlock(n_feats, convs, growth) for _ in range(blocks))
        self.GFF = nn.Sequential(nn.Conv2d(blocks * n_feats, n_feats, kernel_size=1), conv3x3(n_feats, n_feats))
        self.out_dim, self.convs = n_feats, convs

    @property
    def receptive_radius(self) -> int:
        """Input pixels, to each side, that one feature can see: one for every 3x3 convolution on the way."""
        return 2 + len(self.RDBs) * self.convs + 1

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.SFENet1(x)
        x = self.SFENet2(shallow)
        seen = []
        for block in self.RDBs:
            x = block(x)
            seen.append(x)
        return self.GFF(torch.cat(seen, dim=1)) + shallow
