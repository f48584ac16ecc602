"""Factors that start as a part of the base itself: PiSSA and OLoRA.

Both published methods take the part out of the frozen weight. Here `weight` stays as it is: the factors at the
start are kept frozen as `lora_A0` and `lora_B0`, and the layer applies `W + s (B A - B0 A0)`, which is the same.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.layers.base import LORA_TENSORS, LowRank
from lorgnette.lora.layers.method import PLAIN, Method, Sizes

_STARTS = ("lora_A0", "lora_B0")


@dataclass(frozen=True)
class _FromBase(Method, ABC):
    """What both have in common. A file holds `A` and `A0` (`B` and `-B0`) side by side: a plain LoRA of rank 2r."""

    init: str
    """The setting `init_lora_weights`."""
    tensors = frozen = _STARTS
    fixed_rank = "keeps the factors that it started from, which are of one rank"
    peft = PLAIN.peft
    peft_rank = 2

    def asked_by(self, config: LoRAConfig) -> Method | None:
        init = str(config.init_lora_weights)
        asked = re.fullmatch(rf"{self.name}(_niter_\d+)?", init)
        return replace(self, init=init) if asked else super().asked_by(config)

    def settings(self) -> dict[str, Any]:
        return {"init_lora_weights": self.init}

    def why_not(self, sizes: Sizes, full_rank: int) -> str | None:
        if sizes.r > full_rank:
            return f"has rank {full_rank} at most: {self.title} cannot start with lora.r {sizes.r}"
        return None

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        return {"lora_A0": sizes.A, "lora_B0": sizes.B}

    def start(self, adapter: LowRank, weight: Tensor, config: LoRAConfig) -> None:
        matrix = adapter.matrices(weight).detach().to(torch.promote_types(weight.dtype, torch.float32))
        up, down = self.part_of(matrix, config.r)
        share = config.scaling**-0.5
        for name, value in (("lora_A", down), ("lora_B", up)):
            factor = adapter.get_parameter(name)
            factor.copy_((value * share).view(factor.shape))
            setattr(adapter, f"{name}0", nn.Parameter(factor.detach().clone(), requires_grad=False))

    @abstractmethod
    def part_of(self, matrix: Tensor, r: int) -> tuple[Tensor, Tensor]:
        """Factors `(..., out, r)` and `(..., r, in)`, whose product is a part of the matrix `(..., out, in)`."""

    def factors(self, adapter: LowRank, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        A0, B0 = (adapter.get_parameter(name) for name in _STARTS)
        down, up = adapter.rank_axes
        return torch.cat([A, A0], down), torch.cat([B, -B0], up)

    def product(self, adapter: LowRank, A: Tensor, B: Tensor) -> Tensor:
        # Apart, so that the difference at the start is exactly zero.
        A0, B0 = (adapter.matrices(adapter.get_parameter(name)).to(A.dtype) for name in _STARTS)
        return adapter.matrices(B).to(A.dtype) @ adapter.matrices(A) - B0 @ A0

    def packed(self, adapter: LowRank) -> dict[str, Tensor]:
        return dict(zip(LORA_TENSORS, adapter.factors(), strict=True))

    def unpacked(self, factor: str, value: Tensor, axis: int) -> dict[str, Tensor]:
        if value.dim() < 2 or value.shape[axis] % 2:
            return {factor: value}
        own, start = value.chunk(2, axis)
        return {factor: own, f"{factor}0": -start if factor == "lora_B" else start}


@dataclass(frozen=True)
class PiSSA(_FromBase):
    """The strongest singular triples, shared evenly between A and B (Meng et al., arXiv 2404.02948).

    'pissa_niter_N' finds them by N rounds of randomised subspace iteration.
    """

    name = "pissa"
    init: str = "pissa"

    def part_of(self, matrix: Tensor, r: int) -> tuple[Tensor, Tensor]:
        if self.init == "pissa":
            U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
        else:
            rounds = int(self.init.rpartition("_")[2])
            U, S, V = torch.svd_lowrank(matrix, min(2 * r, *matrix.shape[-2:]), niter=rounds)
            Vh = V.mT
        root = S[..., :r].sqrt()
        return U[..., :r] * root[..., None, :], root[..., None] * Vh[..., :r, :]


@dataclass(frozen=True)
class OLoRA(_FromBase):
    """The first columns of Q and rows of R of a QR decomposition (Buyukakyuz, arXiv 2406.01775)."""

    name = "olora"
    init: str = "olora"

    def part_of(self, matrix: Tensor, r: int) -> tuple[Tensor, Tensor]:
        Q, R = torch.linalg.qr(matrix)
        return Q[..., :r], R[..., :r, :]
