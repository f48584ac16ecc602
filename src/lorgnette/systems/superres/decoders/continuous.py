"""An image as a continuous function: what all decoders share.

An encoder makes features, a decoder says what its render network needs to know of each latent pixel, and a colour at
any point is what the four latent pixels around it say, weighted by area (the local ensemble of LIIF, Chen et al., CVPR
2021). Tensors in, tensors out; network space is [-1, 1]. State-dict keys are those of the published checkpoints.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import product
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lorgnette.systems.superres.coords import axis_coords, grid_size
from lorgnette.systems.superres.decoders.windows import NUDGE, Windows, axis_windows, summed
from lorgnette.systems.superres.encoders.swinir import mirrored, whole

if TYPE_CHECKING:
    from lorgnette.systems.superres.encoders import Encoder

TRAINED_SCALE = 4.0  # cells are not made finer than this: published models saw scales 1 to 4


class ContinuousImage(nn.Module, ABC):
    """An encoder and a decoder.

    Args:
        encoder: (B, 3, h, w) -> (B, encoder.out_dim, h, w).
        local_ensemble: render from the four latent pixels around a point, not from the nearest alone.
        cell_decode: tell the decoder how large an output pixel is.

    Attributes:
        use_checkpoint: where gradients are recorded, the encoder's activations are made again for them.
        skip: the network's colours are added to the bilinear enlargement.
        splits: how the vector of a latent pixel is divided; of modulated decoders the first part holds the scales of
            all layers, the second the shifts. Empty: there is no modulation.
    """

    use_checkpoint = False
    skip = True
    splits: tuple[int, ...] = ()

    def __init__(self, encoder: Encoder, local_ensemble: bool = True, cell_decode: bool = True):
        super().__init__()
        self.encoder = encoder
        self.local_ensemble, self.cell_decode = local_ensemble, cell_decode

    @abstractmethod
    def modulations(self, feat: Tensor, cell: Tensor) -> Tensor:
        """What the render network needs to know of each latent pixel.

        Args:
            feat: (B, C, h, w) features.
            cell: (B, 2).

        Returns:
            (B, h, w, M).
        """

    @abstractmethod
    def _render(self, own: Tensor, rel: Tensor, cell: Tensor) -> Tensor:
        """Colours seen from given latent pixels: own (..., M), rel (..., 2), cell broadcastable -> (N, 3)."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Linear:
        """The layer that gives colours."""

    @property
    def receptive_radius(self) -> int:
        """Input pixels, to each side, that a rendered point can depend on."""
        return self.encoder.receptive_radius + 1 + 1  # the decoder looks at 3x3 features; the four neighbours

    def example_inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Arguments of `forward`: a small picture, enlarged x2."""
        inp = torch.rand(1, 3, 16, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
        coord = torch.stack(torch.meshgrid(axis_coords(32), axis_coords(24), indexing="ij"), -1).view(1, -1, 2)
        return inp, coord, render_cell(inp, (32, 24)).expand_as(coord)

    def start_as_bilinear(self) -> None:
        """Zero the last render layer: an untrained network then gives the bilinear enlargement.

        Without effect where the network's colours are not added to it.
        """
        if self.skip:
            nn.init.zeros_(self.last_layer.weight)
            nn.init.zeros_(self.last_layer.bias)

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        """Colours at arbitrary points.

        Args:
            inp: (B, 3, h, w) image in [-1, 1].
            coord: (B, Q, 2) points as (y, x), [-1, 1] from edge to edge; what is beyond has the colour of the edge.
            cell: (B, Q, 2) height and width of the output pixels in the same unit; equal within an image. None: those
                of a picture of Q pixels in the shape of `inp`, as `render_cell` gives them.

        Returns:
            (B, Q, 3) in network space.
        """
        if cell is None:
            scale = max(1.0, math.sqrt(coord.shape[1] / (inp.shape[-2] * inp.shape[-1])))
            size = round(inp.shape[-2] * scale), round(inp.shape[-1] * scale)
            cell = render_cell(inp, size).to(coord).expand_as(coord)
        coord, cell = coord.clamp(-1, 1), cell[:, 0]
        inp, share = self._in_windows(inp)
        if share is not None:
            coord, cell = (coord + 1) * share - 1, cell * share
        if self.use_checkpoint and torch.is_grad_enabled():
            feat = cast(Tensor, checkpoint(self.encoder, inp, use_reentrant=False))
        else:
            feat = self.encoder(inp)
        mod = self.modulations(feat, cell)
        colours = self._query(mod, coord, cell)
        if not self.skip:
            return colours
        skip = F.grid_sample(_precise(inp), coord[:, :, None].flip(-1), padding_mode="border", align_corners=False)
        return colours + skip[..., 0].transpose(1, 2)

    def _in_windows(self, inp: Tensor) -> tuple[Tensor, Tensor | None]:
        """The image mirrored to whole windows of the encoder, and its share of that (y, x); None where it is all.

        As in the published evaluation one window is added where they are whole already; as there, not in training.
        """
        window = self.encoder.window
        if window == 1:
            return inp, None
        wider = mirrored(inp, *(whole(n + (0 if self.training else 1), window) for n in inp.shape[-2:]))
        return wider, grid_size(inp) / grid_size(wider)

    def grid_in_windows(self, inp: Tensor, y: Tensor, x: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """An image as the encoder sees it, with the rows, columns and cell that were asked for in terms of that."""
        inp, share = self._in_windows(inp)
        if share is None:
            return inp, y, x, cell
        return inp, (y + 1) * share[0] - 1, (x + 1) * share[1] - 1, cell * share

    def _query(self, mod: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """The local ensemble without the skip: mod (B, h, w, M), coord (B, Q, 2), cell (B, 2) -> (B, Q, 3)."""
        b, h, w, m = mod.shape
        q = coord.shape[1]
        size = grid_size(mod.permute(0, 3, 1, 2)).to(coord)
        offset = torch.arange(b, device=coord.device)[:, None] * (h * w)
        # One rounding decides on both neighbours of an axis: with two, a point by a centre could miss its own pixel.
        first = ((coord + (1 + NUDGE)) * size / 2 - (0.5 if self.local_ensemble else 0)).floor()
        rows, rels = [], []
        for step in product((0, 1), (0, 1)) if self.local_ensemble else [(0, 0)]:
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
        if not self.local_ensemble:
            return colour.view(b, q, 3)
        # Each neighbour counts by the area of the opposite rectangle: one weight for each axis. (Normalising the axes
        # apart, not their product, stays defined where a point sits on a pixel centre at the border.)
        distance = rel.abs().view(2, 2, b, q, 2) + 1e-9
        weight_y = distance[:, 0, ..., 0].flip(0) / distance[:, 0, ..., 0].sum(0)
        weight_x = distance[0, ..., 1].flip(0) / distance[0, ..., 1].sum(0)
        weight = weight_y[:, None] * weight_x[None]
        return (colour.view(2, 2, b, q, 3) * weight[..., None]).sum((0, 1))

    def render(self, inp: Tensor, size: tuple[int, int], chunk: int = 8192) -> Tensor:
        """The whole image at another size.

        Args:
            inp: (B, 3, h, w) in [-1, 1].
            size: (H, W), any two whole numbers.
            chunk: colours worked out at a time (a point takes four); this many fit the caches of most processors.

        Returns:
            (B, 3, H, W) in network space, not clamped.
        """
        device = inp.device
        return self.render_window(
            inp, axis_coords(size[0], device), axis_coords(size[1], device), render_cell(inp, size), chunk
        )

    def render_window(self, inp: Tensor, y: Tensor, x: Tensor, cell: Tensor, chunk: int = 8192) -> Tensor:
        """Output rows and columns at given coordinates of `inp`: how tiles of a larger image are rendered.

        Args:
            inp: (B, 3, h, w) in [-1, 1].
            y: (H,) rising coordinates of the rows, [-1, 1] from edge to edge of `inp`.
            x: (W,) rising coordinates of the columns.
            cell: (2,) height and width of the output pixels in the same unit.
            chunk: colours worked out at a time.

        Returns:
            (B, 3, H, W) in network space, not clamped.
        """
        inp, y, x, cell = self.grid_in_windows(inp, y, x, cell)
        return self.render_features(inp, self.encoder(inp), y, x, cell, chunk)

    def render_features(
        self, inp: Tensor, feat: Tensor, y: Tensor, x: Tensor, cell: Tensor, chunk: int = 8192
    ) -> Tensor:
        """What `render_window` does, from features: one encoding serves every scale.

        Args:
            inp: (B, 3, h, w) in [-1, 1].
            feat: (B, C, h, w), what the encoder makes of it.
            y: as for `render_window`; so are `x`, `cell` and `chunk`.
        """
        b = inp.shape[0]
        mod = self.modulations(feat, cell.expand(b, 2))
        if self.skip:
            grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).expand(b, -1, -1, 2).flip(-1)
            # contiguous(): F.grid_sample is far slower on channels_last inputs of three channels
            out = F.grid_sample(_precise(inp).contiguous(), grid, padding_mode="border", align_corners=False)
        else:
            out = mod.new_zeros(())
        return out + self.render_modulations(mod, y, x, cell, chunk)

    def render_modulations(
        self, mod: Tensor, y: Tensor, x: Tensor, cell: Tensor, chunk: int = 8192, wanted: Tensor | None = None
    ) -> Tensor:
        """What is added to the bilinear enlargement, from what latent pixels know.

        Args:
            mod: (B, h, w, M), from `modulations`.
            y: as for `render_window`; so are `x`, `cell` and `chunk`.
            wanted: (B, h, w) bool: only where the nearest latent pixel is one of these. None: everywhere.

        Returns:
            (B, 3, H, W).
        """
        b, h, w, _ = mod.shape
        rows, columns = axis_windows(y, h, self.local_ensemble), axis_windows(x, w, self.local_ensemble)
        asked = [None] * b if wanted is None else list(wanted)
        with torch.autocast(mod.device.type, enabled=False):  # small matrices, fine angles: keep float32
            cell = cell * cell.new_tensor([h, w])
            pictures = zip(_precise(mod), asked, strict=True)
            return torch.stack([self._colours(own, rows, columns, cell, chunk, some) for own, some in pictures])

    def _colours(
        self, mod: Tensor, y: Windows, x: Windows, cell: Tensor, chunk: int, wanted: Tensor | None = None
    ) -> Tensor:
        """The colours of a picture, (3, H, W), from mod (h, w, M) and cell (2,) in halves of a latent pixel.

        With `wanted`, (h, w) bool, only where the nearest latent pixel is one of those.
        """
        return summed(mod, y, x, lambda own, rel_y, rel_x: self._window_colours(own, rel_y, rel_x, cell), chunk, wanted)

    def _window_colours(self, own: Tensor, rel_y: Tensor, rel_x: Tensor, cell: Tensor) -> Tensor:
        """What latent pixels see in their windows: own (P, M), rel_y (P, Ky), rel_x (P, Kx) -> (P, 3, Ky, Kx)."""
        shape = *rel_y.shape, rel_x.shape[1]
        rel = torch.stack([rel_y[:, :, None].expand(shape), rel_x[:, None].expand(shape)], dim=-1)
        colour = self._render(own[:, None, None].expand(*shape, -1), rel, cell.view(1, 1, 1, 2))
        return colour.view(*shape, 3).permute(0, 3, 1, 2)


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


def waves(freq: Tensor, rel: Tensor | None, phase: Tensor | None) -> Tensor:
    """Cosines and sines of local frequencies (LTE, Lee and Jin, CVPR 2022, equation 7).

    Args:
        freq: (..., 2 n), in pairs for y and x.
        rel: (..., 2) where to look from the latent pixel; None: (1, 1).
        phase: (..., n), added; None: nothing.

    Returns:
        (..., 2 n): first all cosines.
    """
    if rel is None:
        angle = freq[..., 0::2] + freq[..., 1::2]
    else:
        angle = freq[..., 0::2] * rel[..., :1] + freq[..., 1::2] * rel[..., 1:]
    angle = math.pi * (angle if phase is None else angle + phase)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
