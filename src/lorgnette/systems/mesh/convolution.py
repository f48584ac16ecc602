"""Submanifold convolutions: outputs where inputs are, nowhere else (Graham and van der Maaten, arXiv 1706.01307)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lorgnette.systems.mesh.structure import TAPS, Structure, offset

_AT_ONCE = 2**23  # values that are gathered before they are multiplied


class SubmanifoldConv3d(nn.Module):
    """3 x 3 x 3, stride 1: (N, in) features of voxels -> (N, out), absent neighbours being zero.

    The weight lies as spconv stores it: (out, 3, 3, 3, in). It is a cross-correlation: tap (a, b, c) reads the voxel at
    (a - 1, b - 1, c - 1).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 3, 3, 3, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_uniform_(self.weight.flatten(1), a=5**0.5)

    def forward(self, feats: Tensor, structure: Structure) -> Tensor:
        taps = self.weight.permute(1, 2, 3, 4, 0).flatten(0, 2)[None]
        return _through_taps(feats, structure.neighbours, taps, (tuple(range(TAPS)),))[:, 0] + self.bias

    def of_children(self, feats: Tensor, parents: Structure) -> Tensor:
        """The convolution of voxels that have each been divided into eight alike: (N, in) of parents -> (8 N, out).

        Children of one parent hold the same features, so that the 27 taps of a child meet 8 parents: their weights are
        summed up before. Equal to `forward(feats.repeat_interleave(8, 0), parents.children)` up to rounding.
        """
        kernel, taps, summed = self.weight.permute(1, 2, 3, 4, 0), [], []
        for child in range(8):
            first = child >> 2, child >> 1 & 1, child & 1  # of the two parents along an axis: the one before, or itself
            folded = kernel
            for axis, bit in enumerate(first):
                folded = torch.movedim(_folded(torch.movedim(folded, axis, 0), bit), 0, axis)
            summed.append(folded.flatten(0, 2))
            taps.append(
                tuple(t for t in range(TAPS) if all(o - b in (0, 1) for o, b in zip(offset(t), first, strict=True)))
            )
        return _through_taps(feats, parents.neighbours, torch.stack(summed), tuple(taps)).flatten(0, 1) + self.bias


class PointwiseConv3d(nn.Module):
    """1 x 1 x 1: (N, in) -> (N, out), with the weight as spconv stores and reads it.

    It is stored as (out, 1, 1, 1, in), but its memory is read as (in, out): published weights were trained so.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 1, 1, 1, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_uniform_(self.weight.flatten(1), a=5**0.5)

    def forward(self, feats: Tensor) -> Tensor:
        matrix_IO = self.weight.reshape(self.weight.shape[-1], -1)
        return torch.addmm(self.bias.to(feats.dtype), feats, matrix_IO.to(feats.dtype))


def _folded(kernel: Tensor, bit: int) -> Tensor:
    """Three taps along the first axis as the two parents see them, for the child in front (0) or behind (1)."""
    before, here, after = kernel
    return torch.stack([before, here + after]) if bit == 0 else torch.stack([before + here, after])


def _through_taps(feats: Tensor, neighbours: Tensor, weight_GTIO: Tensor, taps: tuple[tuple[int, ...], ...]) -> Tensor:
    """`_Taps`, or what an exported program does: all rows at once, as many as there will be."""
    if not (torch.compiler.is_compiling() or torch._C._get_tracing_state()):
        return _Taps.apply(feats, neighbours, weight_GTIO, taps)  # pyright: ignore[reportReturnType]
    padded = _padded(feats)
    own = [padded[neighbours[:, list(t)].long()].flatten(1) for t in taps]
    return torch.stack([rows @ matrix for rows, matrix in zip(own, weight_GTIO.flatten(1, 2), strict=True)], 1)


class _Taps(torch.autograd.Function):
    """Sums of neighbours' features times matrices: (N, in) -> (N, G, out) for G sets of taps.

    Keeps nothing but its inputs for the backward pass: what is gathered is gathered again, in pieces.
    """

    @staticmethod
    def forward(
        ctx: Any, feats: Tensor, neighbours: Tensor, weight_GTIO: Tensor, taps: tuple[tuple[int, ...], ...]
    ) -> Tensor:
        ctx.save_for_backward(feats, neighbours, weight_GTIO)
        ctx.taps = taps
        with torch.autocast(feats.device.type, enabled=False):
            padded, out = _padded(feats), feats.new_empty(len(feats), len(taps), weight_GTIO.shape[-1])
            for group, (matrix, own) in enumerate(zip(weight_GTIO.to(feats.dtype).flatten(1, 2), taps, strict=True)):
                for rows, gathered in _gathered(padded, neighbours, own):
                    out[rows, group] = gathered @ matrix
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        feats, neighbours, weight_GTIO = ctx.saved_tensors
        to_feats = to_weight = None
        with torch.autocast(feats.device.type, enabled=False):
            grad = grads[0].to(feats.dtype)
            if ctx.needs_input_grad[0]:
                to_feats = torch.zeros_like(feats)
                for group, own in enumerate(ctx.taps):  # the neighbour at t has me at the tap opposite to t
                    back_OI = weight_GTIO[group].to(feats.dtype).transpose(1, 2).flatten(0, 1)
                    for rows, gathered in _gathered(_padded(grad[:, group]), neighbours, [TAPS - 1 - t for t in own]):
                        to_feats[rows] += gathered @ back_OI
            if ctx.needs_input_grad[2]:
                to_weight, padded = torch.zeros_like(weight_GTIO), _padded(feats)
                for group, own in enumerate(ctx.taps):
                    for rows, gathered in _gathered(padded, neighbours, own):
                        to_weight[group] += (gathered.t() @ grad[rows, group]).view_as(to_weight[group])
        return to_feats, None, to_weight, None


def _padded(feats: Tensor) -> Tensor:
    """With a row of zeros at the end, which absent neighbours read."""
    return torch.cat([feats, feats.new_zeros(1, feats.shape[1])])


def _gathered(padded: Tensor, neighbours: Tensor, taps: Any) -> Any:
    """Pieces of rows, and (rows, taps * channels) what their neighbours hold."""
    step = max(1, _AT_ONCE // (len(taps) * padded.shape[1]))
    for start in range(0, len(neighbours), step):
        rows = slice(start, start + step)
        index = neighbours[rows][:, list(taps)]
        yield rows, padded.index_select(0, index.flatten()).view(len(index), -1)
