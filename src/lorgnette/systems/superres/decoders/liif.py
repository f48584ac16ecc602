"""LIIF and LM-LIIF: the features around a latent pixel, decoded by one network for all, or by a tiny modulated one.

Chen, Liu and Wang, "Learning Continuous Image Representation with Local Implicit Image Function", CVPR 2021; He and
Jin, "Latent Modulated Function for Computational Optimal Continuous Image Representation", CVPR 2024. Neither adds its
colours to the bilinear enlargement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.systems.superres.coords import grid_size
from lorgnette.systems.superres.decoders.continuous import ContinuousImage
from lorgnette.systems.superres.decoders.mlp import LMMLP, MLP

if TYPE_CHECKING:
    from lorgnette.systems.superres.encoders import Encoder


def unfolded(feat: Tensor) -> Tensor:
    """The 3x3 features around each, zero beyond the edges: (B, C, h, w) -> (B, h, w, 9 C), C first."""
    return F.unfold(feat, 3, padding=1).transpose(1, 2).unflatten(1, feat.shape[-2:])


def _with_place(own: Tensor, rel: Tensor, cell: Tensor, cell_decode: bool) -> Tensor:
    """What a render network sees: (..., M) with place and cell -> (N, M + 4), or M + 2 without the cell."""
    parts = [own, rel, cell.expand_as(rel)] if cell_decode else [own, rel]
    return torch.cat(parts, dim=-1).flatten(0, -2)


class LIIF(ContinuousImage):
    """Local implicit image function.

    Args:
        encoder: (B, 3, h, w) -> (B, encoder.out_dim, h, w).
        hidden: widths of the render network's hidden layers.
        local_ensemble: as in `ContinuousImage`.
        cell_decode: as in `ContinuousImage`.
    """

    skip = False

    def __init__(
        self,
        encoder: Encoder,
        hidden: Sequence[int] = (256,) * 4,
        local_ensemble: bool = True,
        cell_decode: bool = True,
    ):
        super().__init__(encoder, local_ensemble, cell_decode)
        self.imnet = MLP(9 * encoder.out_dim + (4 if cell_decode else 2), hidden, 3)

    @property
    def last_layer(self) -> nn.Linear:
        return cast(nn.Linear, self.imnet.layers[-1])

    def modulations(self, feat: Tensor, cell: Tensor) -> Tensor:
        """The 3x3 features around each latent pixel."""
        return unfolded(feat)

    def _render(self, own: Tensor, rel: Tensor, cell: Tensor) -> Tensor:
        return self.imnet(_with_place(own, rel, cell, self.cell_decode))


class LMLIIF(ContinuousImage):
    """Latent modulated local implicit image function.

    Args:
        encoder: (B, 3, h, w) -> (B, encoder.out_dim, h, w).
        hyper_dim: width of the hypernetwork.
        imnet_dim: width of the render network.
        imnet_depth: number of its hidden layers; published with SwinIR: 8.
        local_ensemble: as in `ContinuousImage`.
        cell_decode: as in `ContinuousImage`.
    """

    skip = False

    def __init__(
        self,
        encoder: Encoder,
        hyper_dim: int = 208,
        imnet_dim: int = 16,
        imnet_depth: int = 6,
        local_ensemble: bool = True,
        cell_decode: bool = True,
    ):
        super().__init__(encoder, local_ensemble, cell_decode)
        self.splits = (imnet_dim * imnet_depth, imnet_dim * imnet_depth, imnet_dim)
        self.hypernet = MLP(9 * encoder.out_dim + (2 if cell_decode else 0), [hyper_dim], sum(self.splits))
        self.imnet = LMMLP(imnet_dim + (4 if cell_decode else 2), 3, imnet_dim, imnet_depth)

    @property
    def last_layer(self) -> nn.Linear:
        return cast(nn.Linear, self.imnet.layers[-1])

    def modulations(self, feat: Tensor, cell: Tensor) -> Tensor:
        """Per layer scales, per layer shifts, render features."""
        h, w = feat.shape[-2:]
        seen = unfolded(feat)
        if self.cell_decode:
            relative = (cell * grid_size(feat).to(cell))[:, None, None].expand(-1, h, w, -1)
            seen = torch.cat([seen, relative.to(seen)], dim=-1)
        return self.hypernet(seen)

    def _render(self, own: Tensor, rel: Tensor, cell: Tensor) -> Tensor:
        scale, shift, feat = own.split(self.splits, dim=-1)
        seen = _with_place(feat, rel, cell, self.cell_decode)
        return self.imnet(seen, scale.flatten(0, -2), shift.flatten(0, -2))
