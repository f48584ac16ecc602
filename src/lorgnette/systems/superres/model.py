"""LM-LTE: an image as a continuous function, decoded by a tiny network modulated per latent pixel.

He and Jin, "Latent Modulated Function for Computational Optimal Continuous Image Representation", CVPR 2024,
with the local Fourier features of LTE (Lee and Jin, CVPR 2022). Tensors in, tensors out; network space is [-1, 1].
State-dict keys are those of the published checkpoints.
"""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.systems.superres.coords import axis_coords, grid_size
from lorgnette.systems.superres.encoders import EDSR

TRAINED_SCALE = 4.0  # cells are not made finer than this: published models saw scales 1 to 4
NUDGE = 1e-6  # decides between two neighbours where a coordinate lies exactly on the border of two pixels


class MLP(nn.Module):
    """Linear layers with ReLU between them, on the last dimension."""

    def __init__(self, in_dim: int, hidden: list[int], out_dim: int):
        super().__init__()
        widths = [in_dim, *hidden]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], out_dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class LMMLP(nn.Module):
    """The render network: after each hidden layer, `x * (1 + scale) + shift` and ReLU (section 3.2 of the paper)."""

    def __init__(self, in_dim: int, out_dim: int, hidden_dim: int, hidden_depth: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(in_dim, hidden_dim), nn.ReLU()]
        for _ in range(hidden_depth - 1):
            layers += [nn.Linear(hidden_dim, hidden_dim), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden_dim, out_dim))
        self.hidden_dim, self.hidden_depth = hidden_dim, hidden_depth

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """x: (N, in_dim); scale, shift: (N, hidden_depth * hidden_dim). Returns (N, out_dim)."""
        for layer, gain, offset in zip(
            list(self.layers)[:-1:2],
            scale.split(self.hidden_dim, dim=-1),
            shift.split(self.hidden_dim, dim=-1),
            strict=True,
        ):
            x = layer(x)
            x = torch.addcmul(x + offset, x, gain).relu()
        return self.layers[-1](x)


