"""Attention of each place to patches of the same features at another scale.

Mei et al., "Image Super-Resolution with Cross-Scale Non-Local Attention and Exhaustive Self-Exemplars Mining", CVPR
2020, as CiaoSR has it (Cao et al., CVPR 2023). Memory grows with the features, not with their square.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BLOCK = 48  # side of what is looked at as one, as published
SCORES = 2**20  # of one block of places, beside which its reconstructed patches take about as much


def _embedding(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out_channels, 1), nn.PReLU())


class CrossScaleAttention(nn.Module):
    """For each scale s, every place is matched with all places of the features made s times smaller, and what lies
    around those in the features themselves is put in its place, s times as large; a convolution brings it back.

    Args:
        channel: of the features.
        reduction: by which factor matching has fewer.
        ksize: side of the patches that are matched.
        scale: the scales, of 2, 3 and 4.
        softmax_scale: by which scores are multiplied.
    """

    escape_NaN: Tensor

    def __init__(
        self,
        channel: int = 64,
        reduction: int = 2,
        ksize: int = 3,
        scale: Sequence[int] = (2,),
        softmax_scale: float = 10.0,
    ):
        super().__init__()
        if not scale or not {2, 3, 4}.issuperset(scale):
            raise ValueError(f"multi_scale: {list(scale)} does not work; one or more of 2, 3 and 4 do")
        self.ksize, self.scale, self.softmax_scale = ksize, tuple(scale), softmax_scale
        self.register_buffer("escape_NaN", torch.tensor([1e-4]))
        self.conv_match_1 = _embedding(channel, channel // reduction)
        self.conv_match_2 = _embedding(channel, channel // reduction)
        self.conv_assembly = _embedding(channel, channel)
        for s in {2, *scale}:  # the published checkpoints have that of 2 always
            setattr(self, _down(s), nn.Conv2d(channel, channel, ksize, stride=s, padding=1))

    def forward(self, feat: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C * scales, h, w), in the published blocks of 48 pixels and those that are left over."""
        h, w = feat.shape[-2:]
        if h * w <= BLOCK * BLOCK:
            return self.attend(feat)
        out = feat.new_empty(len(feat), feat.shape[1] * len(self.scale), h, w)
        for top, bottom in _blocks(h):
            for left, right in _blocks(w):
                # one pixel more, where there is one
                first, start = max(0, top - 1), max(0, left - 1)
                found = self.attend(feat[..., first : bottom + 1, start : right + 1])
                rows, columns = slice(top - first, bottom - first), slice(left - start, right - start)
                out[..., top:bottom, left:right] = found[..., rows, columns]
        return out

    def attend(self, feat: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C * scales, h, w), every place to all others, some places at a time."""
        return torch.cat([self._at_scale(feat, s) for s in self.scale], dim=1)

    def _at_scale(self, feat: Tensor, s: int) -> Tensor:
        h, w = feat.shape[-2:]
        feat = _filled_up(feat, s)
        rows, columns = feat.shape[-2:]
        small = F.interpolate(feat, size=(rows // s, columns // s), mode="bilinear")
        keys = F.unfold(self.conv_match_2(small), self.ksize, padding=self.ksize // 2)  # (B, D, L)
        keys = keys / keys.norm(dim=1, keepdim=True).maximum(self.escape_NaN)
        # what is put in place: the patch s times as large around each of the L, (B, L, C (s k)^2)
        values = F.unfold(self.conv_assembly(feat), s * self.ksize, padding=s, stride=s).transpose(1, 2)
        queries = F.unfold(self.conv_match_1(feat), self.ksize, padding=self.ksize // 2).transpose(1, 2)
        # so that neither scores nor patches of one part of the places take more than so many numbers
        part = max(1, SCORES // (columns * max(keys.shape[-1], values.shape[-1])))
        canvas = feat.new_zeros(len(feat), feat.shape[1], s * (rows + 2), s * (columns + 2))
        for start in range(0, rows, part):
            stop = min(rows, start + part)
            own = queries[:, start * columns : stop * columns]
            if torch.is_grad_enabled():
                found = checkpoint(self._found, own, keys, values, s, columns, use_reentrant=False)
            else:
                found = self._found(own, keys, values, s, columns)
            assert isinstance(found, Tensor)
            canvas[..., s * start : s * (stop + 2), :] += found
        large = canvas[..., s:-s, s:-s]
        return getattr(self, _down(s))(large)[..., :h, :w] / 6

    def _found(self, queries: Tensor, keys: Tensor, values: Tensor, s: int, columns: int) -> Tensor:
        """Patches for some rows of places, added where they overlap: (B, C, s (rows + 2), s (columns + 2))."""
        attention = (queries @ keys * self.softmax_scale).softmax(dim=-1)
        rows = queries.shape[1] // columns
        size = s * (rows - 1) + s * self.ksize, s * (columns - 1) + s * self.ksize
        return F.fold((attention @ values).transpose(1, 2), size, s * self.ksize, stride=s)


def _down(s: int) -> str:
    return "down" if s == 2 else f"downx{s}"


def _blocks(length: int) -> list[tuple[int, int]]:
    """Whole blocks; the last takes what is left over."""
    count = max(1, length // BLOCK)
    return [(k * BLOCK, length if k == count - 1 else (k + 1) * BLOCK) for k in range(count)]


def _filled_up(feat: Tensor, s: int) -> Tensor:
    """Mirrored below and to the right to a multiple of s; without repeating the edge, where there is something else."""
    h, w = feat.shape[-2:]
    more = -h % s, -w % s
    if not any(more):
        return feat
    mode = "reflect" if h > more[0] and w > more[1] else "replicate"
    return F.pad(feat, (0, more[1], 0, more[0]), mode=mode)
