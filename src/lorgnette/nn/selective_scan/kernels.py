"""Kernels of the scan for processors, compiled by numba when they are first called.

They vectorise over `LANES` neighbouring channels and go through the pixels of each direction by index: nothing is
flipped, transposed or copied. A call does the tasks `first <= task < last`, each of which is one block of channels
of one image; tasks share no output, so that calls may run side by side (the interpreter's lock is released), and
the result is the same however they are spread.
"""

# pyright: reportMissingImports=false, reportCallIssue=false
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from lorgnette.nn.compiled import FUSED, compiled

LANES = 32
"""Channels a task works on side by side: two registers of 512 bits, four of 256."""
STRIDE = 32
"""Steps between the states that the forward pass keeps."""

f32 = np.float32
i32 = np.int32
_ORDERLESS = {"contract", "reassoc", "nsz"}  # and a sum may be formed in any order


@intrinsic
def _as_float(typing: Any, bits: Any) -> Any:
    """The float32 that has these bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return numba.types.float32(numba.types.int32), generate


@numba.njit(fastmath=FUSED, error_model="numpy")
def exp(x):
    """e to the power of x within 2 units of the last place; 0 below -87, NaN stays NaN.

    x = n ln 2 + r with |r| <= ln 2 / 2, and a polynomial for e^r (Cephes, expf).
    """
    x = f32(-87.5) if x < f32(-87.5) else x
    x = f32(88.0) if x > f32(88.0) else x
    n = np.floor(x * f32(1.44269504) + f32(0.5))
    r = x - n * f32(0.693359375)
    r = r + n * f32(2.12194440e-4)
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    p = p * r * r + r + f32(1.0)
    power = p * _as_float((i32(n) + i32(127)) << i32(23))
    return f32(0.0) if x < f32(-87.0) else power


@numba.njit(fastmath=FUSED, error_model="numpy")
def softplus(x):
    """log(1 + e^x), exact to float32 for any x: max(x, 0) + 2 artanh(e / (2 + e)) with e = e^-|x|."""
    e = exp(x if x < f32(0.0) else -x)
    t = e / (f32(2.0) + e)
    q = t * t
    s = f32(1 / 13)
    s = s * q + f32(1 / 11)
    s = s * q + f32(1 / 9)
    s = s * q + f32(1 / 7)
    s = s * q + f32(1 / 5)
    s = s * q + f32(1 / 3)
    s = s * q + f32(1.0)
    return f32(2.0) * t * s + (f32(0.0) if x < f32(0.0) else x)


@numba.njit(fastmath=FUSED, error_model="numpy")
def sigmoid(x):
    """1 / (1 + e^-x) without overflow."""
    e = exp(x if x < f32(0.0) else -x)
    return (e if x < f32(0.0) else f32(1.0)) / (f32(1.0) + e)


@numba.njit(fastmath=_ORDERLESS, error_model="numpy")
def _dot(a, b):
    total = f32(0.0)
    for c in range(LANES):
        total += a[c] * b[c]
    return total


@numba.njit
def _pixel(direction, step, h, w):
    """Which pixel comes at a step of a direction; see `reference.pixel_order`."""
    if direction >= 2:
        step = h * w - 1 - step
    return step if direction % 2 == 0 else (step % h) * w + step // h


@numba.njit(fastmath=FUSED, error_model="numpy")
def _load(values, to, start, count):
    for c in range(count):
        to[c] = values[start + c]


def _forward(u, dt, A, B, C, D, bias, h, w, directions, y, kept, first, last):
    """Fill `y` (zero before) and, where it has room, `kept` (batch, blocks, K, chunks, N, LANES)."""
    d, K, N = u.shape[2], A.shape[0], A.shape[2]
    blocks = (d + LANES - 1) // LANES
    state, rate = np.empty((N, LANES), f32), np.zeros((N, LANES), f32)
    x, gain, step = np.zeros(LANES, f32), np.zeros(LANES, f32), np.zeros(LANES, f32)
    out, skip, shift = np.zeros(LANES, f32), np.zeros(LANES, f32), np.zeros(LANES, f32)
    keep = kept.shape[3] > 0
    for task in range(first, last):
        b, block = task // blocks, task % blocks
        start = block * LANES
        count = min(LANES, d - start)
        for k in range(K):
            _load(D[k], skip, start, count)
            _load(bias[k], shift, start, count)
            for n in range(N):
                for c in range(LANES):
                    state[n, c] = f32(0.0)
                for c in range(count):
                    rate[n, c] = A[k, start + c, n]
            for t in range(h * w):
                if keep and t % STRIDE == 0:
                    for n in range(N):
                        for c in range(LANES):
                            kept[b, block, k, t // STRIDE, n, c] = state[n, c]
                p = _pixel(directions[k], t, h, w)
                _load(dt[b, p, k], step, start, count)
                _load(u[b, p], x, start, count)
                for c in range(LANES):
                    s = softplus(step[c] + shift[c])
                    step[c] = s
                    gain[c] = s * x[c]
                    out[c] = skip[c] * x[c]
                for n in range(N):
                    Bn, Cn = B[b, p, k, n], C[b, p, k, n]
                    for c in range(LANES):
                        s = exp(step[c] * rate[n, c]) * state[n, c] + gain[c] * Bn
                        state[n, c] = s
                        out[c] += s * Cn
                for c in range(count):
                    y[b, p, start + c] += out[c]


def _backward(
    grad, u, dt, A, B, C, D, bias, h, w, directions, kept, du, d_dt, dA, dB, dC, dD, d_bias, first, last
):  # fmt: skip
    """Fill the gradients: `du` (zero before), `d_dt`, and for each image `dA`, `dD`, `d_bias`; for each block of
    channels `dB` and `dC` (batch, blocks, L, K, N). The states are made again from those that were kept."""
    d, K, N, L = u.shape[2], A.shape[0], A.shape[2], h * w
    blocks = (d + LANES - 1) // LANES
    state, rate = np.empty((N, LANES), f32), np.zeros((N, LANES), f32)
    before, decay = np.empty((STRIDE, N, LANES), f32), np.empty((STRIDE, N, LANES), f32)
    steps, xs, raws = np.zeros((STRIDE, LANES), f32), np.zeros((STRIDE, LANES), f32), np.zeros((STRIDE, LANES), f32)
    d_state, d_rate = np.empty((N, LANES), f32), np.empty((N, LANES), f32)
    dy, gain, d_gain = np.zeros(LANES, f32), np.zeros(LANES, f32), np.zeros(LANES, f32)
    d_step, dx = np.zeros(LANES, f32), np.zeros(LANES, f32)
    now, d_now = np.zeros(LANES, f32), np.zeros(LANES, f32)
    skip, shift = np.zeros(LANES, f32), np.zeros(LANES, f32)
    d_skip, d_shift = np.zeros(LANES, f32), np.zeros(LANES, f32)
    for task in range(first, last):
        b, block = task // blocks, task % blocks
        start = block * LANES
        count = min(LANES, d - start)
        for c in range(LANES):  # a task with fewer channels must not see those of the one before
            dy[c] = f32(0.0)
            for i in range(STRIDE):
                xs[i, c] = f32(0.0)
                raws[i, c] = f32(0.0)
        for k in range(K):
            _load(D[k], skip, start, count)
            _load(bias[k], shift, start, count)
            for c in range(LANES):
                d_skip[c] = f32(0.0)
                d_shift[c] = f32(0.0)
            for n in range(N):
                for c in range(LANES):
                    d_state[n, c] = f32(0.0)
                    d_rate[n, c] = f32(0.0)
                for c in range(count):
                    rate[n, c] = A[k, start + c, n]
            for chunk in range((L - 1) // STRIDE, -1, -1):
                t0 = chunk * STRIDE
                length = min(STRIDE, L - t0)
                for n in range(N):
                    for c in range(LANES):
                        state[n, c] = kept[b, block, k, chunk, n, c]
                for i in range(length):
                    p = _pixel(directions[k], t0 + i, h, w)
                    _load(dt[b, p, k], raws[i], start, count)
                    _load(u[b, p], xs[i], start, count)
                    for c in range(LANES):
                        raw = raws[i, c] + shift[c]
                        raws[i, c] = raw
                        s = softplus(raw)
                        steps[i, c] = s
                        gain[c] = s * xs[i, c]
                    for n in range(N):
                        Bn = B[b, p, k, n]
                        for c in range(LANES):
                            e = exp(steps[i, c] * rate[n, c])
                            decay[i, n, c] = e
                            s = state[n, c]
                            before[i, n, c] = s
                            state[n, c] = e * s + gain[c] * Bn
                for i in range(length - 1, -1, -1):
                    p = _pixel(directions[k], t0 + i, h, w)
                    _load(grad[b, p], dy, start, count)
                    for c in range(LANES):
                        dx[c] = dy[c] * skip[c]
                        d_skip[c] += dy[c] * xs[i, c]
                        gain[c] = steps[i, c] * xs[i, c]
                        d_gain[c] = f32(0.0)
                        d_step[c] = f32(0.0)
                    for n in range(N):
                        Bn, Cn = B[b, p, k, n], C[b, p, k, n]
                        for c in range(LANES):
                            e, s = decay[i, n, c], before[i, n, c]
                            now[c] = e * s + gain[c] * Bn
                            g = d_state[n, c] + dy[c] * Cn
                            d_now[c] = g
                            d_gain[c] += g * Bn
                            d_exponent = g * s * e
                            d_step[c] += d_exponent * rate[n, c]
                            d_rate[n, c] += d_exponent * steps[i, c]
                            d_state[n, c] = g * e
                        dC[b, block, p, k, n] = _dot(dy, now)
                        dB[b, block, p, k, n] = _dot(d_now, gain)
                    for c in range(LANES):
                        dx[c] += d_gain[c] * steps[i, c]
                        s = (d_step[c] + d_gain[c] * xs[i, c]) * sigmoid(raws[i, c])
                        d_step[c] = s
                        d_shift[c] += s
                    for c in range(count):
                        d_dt[b, p, k, start + c] = d_step[c]
                        du[b, p, start + c] += dx[c]
            for c in range(count):
                dD[b, k, start + c] = d_skip[c]
                d_bias[b, k, start + c] = d_shift[c]
                for n in range(N):
                    dA[b, k, start + c, n] = d_rate[n, c]


# dt, B and C may be views with strides, everything else is contiguous: one signature each, so that it is compiled once.
_INPUTS = "f4[:,:,::1], f4[:,:,:,:], f4[:,:,::1], f4[:,:,:,:], f4[:,:,:,:], f4[:,::1], f4[:,::1], i8, i8, i8[::1]"
_KEPT = "f4[:,:,:,:,:,::1]"
_GRADIENTS = "f4[:,:,::1], f4[:,:,:,::1], f4[:,:,:,::1], f4[:,:,:,:,::1], f4[:,:,:,:,::1], f4[:,:,::1], f4[:,:,::1]"


@functools.cache
def forward_kernel() -> Callable[..., None]:
    """`_forward`, compiled: some seconds for the first time on a machine."""
    return compiled(_forward, f"void({_INPUTS}, f4[:,:,::1], {_KEPT}, i8, i8)")


@functools.cache
def backward_kernel() -> Callable[..., None]:
    """`_backward`, compiled: some seconds for the first time on a machine."""
    return compiled(_backward, f"void(f4[:,:,::1], {_INPUTS}, {_KEPT}, {_GRADIENTS}, i8, i8)")
