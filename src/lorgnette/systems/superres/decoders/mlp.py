"""The small networks of the decoders: plain, and modulated per latent pixel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from lorgnette.lora import LoRALinear, effective_parameter


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

    def in_windows(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """The same for many points of each latent pixel: its modulation is folded into matrices of its own.

        Args:
            x: (P, in_dim, N).
            scale: (P, hidden_depth * hidden_dim).
            shift: (P, hidden_depth * hidden_dim).

        Returns:
            (P, out_dim, N).
        """
        *hidden, (last, bias) = self.matrices()
        parts = scale.split(self.hidden_dim, dim=-1), shift.split(self.hidden_dim, dim=-1)
        for (weight, offset), gain, moved in zip(hidden, *parts, strict=True):
            gain = 1 + gain
            x = torch.baddbmm((gain * offset + moved)[..., None], gain[..., None] * weight, x).relu()
        return torch.baddbmm(bias[:, None], last.expand(len(x), *last.shape), x)

    def matrices(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each layer, those of its adapter in them."""
        layers = cast(list[nn.Linear], list(self.layers)[::2])
        return [(effective_parameter(layer, "weight"), layer.bias) for layer in layers]

    @property
    def is_matrices(self) -> bool:
        """Whether its layers do now what `matrices` do: no dropout, no rank that depends on the input, no hook."""
        return all(
            type(layer) is nn.Linear or (isinstance(layer, LoRALinear) and layer.lora_method.merges)
            for layer in list(self.layers)[::2]
        ) and not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in self.modules())
