"""Factors that start as a part of the base itself: PiSSA and OLoRA.

Both published methods take the part out of the frozen weight. Here `weight` stays as it is: the factors at the
start are kept frozen as `lora_A0` and `lora_B0`, and the layer applies `W + s (B A - B0 A0)`, which is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig


@torch.no_grad()
def start_from_base(adapter: nn.Module, matrices: Tensor, config: LoRAConfig) -> None:
    """Set both factors of an adapter from its weight as matrices `(..., out, in)`, and keep a frozen copy of them.

    'pissa' takes the strongest singular triples, shared evenly between A and B (Meng et al., arXiv 2404.02948);
    'pissa_niter_N' finds them by N rounds of randomised subspace iteration; 'olora' takes the first columns of Q
    and rows of R of a QR decomposition (Buyukakyuz, arXiv 2406.01775). `s B0 A0` is that part of the weight.
    """
    matrix = matrices.detach().to(torch.promote_types(matrices.dtype, torch.float32))
    method, r = str(config.init_lora_weights), config.r
    if method == "olora":
        Q, R = torch.linalg.qr(matrix)
        up, down = Q[..., :r], R[..., :r, :]
    else:
        if method == "pissa":
            U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
        else:
            U, S, V = torch.svd_lowrank(matrix, min(2 * r, *matrix.shape[-2:]), niter=int(method.rpartition("_")[2]))
            Vh = V.mT
        root = S[..., :r].sqrt()
        up, down = U[..., :r] * root[..., None, :], root[..., None] * Vh[..., :r, :]
    share = config.scaling**-0.5
    for name, value in (("lora_A", down), ("lora_B", up)):
        factor = adapter.get_parameter(name)
        factor.copy_((value * share).view(factor.shape))
        setattr(adapter, f"{name}0", nn.Parameter(factor.detach().clone(), requires_grad=False))
