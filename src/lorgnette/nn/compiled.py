"""Kernels for processors that numba compiles when they are first called: no compiler has to be installed.

A kernel ends with the arguments `first, last`: it does the tasks `first <= task < last`. Tasks share no output, so that
calls may run side by side (the interpreter's lock is released), and the result is the same however they are spread.
"""

# pyright: reportMissingImports=false, reportCallIssue=false
from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

NUMBA = importlib.util.find_spec("numba") is not None
FUSED = {"contract"}
"""Fast math, as far as a product and a sum may become one operation."""


def compiled(function: Callable[..., None], signature: str) -> Callable[..., None]:
    """A kernel, compiled for one signature of numba's; some seconds for the first time on a machine."""
    import numba

    options = {"fastmath": FUSED, "error_model": "numpy", "nogil": True}
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except (RuntimeError, OSError):  # no folder it may write to, or a full disk: this process compiles for itself
        return numba.njit(signature, **options)(function)


def in_threads(kernel: Callable[..., None], tasks: int, *arguments: object) -> None:
    """Run all tasks of a kernel, in as many threads as torch uses."""
    import torch

    threads = min(torch.get_num_threads(), tasks)
    if threads <= 1:
        return kernel(*arguments, 0, tasks)
    bounds = [tasks * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: kernel(*arguments, *part), itertools.pairwise(bounds)))
