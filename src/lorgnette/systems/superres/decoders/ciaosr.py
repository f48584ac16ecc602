"""LM-CiaoSR: what a tiny render network needs is found by attention, near each latent pixel and across scales.

He and Jin, "Latent Modulated Function for Computational Optimal Continuous Image Representation", CVPR 2024, on Cao
et al., "CiaoSR: Continuous Implicit Attention-in-Attention Network for Arbitrary-Scale Image Super-Resolution", CVPR
2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from lorgnette.systems.superres.decoders.continuous import ContinuousImage
from lorgnette.systems.superres.decoders.cross_scale import CrossScaleAttention
from lorgnette.systems.superres.decoders.liif import unfolded
from lorgnette.systems.superres.decoders.mlp import LMMLP, MLP

if TYPE_CHECKING:
    from lorgnette.systems.superres.encoders import Encoder

AT_A_TIME = 16384  # latent pixels


class LMCiaoSR(ContinuousImage):
    """Latent modulated CiaoSR.

    The colours are added to the bilinear enlargement in training as well: the published training forgets that, and what
    it trains scores about 16 dB.

    Args:
        encoder: (B, 3, h, w) -> (B, encoder.out_dim, h, w).
        hidden_dim: width of the networks that give queries, keys and values.
        hyper_dim: width of the hypernetwork.
        imnet_dim: width of the render network.
        imnet_depth: number of its hidden layers.
        local_size: 2: a point is rendered, and a latent pixel described, from 2 x 2 neighbours; 1: from the nearest.
        non_local_attn: attention across scales, within blocks of 48 pixels (`CrossScaleAttention`).
        multi_scale: its scales.
        softmax_scale: divisor of the scores of the attention to the neighbours.
        mod_input: the render network sees features that the hypernetwork has made few; without, all.
    """

    def __init__(
        self,
        encoder: Encoder,
        hidden_dim: int = 256,
        hyper_dim: int = 288,
        imnet_dim: int = 16,
        imnet_depth: int = 8,
        local_size: int = 2,
        non_local_attn: bool = True,
        multi_scale: Sequence[int] = (2,),
        softmax_scale: float = 1.0,
        mod_input: bool = True,
    ):
        super().__init__(encoder, local_ensemble=local_size == 2)
        if local_size not in (1, 2):
            raise ValueError(f"local_size: {local_size} does not work; 1 and 2 do")
        self.local_size, self.softmax_scale, self.mod_input = local_size, softmax_scale, mod_input
        self.non_local_attn, self.multi_scale = non_local_attn, list(multi_scale)
        c = encoder.out_dim
        far = c * len(multi_scale) if non_local_attn else 0
        near = 4 * c  # 2 x 2 features
        if non_local_attn:
            self.cs_attn = CrossScaleAttention(c, scale=multi_scale)
        self.imnet_k = MLP(near + 4, [hidden_dim], near)
        self.imnet_v = MLP(near + far + 4, [hidden_dim], near + far)
        seen = 2 * imnet_dim if mod_input else near + far
        self.splits = (imnet_dim * imnet_depth, imnet_dim * imnet_depth, seen)
        self.hypernet_q = MLP(near + far, [hyper_dim], sum(self.splits) if mod_input else 2 * imnet_dim * imnet_depth)
        self.prenet_q = MLP(9 * c, [hidden_dim], near)
        self.imnet_q = LMMLP(seen + 2, 3, imnet_dim, imnet_depth)

    @property
    def last_layer(self) -> nn.Linear:
        return cast(nn.Linear, self.imnet_q.layers[-1])

    def modulations(self, feat: Tensor, cell: Tensor) -> Tensor:
        """Per layer scales, per layer shifts, render features."""
        b, _, h, w = feat.shape
        far = self.cs_attn(feat).permute(0, 2, 3, 1).flatten(0, 2) if self.non_local_attn else None
        around = unfolded(feat).flatten(0, 2)
        relative = (cell * cell.new_tensor([h, w])).repeat_interleave(h * w, dim=0)
        pixel = cell.new_tensor([1 / h, 1 / w])
        parts = []
        for start in range(0, len(around), AT_A_TIME):
            of = slice(start, start + AT_A_TIME)
            parts.append(self._described(around[of], None if far is None else far[of], relative[of], pixel))
        return torch.cat(parts).view(b, h, w, -1)

    def _described(self, around: Tensor, far: Tensor | None, cell: Tensor, pixel: Tensor) -> Tensor:
        """Latent pixels (N, M) from the features around them.

        Args:
            around: (N, 9 C), as `unfolded` gives them.
            far: (N, C * scales) by attention across scales.
            cell: (N, 2), in latent pixels.
            pixel: (2,), 1 / (h, w): how far the published code puts a neighbour, in latent pixels.
        """
        # The published code takes the (C, 3, 3) of an unfolded pixel for (3, 3, C), and so do its weights.
        grid = around.unflatten(-1, (3, 3, -1))
        keys, values = [], []
        for vx, vy in product((-1, 1), repeat=2) if self.local_size == 2 else [(0, 0)]:
            t, left = max(vy, 0), max(vx, 0)
            key = grid[:, t : t + 2, left : left + 2].flatten(1)
            value = key if far is None else torch.cat([key, far.to(key)], dim=-1)
            place = torch.cat([(pixel * pixel.new_tensor([-vx, -vy])).expand_as(cell), cell], dim=-1).to(key)
            keys.append(key * self.imnet_k(torch.cat([key, place], dim=-1)))
            values.append(value * self.imnet_v(torch.cat([value, place], dim=-1)))
        query = self.prenet_q(around)[:, None]
        scores = query @ torch.stack(keys, dim=-1) / self.softmax_scale
        found = (scores.softmax(dim=-1) @ torch.stack(values, dim=1))[:, 0]
        mod = self.hypernet_q(found)
        return mod if self.mod_input else torch.cat([mod, found], dim=-1)

    def _render(self, own: Tensor, rel: Tensor, cell: Tensor) -> Tensor:
        scale, shift, feat = own.split(self.splits, dim=-1)
        seen = torch.cat([feat, rel], dim=-1).flatten(0, -2)
        return self.imnet_q(seen, scale.flatten(0, -2), shift.flatten(0, -2))
