"""LTE and LM-LTE: local Fourier features, decoded by one network for all, or by a tiny one modulated per latent pixel.

Lee and Jin, "Local Texture Estimator for Implicit Representation Function", CVPR 2022; He and Jin, "Latent Modulated
Function for Computational Optimal Continuous Image Representation", CVPR 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from lorgnette.nn.compiled import NUMBA
from lorgnette.systems.superres.coords import grid_size, make_coord
from lorgnette.systems.superres.decoders.continuous import ContinuousImage, _precise, waves
from lorgnette.systems.superres.decoders.mlp import LMMLP, MLP
from lorgnette.systems.superres.decoders.windows import WIDTH, Windows

if TYPE_CHECKING:
    from lorgnette.systems.superres.encoders import Encoder


class LTE(ContinuousImage):
    """Local texture estimator.

    Args:
        encoder: (B, 3, h, w) -> (B, encoder.out_dim, h, w).
        hidden_dim: width of the Fourier features.
        hidden: widths of the render network's hidden layers.
    """

    def __init__(self, encoder: Encoder, hidden_dim: int = 256, hidden: Sequence[int] = (256,) * 3):
        super().__init__(encoder)
        self.coef = nn.Conv2d(encoder.out_dim, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(encoder.out_dim, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        self.imnet = MLP(hidden_dim, hidden, 3)

    @property
    def last_layer(self) -> nn.Linear:
        return cast(nn.Linear, self.imnet.layers[-1])

    def modulations(self, feat: Tensor, cell: Tensor) -> Tensor:
        """Coefficients and frequencies."""
        return torch.cat([self.coef(feat), self.freq(feat)], dim=1).permute(0, 2, 3, 1)

    def _render(self, own: Tensor, rel: Tensor, cell: Tensor) -> Tensor:
        coef, freq = own.chunk(2, dim=-1)
        return self.imnet((coef * waves(freq, rel, self.phase(cell))).flatten(0, -2))


class LMLTE(ContinuousImage):
    """Latent modulated local texture estimator.

    Args:
        encoder: (B, 3, h, w) -> (B, encoder.out_dim, h, w).
        hidden_dim: width of the latent Fourier features.
        imnet_dim: width of the render network.
        imnet_depth: number of its hidden layers.
        local_ensemble: as in `ContinuousImage`.
        cell_decode: as in `ContinuousImage`.
        mod_input: the render network sees coefficients and frequencies that the hypernetwork has made few
            (`imnet_dim`); without, those of the latent pixel.

    Attributes:
        feat: (B, C, h, w), features of the image that `gen_feats` saw last, without gradients.
        feat_coord: (1, 2, h, w), the centres of its pixels.
    """

    feat: Tensor
    feat_coord: Tensor

    def __init__(
        self,
        encoder: Encoder,
        hidden_dim: int = 128,
        imnet_dim: int = 16,
        imnet_depth: int = 8,
        local_ensemble: bool = True,
        cell_decode: bool = True,
        mod_input: bool = True,
    ):
        super().__init__(encoder, local_ensemble, cell_decode)
        self.mod_input = mod_input
        self.coef = nn.Conv2d(encoder.out_dim, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(encoder.out_dim, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        seen = imnet_dim if mod_input else hidden_dim
        self.splits = (imnet_dim * imnet_depth, imnet_dim * imnet_depth, seen, seen)
        made = sum(self.splits) if mod_input else 2 * imnet_dim * imnet_depth
        self.hypernet = MLP(hidden_dim, [made], made)
        if mod_input:
            self.imphase = nn.Linear(2, imnet_dim // 2, bias=False)
        self.imnet = LMMLP(seen, 3, imnet_dim, imnet_depth)

    @property
    def last_layer(self) -> nn.Linear:
        return cast(nn.Linear, self.imnet.layers[-1])

    def gen_feats(self, inp: Tensor) -> tuple[Tensor, Tensor]:
        """(coefficients, frequencies) of an image, each (B, hidden_dim, h, w); see `feat` and `feat_coord` too."""
        feat = self.encoder(inp)
        h, w = feat.shape[-2:]
        self.feat = feat.detach()
        self.feat_coord = make_coord((h, w), feat.device).T.view(1, 2, h, w)
        return self.coef(feat), self.freq(feat)

    def gen_modulations(self, coef: Tensor, freq: Tensor, cell: Tensor | None = None) -> Tensor:
        """What `modulations` gives, (B, M, h, w), from what `gen_feats` gives.

        Args:
            coef: (B, hidden_dim, h, w).
            freq: (B, hidden_dim, h, w).
            cell: (B, 2), or (B, Q, 2) as for `forward`. None: a quarter of a pixel.
        """
        h, w = coef.shape[-2:]
        if cell is None:
            cell = coef.new_tensor([0.5 / h, 0.5 / w]).expand(len(coef), 2)
        elif cell.ndim == 3:
            cell = cell[:, 0]
        return self._modulated(coef, freq, cell).permute(0, 3, 1, 2)

    def modulations(self, feat: Tensor, cell: Tensor) -> Tensor:
        """What the render network needs to know of each latent pixel.

        Args:
            feat: (B, C, h, w) features.
            cell: (B, 2).

        Returns:
            (B, h, w, M): per layer scales, per layer shifts, render coefficients, render frequencies.
        """
        return self._modulated(self.coef(feat), self.freq(feat), cell)

    def _modulated(self, coef: Tensor, freq: Tensor, cell: Tensor) -> Tensor:
        size = grid_size(coef).to(cell)
        coef = coef.permute(0, 2, 3, 1)
        freq = _precise(freq.permute(0, 2, 3, 1))
        phase = self.phase(cell * size)[:, None, None] if self.cell_decode else None
        mod = self.hypernet(waves(freq, None, phase) * coef)
        return mod if self.mod_input else torch.cat([mod, coef, freq], dim=-1)

    def _render(self, own: Tensor, rel: Tensor, cell: Tensor) -> Tensor:
        scale, shift, coef, freq = own.split(self.splits, dim=-1)
        x = coef * waves(freq, rel, self._render_phase(cell))
        return self.imnet(x.flatten(0, -2), scale.flatten(0, -2), shift.flatten(0, -2))

    def _window_colours(self, own: Tensor, rel_y: Tensor, rel_x: Tensor, cell: Tensor) -> Tensor:
        if not self.imnet.is_matrices:
            return super()._window_colours(own, rel_y, rel_x, cell)
        scale, shift, coef, freq = own.split(self.splits, dim=-1)
        at_y, at_x = math.pi * freq[:, 0::2, None] * rel_y[:, None], math.pi * freq[:, 1::2, None] * rel_x[:, None]
        if (phase := self._render_phase(cell)) is not None:
            at_y = at_y + math.pi * phase[:, None]
        # Rows and columns apart, joined by the addition theorems: few sines and cosines.
        (cos_y, sin_y), (cos_x, sin_x) = ((at.cos(), at.sin()) for at in (at_y[..., None], at_x[..., None, :]))
        waves = torch.cat([cos_y * cos_x - sin_y * sin_x, sin_y * cos_x + cos_y * sin_x], dim=1)
        colours = self.imnet.in_windows((coef[..., None, None] * waves).flatten(2), scale, shift)
        return colours.unflatten(2, (rel_y.shape[1], rel_x.shape[1]))

    def _colours(
        self, mod: Tensor, y: Windows, x: Windows, cell: Tensor, chunk: int, wanted: Tensor | None = None
    ) -> Tensor:
        phase = self._render_phase(cell)
        if phase is None or not self._has_kernel(mod):
            return super()._colours(mod, y, x, cell, chunk, wanted)
        from lorgnette.systems.superres.decoders.kernel import colours

        return colours(mod, y, x, phase, self.imnet.matrices(), wanted)

    def _render_phase(self, cell: Tensor) -> Tensor | None:
        """What the size of a pixel adds to the render network's angles, in halves of a turn."""
        return (self.imphase if self.mod_input else self.phase)(cell) if self.cell_decode else None

    def _has_kernel(self, mod: Tensor) -> bool:
        tensors = mod, *(parameter for parameter in self.imnet.parameters())
        return (
            NUMBA
            and self.splits[2:] == (WIDTH, WIDTH)
            and self.imnet.hidden_dim == WIDTH
            and self.imnet.is_matrices
            and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
            and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
            and not (torch.compiler.is_compiling() or torch._C._is_tracing())
        )
