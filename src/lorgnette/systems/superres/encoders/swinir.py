"""SwinIR: attention in shifted windows (Liang et al., "SwinIR: Image Restoration Using Swin Transformer", 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lorgnette.nn.swin import SwinTransformerBlock
from lorgnette.systems.superres.encoders.edsr import conv3x3

TRAINED_SIZE = 48  # of training crops: published checkpoints hold the masks of this size


class _Group(nn.Module):
    """Blocks whose windows are shifted in turns, and a convolution, added to the input (SwinIR, figure 2a)."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, mlp_ratio: float):
        super().__init__()
        size = (TRAINED_SIZE, TRAINED_SIZE)
        shifts = [0, window // 2] * depth
        blocks = [SwinTransformerBlock(dim, heads, window, shift, mlp_ratio, size) for shift in shifts[:depth]]
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
        self.conv = conv3x3(dim, dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        y = x_BHWC
        for block in self.residual_group["blocks"]:  # pyright: ignore[reportGeneralTypeIssues]
            y = block(y)
        return x_BHWC + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SwinIR(nn.Module):
    """SwinIR without its upsampler, for images of any size: it mirrors them to whole windows, and cuts the features.

    Without the stochastic depth of its original training.

    Args:
        embed_dim: channels inside.
        depths: blocks in each group.
        num_heads: of each attention; a divisor of `embed_dim`.
        window_size: side of the windows.
        mlp_ratio: width inside the MLPs, in multiples of `embed_dim`.
        num_feat: channels of the features, which is `out_dim`.
    """

    def __init__(
        self,
        embed_dim: int = 180,
        depths: Sequence[int] = (6,) * 6,
        num_heads: int = 6,
        window_size: int = 8,
        mlp_ratio: float = 2.0,
        num_feat: int = 64,
    ):
        super().__init__()
        self.conv_first = conv3x3(3, embed_dim)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(embed_dim)})  # the patches are single pixels
        self.layers = nn.ModuleList(_Group(embed_dim, depth, num_heads, window_size, mlp_ratio) for depth in depths)
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = conv3x3(embed_dim, embed_dim)
        self.conv_before_upsample = nn.Sequential(conv3x3(embed_dim, num_feat), nn.LeakyReLU(inplace=True))
        self.out_dim, self.window, self.depths = num_feat, window_size, tuple(depths)

    @property
    def receptive_radius(self) -> int:
        """Input pixels, to each side, that one feature can see, from wherever in its window."""
        return max(self._reach(place) for place in range(self.window))

    def _reach(self, place: int) -> int:
        """How far a feature sees that lies at `place` in a window: through the layers, from the last to the first."""
        low = high = place
        low, high = low - 2, high + 2  # before the upsampler, after the body
        for depth in reversed(self.depths):
            low, high = low - 1, high + 1
            for number in reversed(range(depth)):
                shift = self.window // 2 if number % 2 else 0
                low = (low - shift) // self.window * self.window + shift
                high = -((shift - high - 1) // self.window) * self.window + shift - 1
        return max(place - low, high - place) + 1  # the first convolution

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        x = self.conv_first(mirrored(x, whole(h, self.window), whole(w, self.window)))
        y = self.patch_embed["norm"](x.permute(0, 2, 3, 1))
        for group in self.layers:
            y = group(y)
        x = x + self.conv_after_body(self.norm(y).permute(0, 3, 1, 2))
        return self.conv_before_upsample(x)[..., :h, :w]


def whole(size: int, window: int) -> int:
    """The least number of whole windows that hold so many pixels, in pixels."""
    return (size + window - 1) // window * window


def mirrored(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, h, w) at that size: what is more, at its lower and right edge, mirrors what lies before it."""
    for axis, count in ((-2, height), (-1, width)):
        period = torch.full((1,), 2 * x.shape[axis], device=x.device)  # ONNX divides by tensors alone
        place = torch.arange(count, device=x.device) % period  # an image may be smaller than what is missing
        x = x.index_select(axis, torch.minimum(place, period - 1 - place))
    return x