class LMLTE(nn.Module):
    """Latent modulated local texture estimator.

    Args:
        encoder: (B, 3, h, w) -> (B, encoder.out_dim, h, w).
        hidden_dim: width of the latent Fourier features.
        imnet_dim: width of the render network.
        imnet_depth: number of its hidden layers.
    """

    def __init__(self, encoder: EDSR, hidden_dim: int = 128, imnet_dim: int = 16, imnet_depth: int = 8):
        super().__init__()
        self.encoder = encoder
        self.coef = nn.Conv2d(encoder.out_dim, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(encoder.out_dim, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        self.splits = [imnet_dim * imnet_depth, imnet_dim * imnet_depth, imnet_dim, imnet_dim]
        self.hypernet = MLP(hidden_dim, [sum(self.splits)], sum(self.splits))
        self.imphase = nn.Linear(2, imnet_dim // 2, bias=False)
        self.imnet = LMMLP(imnet_dim, 3, imnet_dim, imnet_depth)

    @property
    def receptive_radius(self) -> int:
        """Input pixels, to each side, that a rendered point can depend on."""
        return self.encoder.receptive_radius + 1 + 1  # the coef/freq convolution; the four neighbours

    def start_as_bilinear(self) -> None:
        """Zero the last render layer: an untrained network then gives the bilinear enlargement."""
        last = cast(nn.Linear, self.imnet.layers[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """Colours at arbitrary points.

        Args:
            inp: (B, 3, h, w) image in [-1, 1].
            coord: (B, Q, 2) points as (y, x), [-1, 1] from edge to edge.
            cell: (B, Q, 2) height and width of the output pixels in the same unit; equal within an image.

        Returns:
            (B, Q, 3) in network space.
        """
        cell = cell[:, 0]
        mod = self.modulations(self.encoder(inp), cell)
        skip = F.grid_sample(_precise(inp), coord[:, :, None].flip(-1), padding_mode="border", align_corners=False)
        return self._query(mod, coord, cell) + skip[..., 0].transpose(1, 2)

    def modulations(self, feat: Tensor, cell: Tensor) -> Tensor:
        """What the render network needs to know of each latent pixel.

        Args:
            feat: (B, C, h, w) features.
            cell: (B, 2).

        Returns:
            (B, h, w, M): per layer scales, per layer shifts, render coefficients, render frequencies.
        """
        coef = self.coef(feat).permute(0, 2, 3, 1)
        freq = _precise(self.freq(feat).permute(0, 2, 3, 1))
        phase = self.phase(cell * grid_size(feat).to(cell))
        angle = math.pi * (freq[..., 0::2] + freq[..., 1::2] + phase[:, None, None])
        return self.hypernet(torch.cat([angle.cos(), angle.sin()], dim=-1) * coef)

    def _query(self, mod: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """The local ensemble without the skip: mod (B, h, w, M), coord (B, Q, 2), cell (B, 2) -> (B, Q, 3)."""
        b, h, w, m = mod.shape
        q = coord.shape[1]
        size = grid_size(mod.permute(0, 3, 1, 2)).to(coord)
        offset = torch.arange(b, device=coord.device)[:, None] * (h * w)
        # One rounding decides on both neighbours of an axis: with two, a point by a centre could miss its own pixel.
        first = ((coord + (1 + NUDGE)) * size / 2 - 0.5).floor()
        rows, rels = [], []
        for step in product((0, 1), (0, 1)):
            corner = torch.stack([first[..., 0] + step[0], first[..., 1] + step[1]], -1)
            index = torch.minimum(corner.clamp(min=0), size - 1)
            iy, ix = index.long().unbind(-1)
            rows.append(offset + iy * w + ix)
            rels.append((coord - ((2 * index + 1) / size - 1)) * size)
        rel = torch.stack(rels)  # (4, B, Q, 2): neighbours first, so one call renders them all
        with torch.autocast(coord.device.type, enabled=False):  # small matrices, fine angles: keep float32
            # F.embedding is index_select with a fast backward.
            own = F.embedding(torch.stack(rows), _precise(mod.reshape(-1, m)))
            colour = self._render(own, rel, cell.view(1, b, 1, 2) * size)
        # Each neighbour counts by the area of the opposite rectangle: one weight for each axis. (Normalising the axes
        # apart, not their product, stays defined where a point sits on a pixel centre at the border.)
        distance = rel.abs().view(2, 2, b, q, 2) + 1e-9
        weight_y = distance[:, 0, ..., 0].flip(0) / distance[:, 0, ..., 0].sum(0)
        weight_x = distance[0, ..., 1].flip(0) / distance[0, ..., 1].sum(0)
        weight = weight_y[:, None] * weight_x[None]
        return (colour.view(2, 2, b, q, 3) * weight[..., None]).sum((0, 1))

    def _render(self, own: Tensor, rel: Tensor, cell: Tensor) -> Tensor:
        """Colours seen from given latent pixels: own (..., M), rel (..., 2), cell broadcastable -> (N, 3)."""
        scale, shift, coef, freq = own.split(self.splits, dim=-1)
        angle = freq[..., 0::2] * rel[..., :1] + freq[..., 1::2] * rel[..., 1:]
        angle = math.pi * (angle + self.imphase(cell))
        x = coef * torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.imnet(x.flatten(0, -2), scale.flatten(0, -2), shift.flatten(0, -2))

    def render(self, inp: Tensor, size: tuple[int, int], chunk: int = 2048) -> Tensor:
        """The whole image at another size.

        Args:
            inp: (B, 3, h, w) in [-1, 1].
            size: (H, W), any two whole numbers.
            chunk: points rendered at a time; this many fit the caches of most processors.

        Returns:
            (B, 3, H, W) in network space, not clamped.
        """
        device = inp.device
        return self.render_window(
            inp, axis_coords(size[0], device), axis_coords(size[1], device), render_cell(inp, size), chunk
        )

    def render_window(self, inp: Tensor, y: Tensor, x: Tensor, cell: Tensor, chunk: int = 2048) -> Tensor:
        """Output rows and columns at given coordinates of `inp`: how tiles of a larger image are rendered.

        Args:
            inp: (B, 3, h, w) in [-1, 1].
            y: (H,) coordinates of the rows, [-1, 1] from edge to edge of `inp`.
            x: (W,) coordinates of the columns.
            cell: (2,) height and width of the output pixels in the same unit.
            chunk: points rendered at a time.

        Returns:
            (B, 3, H, W) in network space, not clamped.
        """
        b = inp.shape[0]
        mod = self.modulations(self.encoder(inp), cell.expand(b, 2))
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).expand(b, -1, -1, 2)
        # contiguous(): F.grid_sample is far slower on channels_last inputs of three channels
        out = F.grid_sample(_precise(inp).contiguous(), grid.flip(-1), padding_mode="border", align_corners=False)
        rows = max(1, chunk // len(x))
        for start in range(0, len(y), rows):
            part = grid[:, start : start + rows]
            colour = self._query(mod, part.flatten(1, 2), cell.expand(b, 2))
            out[:, :, start : start + rows] += colour.view(b, part.shape[1], -1, 3).permute(0, 3, 1, 2)
        return out


def to_network(image: Tensor) -> Tensor:
    """[0, 1] -> network space, [-1, 1]."""
    return image * 2 - 1


def from_network(colours: Tensor) -> Tensor:
    """Network space -> [0, 1], not clamped."""
    return colours * 0.5 + 0.5


def _precise(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def render_cell(inp: Tensor, size: tuple[int, int]) -> Tensor:
    """The cell (2,) for rendering `inp` (B, 3, h, w) at `size`.

    The pixel of the output, but never finer than a quarter of an input pixel, the finest seen in training
    (published for one scale; here for each axis by itself).
    """
    h, w = inp.shape[-2:]
    cells = [2 / out * max(out / n / TRAINED_SCALE, 1.0) for out, n in zip(size, (h, w), strict=True)]
    return torch.tensor(cells, dtype=torch.float32, device=inp.device)
