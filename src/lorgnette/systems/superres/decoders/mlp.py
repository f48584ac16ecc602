"""The small networks of the decoders: plain, and modulated per latent pixel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between them, on the last dimension."""

    def __init__(self, in_dim: int, hidden: Sequence[int], out_dim: int):
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
