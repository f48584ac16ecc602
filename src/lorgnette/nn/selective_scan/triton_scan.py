"""The scan on CUDA, by Triton kernels; right in Triton's interpreter, and not yet timed on a GPU.

A program takes one direction of one image and a block of channels, and goes along the pixels with its states in
registers. It finds the pixels of its direction by index, so that nothing is flipped or transposed; softplus and the
skip are done on the way. Each direction has its own output, and one sum brings them together: no atomics, and so
the same bits each time. Half-precision inputs are read as they are, the states are float32.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CHANNELS = 16  # of a program
STRIDE = 32  # steps between the states that the forward pass keeps


def triton_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    size: tuple[int, int],
    directions: tuple[int, ...],
) -> Tensor:
    """See `lorgnette.nn.selective_scan.selective_scan`."""
    return _Scan.apply(u, dt, A.float(), B, C, D.float(), dt_bias.float(), size, directions)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u, dt, A, B, C, D, bias, size, directions) -> Tensor:  # type: ignore[override]
        u, dt, B, C = (_last_contiguous(x) for x in (u, dt, B, C))
        A, D, bias = (x.contiguous() for x in (A, D, bias))
        batch, length, d = u.shape
        k, n = len(directions), A.shape[2]
        chunks, blocks = -(-length // STRIDE), -(-d // CHANNELS)
        wide = 1 << (n - 1).bit_length()
        keep = any(ctx.needs_input_grad)
        kept = u.new_empty(batch, k, blocks, chunks if keep else 1, CHANNELS, wide, dtype=torch.float32)
        ys = u.new_empty(batch, k, length, d, dtype=torch.float32)
        order = torch.tensor(directions, dtype=torch.int32, device=u.device)
        grid = (batch * k * blocks,)
        with torch.cuda.device_of(u):  # Triton launches on the current device
            _on(grid, _forward)(
                u, dt, A, B, C, D, bias, order, ys, kept, *size, d, n, k, blocks, chunks,
                *u.stride()[:2], *dt.stride()[:3], *B.stride()[:3], *C.stride()[:3],
                KEEP=keep, CHANNELS=CHANNELS, WIDE=wide, STRIDE=STRIDE,
            )  # fmt: skip
        ctx.save_for_backward(u, dt, A, B, C, D, bias, order, kept)
        ctx.size = size
        return ys.sum(1).to(u.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        u, dt, A, B, C, D, bias, order, kept = ctx.saved_tensors
        grad = _last_contiguous(grad)
        batch, length, d = u.shape
        k, n, blocks, wide = len(order), A.shape[2], kept.shape[2], kept.shape[5]
        chunks = -(-length // STRIDE)
        grid = (batch * k * blocks,)
        f32 = {"dtype": torch.float32, "device": u.device}
        dus, d_dt = torch.empty(batch, k, length, d, **f32), torch.empty(batch, length, k, d, **f32)
        dA, dD, d_bias = (torch.empty(batch, *x.shape, **f32) for x in (A, D, bias))
        dB, dC = (torch.empty(batch, blocks, length, k, n, **f32) for _ in range(2))
        scratch = torch.empty(grid[0], STRIDE, CHANNELS, wide, **f32)
        with torch.cuda.device_of(u):
            _on(grid, _backward)(
                grad, u, dt, A, B, C, D, bias, order, kept, scratch, dus, d_dt, dA, dB, dC, dD, d_bias,
                *ctx.size, d, n, k, blocks, chunks,
                *grad.stride()[:2], *u.stride()[:2], *dt.stride()[:3], *B.stride()[:3], *C.stride()[:3],
                CHANNELS=CHANNELS, WIDE=wide, STRIDE=STRIDE,
            )  # fmt: skip
        gradients = dus.sum(1), d_dt, dA.sum(0), dB.sum(1), dC.sum(1), dD.sum(0), d_bias.sum(0)
        inputs = u, dt, A, B, C, D, bias
        return *(g.to(x.dtype) for g, x in zip(gradients, inputs, strict=True)), None, None


def _on(grid: tuple[int, ...], kernel: Any) -> Any:
    return kernel[grid]


def _last_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


@triton.jit
def _pixel(direction, step, h, w):
    step = tl.where(direction >= 2, h * w - 1 - step, step).to(tl.int64)
    return tl.where(direction % 2 == 0, step, (step % h) * w + step // h)


@triton.jit
def _softplus(x):
    e = tl.exp(-tl.abs(x))
    # log(1 + e) loses what is small beside 1: there it is e itself
    return tl.maximum(x, 0.0) + tl.where(e < 1e-4, e, tl.log(1.0 + e))


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def _forward(
    u, dt, A, B, C, D, bias, order, ys, kept, h, w, d, n, K, blocks, chunks,
    u_b, u_l, dt_b, dt_l, dt_k, B_b, B_l, B_k, C_b, C_l, C_k,
    KEEP: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)  # and so every offset: large images have more than 2^31 numbers
    block, k, b = program % blocks, (program // blocks) % K, program // (blocks * K)
    c, s = block * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, WIDE)
    real_c, real_s = c < d, s < n
    both = real_c[:, None] & real_s[None, :]
    rate = tl.load(A + (k * d + c)[:, None] * n + s[None, :], mask=both, other=0.0)
    skip = tl.load(D + k * d + c, mask=real_c, other=0.0)
    shift = tl.load(bias + k * d + c, mask=real_c, other=0.0)
    direction = tl.load(order + k)
    inside = tl.arange(0, CHANNELS)[:, None] * WIDE + s[None, :]
    state = tl.zeros((CHANNELS, WIDE), tl.float32)
    length = h * w
    for t in range(length):
        if KEEP and t % STRIDE == 0:
            tl.store(kept + ((program * chunks) + t // STRIDE) * CHANNELS * WIDE + inside, state)
        p = _pixel(direction, t, h, w)
        x = tl.load(u + b * u_b + p * u_l + c, mask=real_c, other=0.0).to(tl.float32)
        step = _softplus(
            tl.load(dt + b * dt_b + p * dt_l + k * dt_k + c, mask=real_c, other=0.0).to(tl.float32) + shift
        )
        B_t = tl.load(B + b * B_b + p * B_l + k * B_k + s, mask=real_s, other=0.0).to(tl.float32)
        C_t = tl.load(C + b * C_b + p * C_l + k * C_k + s, mask=real_s, other=0.0).to(tl.float32)
        state = tl.exp(step[:, None] * rate) * state + (step * x)[:, None] * B_t[None, :]
        y = tl.sum(state * C_t[None, :], 1) + skip * x
        tl.store(ys + ((b * K + k) * length + p) * d + c, y, mask=real_c)


@triton.jit
def _backward(
    grad, u, dt, A, B, C, D, bias, order, kept, scratch, dus, d_dt, dA, dB, dC, dD, d_bias,
    h, w, d, n, K, blocks, chunks,
    g_b, g_l, u_b, u_l, dt_b, dt_l, dt_k, B_b, B_l, B_k, C_b, C_l, C_k,
    CHANNELS: tl.constexpr, WIDE: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)  # and so every offset: large images have more than 2^31 numbers
    block, k, b = program % blocks, (program // blocks) % K, program // (blocks * K)
    c, s = block * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, WIDE)
    real_c, real_s = c < d, s < n
    both = real_c[:, None] & real_s[None, :]
    rate = tl.load(A + (k * d + c)[:, None] * n + s[None, :], mask=both, other=0.0)
    skip = tl.load(D + k * d + c, mask=real_c, other=0.0)
    shift = tl.load(bias + k * d + c, mask=real_c, other=0.0)
    direction = tl.load(order + k)
    inside = tl.arange(0, CHANNELS)[:, None] * WIDE + s[None, :]
    mine = scratch + program * STRIDE * CHANNELS * WIDE
    d_state = tl.zeros((CHANNELS, WIDE), tl.float32)
    d_rate = tl.zeros((CHANNELS, WIDE), tl.float32)
    d_skip = tl.zeros((CHANNELS,), tl.float32)
    d_shift = tl.zeros((CHANNELS,), tl.float32)
    length = h * w
    for turn in range(chunks):
        first = (chunks - 1 - turn) * STRIDE
        steps = tl.minimum(STRIDE, length - first)
        state = tl.load(kept + (program * chunks + chunks - 1 - turn) * CHANNELS * WIDE + inside)
        for i in range(steps):  # the states before each step of the chunk, once more
            tl.store(mine + i * CHANNELS * WIDE + inside, state)
            p = _pixel(direction, first + i, h, w)
            x = tl.load(u + b * u_b + p * u_l + c, mask=real_c, other=0.0).to(tl.float32)
            raw = tl.load(dt + b * dt_b + p * dt_l + k * dt_k + c, mask=real_c, other=0.0).to(tl.float32)
            step = _softplus(raw + shift)
            B_t = tl.load(B + b * B_b + p * B_l + k * B_k + s, mask=real_s, other=0.0).to(tl.float32)
            state = tl.exp(step[:, None] * rate) * state + (step * x)[:, None] * B_t[None, :]
        tl.debug_barrier()
        for j in range(steps):
            i = steps - 1 - j
            p = _pixel(direction, first + i, h, w)
            before = tl.load(mine + i * CHANNELS * WIDE + inside)
            dy = tl.load(grad + b * g_b + p * g_l + c, mask=real_c, other=0.0).to(tl.float32)
            x = tl.load(u + b * u_b + p * u_l + c, mask=real_c, other=0.0).to(tl.float32)
            raw = tl.load(dt + b * dt_b + p * dt_l + k * dt_k + c, mask=real_c, other=0.0).to(tl.float32) + shift
            step = _softplus(raw)
            B_t = tl.load(B + b * B_b + p * B_l + k * B_k + s, mask=real_s, other=0.0).to(tl.float32)
            C_t = tl.load(C + b * C_b + p * C_l + k * C_k + s, mask=real_s, other=0.0).to(tl.float32)
            gain = step * x
            decay = tl.exp(step[:, None] * rate)
            now = decay * before + gain[:, None] * B_t[None, :]
            adjoint = d_state + dy[:, None] * C_t[None, :]
            d_gain = tl.sum(adjoint * B_t[None, :], 1)
            d_state = adjoint * decay
            d_exponent = d_state * before
            d_rate += d_exponent * step[:, None]
            d_skip += dy * x
            d_raw = (tl.sum(d_exponent * rate, 1) + d_gain * x) * _sigmoid(raw)
            d_shift += d_raw
            at = ((b * blocks + block) * length + p) * K * n + k * n + s
            tl.store(dC + at, tl.sum(dy[:, None] * now, 0), mask=real_s)
            tl.store(dB + at, tl.sum(adjoint * gain[:, None], 0), mask=real_s)
            tl.store(dus + ((b * K + k) * length + p) * d + c, dy * skip + d_gain * step, mask=real_c)
            tl.store(d_dt + ((b * length + p) * K + k) * d + c, d_raw, mask=real_c)
        tl.debug_barrier()
    tl.store(dA + ((b * K + k) * d + c)[:, None] * n + s[None, :], d_rate, mask=both)
    tl.store(dD + (b * K + k) * d + c, d_skip, mask=real_c)
    tl.store(d_bias + (b * K + k) * d + c, d_shift, mask=real_c)
