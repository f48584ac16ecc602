"""The selective scan of Mamba over images: one function, and one file for each way to compute it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lorgnette.nn.selective_scan.reference import reference_scan

DIRECTIONS = (0, 1, 2, 3)


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    size: tuple[int, int],
    directions: Sequence[int] = DIRECTIONS,
) -> Tensor:
    """Scan an image along several directions and add up what they give.

    For each direction `k` and channel, along the pixels in that direction's order (Gu and Dao, Mamba,
    arXiv 2312.00752, eq. 2 and 3, with the Euler form of the discretised B):

        step = softplus(dt + dt_bias)
        h    = exp(step A) h + step B u
        y   += C h + D u

    The state `h` is float32 whatever the dtype of `u` (float64 for float64).

    Args:
        u: (batch, L, d), the L = H W pixels row by row.
        dt: (batch, L, K, d), step sizes before bias and softplus, at the pixel they belong to.
        A: (K, d, N), negative.
        B: (batch, L, K, N), at the pixel it belongs to.
        C: (batch, L, K, N), at the pixel it belongs to.
        D: (K, d).
        dt_bias: (K, d).
        size: (H, W) of the image. (1, L) is a plain sequence.
        directions: one of K numbers for each direction: 0 row by row, 1 column by column, 2 and 3 the same backwards.

    Returns:
        (batch, L, d) in the dtype of `u`: the sum over the directions, at the pixels.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    from lorgnette.nn.selective_scan.numba_scan import numba_scan

    return numba_scan(u, dt, A, B, C, D, dt_bias, size, tuple(directions))
