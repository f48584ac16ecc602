"""The scan step by step, as its formula reads: slow, differentiable in everything, the measure of the other ways."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_order(size: tuple[int, int], direction: int, device: torch.device | None = None) -> Tensor:
    """(L,) int64: which pixel (row by row) comes at each step of a direction."""
    h, w = size
    order = torch.arange(h * w, device=device)
    if direction % 2:
        order = order.view(h, w).t().flatten()
    return order.flip(0) if direction >= 2 else order


def reference_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    size: tuple[int, int],
    directions: Sequence[int],
) -> Tensor:
    """See `lorgnette.nn.selective_scan.selective_scan`."""
    wide = torch.promote_types(u.dtype, torch.float32)
    u_BLD, dt_BLKD, B_BLKN, C_BLKN = (x.to(wide) for x in (u, dt, B, C))
    A, D, dt_bias = A.to(wide), D.to(wide), dt_bias.to(wide)
    total = torch.zeros_like(u_BLD)
    for k, direction in enumerate(directions):
        order = pixel_order(size, direction, u.device)
        step_BLD = F.softplus(dt_BLKD[:, order, k] + dt_bias[k])
        along_BLD, B_BLN, C_BLN = u_BLD[:, order], B_BLKN[:, order, k], C_BLKN[:, order, k]
        h_BDN = u_BLD.new_zeros(u.shape[0], u.shape[2], A.shape[2])
        steps = []
        for t in range(order.numel()):
            decay_BDN = torch.exp(step_BLD[:, t, :, None] * A[k])
            h_BDN = decay_BDN * h_BDN + (step_BLD[:, t] * along_BLD[:, t])[:, :, None] * B_BLN[:, t, None]
            steps.append(torch.einsum("bdn,bn->bd", h_BDN, C_BLN[:, t]))
        y_BLD = torch.stack(steps, dim=1) + D[k] * along_BLD
        total = total.index_add(1, order, y_BLD)
    return total.to(u.dtype)
