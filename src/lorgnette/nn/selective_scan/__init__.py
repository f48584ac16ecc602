"""The selective scan of Mamba over images: one function, and one file for each way to compute it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lorgnette.nn.compiled import NUMBA

DIRECTIONS = (0, 1, 2, 3)
TRITON = importlib.util.find_spec("triton") is not None
WAYS = ("numba", "triton", "blocked", "doubling", "looped", "unrolled", "reference")


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
    way: str | None = None,
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
        way: 'numba' (processors, float32), 'triton' (CUDA), 'blocked' (plain torch), 'doubling' (plain torch in few
            operations, which are traced), 'looped' (for export of any size), 'unrolled' (of one size) or 'reference'.
            None: the quickest that serves.

    Returns:
        (batch, L, d) in the dtype of `u`: the sum over the directions, at the pixels.

    Raises:
        ValueError: shapes that do not fit each other, an unknown direction, or a way that is not there; one line.
    """
    _check(u, dt, A, B, C, D, dt_bias, size, directions)
    way = way or _quickest(u)
    scan = _ways(way)
    _check_place(way, u)
    return scan(u, dt, A, B, C, D, dt_bias, size, tuple(directions))


def _quickest(u: Tensor) -> str:
    compiling = torch.compiler.is_compiling()
    if torch.compiler.is_exporting():
        return "unrolled" if isinstance(u.shape[1], int) else "looped"  # what is exported does without our kernels
    if not compiling and torch._C._is_tracing():
        return "doubling"
    if u.device.type == "cpu" and u.dtype != torch.float64 and NUMBA:
        return "numba"
    if u.device.type == "cuda" and u.dtype != torch.float64 and TRITON:
        return "triton"
    return "doubling" if compiling else "blocked"


def _check_place(way: str, u: Tensor) -> None:
    place = {"numba": "cpu", "triton": "cuda"}.get(way, u.device.type)
    if u.device.type != place or (way in ("numba", "triton") and u.dtype == torch.float64):
        raise ValueError(
            f"way: {way!r} computes in float32 on {place}, and u is {u.dtype} on {u.device}; 'blocked' serves there"
        )


def _ways(name: str) -> Callable[..., Tensor]:
    if name == "numba":
        if not NUMBA:
            raise ValueError("way: 'numba' needs the package numba (pip install 'lorgnette[fast]')")
        from lorgnette.nn.selective_scan.numba_scan import numba_scan

        return numba_scan
    if name == "triton":
        if not TRITON:
            raise ValueError("way: 'triton' needs the package triton, which PyTorch's CUDA wheels bring along")
        from lorgnette.nn.selective_scan.triton_scan import triton_scan

        return triton_scan
    if name == "reference":
        from lorgnette.nn.selective_scan.reference import reference_scan

        return reference_scan
    if name in ("looped", "unrolled"):
        from lorgnette.nn.selective_scan import looped

        return looped.looped_scan if name == "looped" else looped.unrolled_scan
    from lorgnette.nn.selective_scan import blocked

    if name == "blocked":
        return blocked.blocked_scan
    if name == "doubling":
        return blocked.doubling_scan
    raise ValueError(f"way: {name!r} is not known; {', '.join(WAYS)} are")


def _check(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    size: tuple[int, int],
    directions: Sequence[int],
) -> None:
    if not directions or any(direction not in DIRECTIONS for direction in directions):
        raise ValueError(f"directions: {tuple(directions)} are not all among 0, 1, 2 and 3, at least one of them")
    if min(size) < 1:
        raise ValueError(f"size: {tuple(size)} is not (H, W) of an image; one pixel is the least")
    if A.ndim != 3:
        raise ValueError(f"A: {tuple(A.shape)} is not (K, d, N)")
    if u.ndim != 3 or size[0] * size[1] != u.shape[1]:
        raise ValueError(f"u: {tuple(u.shape)} is not (batch, L, d) with L = {size[0]} x {size[1]} pixels")
    batch, length, d = u.shape
    k, n = len(directions), A.shape[-1]
    wanted = {"dt": (batch, length, k, d), "A": (k, d, n), "B": (batch, length, k, n), "C": (batch, length, k, n),
              "D": (k, d), "dt_bias": (k, d)}  # fmt: skip
    for (name, shape), tensor in zip(wanted.items(), (dt, A, B, C, D, dt_bias), strict=True):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: {tuple(tensor.shape)} does not fit u; {shape} is needed")
