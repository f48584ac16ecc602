"""The render network of LM-LTE on a dense grid of points, forward and backward in one kernel each (Triton).

Every low-resolution pixel renders the 4 x 4 points around it that the training looks at: two in each of the two
cells, up and down, left and right, that it is a corner of. Nothing is gathered, and what lies between the layers
never leaves the registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDTH, DEPTH, POINTS = 16, 8, 16
PIXELS, WARPS, BACK_PIXELS, BACK_WARPS = 8, 4, 4, 4  # low-resolution pixels of one block, and its warps, there and back
MOD = 2 * DEPTH * WIDTH + 2 * WIDTH


@triton.jit
def _matrix(w, layer: tl.constexpr, ch, transposed: tl.constexpr):
    """(16, 16) weights of a layer: (out, in), or (in, out)."""
    if transposed:
        return tl.load(w + layer * 256 + ch[None, :] * 16 + ch[:, None])
    return tl.load(w + layer * 256 + ch[:, None] * 16 + ch[None, :])


@triton.jit
def _dot(a, b):
    return tl.dot(a, b, input_precision="tf32")


@triton.jit
def _linear(x, w, bias, layer: tl.constexpr, ch):
    return _dot(x, _matrix(w, layer, ch, True)) + tl.load(bias + layer * 16 + ch)[None, :]


@triton.jit
def _hidden(x, w, bias, row, layer: tl.constexpr, ch):
    y = _linear(x, w, bias, layer, ch)
    gain = tl.load(row + layer * 16).to(tl.float32)
    shift = tl.load(row + 128 + layer * 16).to(tl.float32)
    return tl.maximum(y * (1 + gain) + shift, 0.0)


@triton.jit
def _points(block, mod, ry, rx, wy, wx, phase, n, ch, R: tl.constexpr):
    """What a block's rows (pixel, point) start from."""
    r = tl.arange(0, R)
    t = block * (R // 16) + r // 16  # low-resolution pixel
    e = r % 16
    b = t // (n * n)
    at_y = (b * n + (t // n) % n) * 4 + e // 4
    at_x = (b * n + t % n) * 4 + e % 4
    rel_y, rel_x = tl.load(ry + at_y), tl.load(rx + at_x)
    weight = tl.load(wy + at_y) * tl.load(wx + at_x)
    row = mod + t[:, None] * 288 + ch[None, :]
    half = mod + t[:, None] * 288 + 272 + 2 * (ch[None, :] % 8)
    freq_y, freq_x = tl.load(half).to(tl.float32), tl.load(half + 1).to(tl.float32)
    angle = freq_y * rel_y[:, None] + freq_x * rel_x[:, None] + tl.load(phase + b[:, None] * 8 + ch[None, :] % 8)
    angle = angle - 2 * tl.floor(angle * 0.5 + 0.5)
    coef = tl.load(row + 256).to(tl.float32)
    quarter = tl.where(ch < 8, 0.5, 0.0)[None, :]  # cosines first, then sines
    wave = tl.sin(3.141592653589793 * (angle + quarter))
    return t, rel_y, rel_x, weight, row, angle + quarter, coef, wave


@triton.jit
def _forward(mod, inp, ry, rx, wy, wx, phase, w, bias, out, n, R: tl.constexpr):
    ch = tl.arange(0, 16)
    t, _rel_y, _rel_x, weight, row, _angle, coef, wave = _points(tl.program_id(0), mod, ry, rx, wy, wx, phase, n, ch, R)
    x = coef * wave
    for layer in tl.static_range(8):
        x = _hidden(x, w, bias, row, layer, ch)
    rgb = ch[None, :] < 3
    colour = _linear(x, w, bias, 8, ch) + tl.load(inp + t[:, None] * 3 + ch[None, :], mask=rgb, other=0.0)
    r = tl.program_id(0) * R + tl.arange(0, R)
    tl.store(out + r[:, None] * 3 + ch[None, :], colour * weight[:, None], mask=rgb)


@triton.jit
def _sum_points(x, R: tl.constexpr):
    return tl.sum(tl.reshape(x, (R // 16, 16, 16)), axis=1)


@triton.jit
def _hidden_back(grad, x, after, w, bias, row, into, layer: tl.constexpr, ch, R: tl.constexpr):
    y = _linear(x, w, bias, layer, ch)
    gain = tl.load(row + layer * 16).to(tl.float32)
    grad = tl.where(after > 0, grad, 0.0)
    tl.store(into + layer * 16, _sum_points(grad * y, R).to(into.dtype.element_ty))
    tl.store(into + 128 + layer * 16, _sum_points(grad, R).to(into.dtype.element_ty))
    grad = grad * (1 + gain)
    return _dot(grad, _matrix(w, layer, ch, False)), _dot(tl.trans(grad), x), tl.sum(grad, axis=0)


@triton.jit
def _backward(
    mod,
    ry,
    rx,
    wy,
    wx,
    phase,
    w,
    bias,
    grad_out,
    grad_mod,
    grad_angle,
    grad_w,
    grad_b,
    n,
    blocks,
    programs,
    nought,
    R: tl.constexpr,
):
    ch = tl.arange(0, 16)
    zero = tl.zeros((16, 16), tl.float32)
    nil = tl.zeros((16,), tl.float32)
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = zero, zero, zero, zero, zero, zero, zero, zero, zero
    b0, b1, b2, b3, b4, b5, b6, b7, b8 = nil, nil, nil, nil, nil, nil, nil, nil, nil
    pid = tl.program_id(0)
    every_w, every_bias = w, bias
    for block in range(pid, blocks, programs):
        # The same addresses each time, but the compiler cannot know: hoisted, the weights would fill the registers.
        w, bias = every_w + block * nought, every_bias + block * nought
        _t, rel_y, rel_x, weight, row, angle, coef, wave = _points(block, mod, ry, rx, wy, wx, phase, n, ch, R)
        x0 = coef * wave
        x1 = _hidden(x0, w, bias, row, 0, ch)
        x2 = _hidden(x1, w, bias, row, 1, ch)
        x3 = _hidden(x2, w, bias, row, 2, ch)
        x4 = _hidden(x3, w, bias, row, 3, ch)
        x5 = _hidden(x4, w, bias, row, 4, ch)
        x6 = _hidden(x5, w, bias, row, 5, ch)
        x7 = _hidden(x6, w, bias, row, 6, ch)
        x8 = _hidden(x7, w, bias, row, 7, ch)
        p = block * (R // 16) + tl.arange(0, R // 16)
        into = grad_mod + p[:, None] * 288 + ch[None, :]
        r = block * R + tl.arange(0, R)
        grad = tl.load(grad_out + r[:, None] * 3 + ch[None, :], mask=ch[None, :] < 3, other=0.0) * weight[:, None]
        w8 += _dot(tl.trans(grad), x8)
        b8 += tl.sum(grad, axis=0)
        grad = _dot(grad, _matrix(w, 8, ch, False))
        grad, dw, db = _hidden_back(grad, x7, x8, w, bias, row, into, 7, ch, R)
        w7 += dw
        b7 += db
        grad, dw, db = _hidden_back(grad, x6, x7, w, bias, row, into, 6, ch, R)
        w6 += dw
        b6 += db
        grad, dw, db = _hidden_back(grad, x5, x6, w, bias, row, into, 5, ch, R)
        w5 += dw
        b5 += db
        grad, dw, db = _hidden_back(grad, x4, x5, w, bias, row, into, 4, ch, R)
        w4 += dw
        b4 += db
        grad, dw, db = _hidden_back(grad, x3, x4, w, bias, row, into, 3, ch, R)
        w3 += dw
        b3 += db
        grad, dw, db = _hidden_back(grad, x2, x3, w, bias, row, into, 2, ch, R)
        w2 += dw
        b2 += db
        grad, dw, db = _hidden_back(grad, x1, x2, w, bias, row, into, 1, ch, R)
        w1 += dw
        b1 += db
        grad, dw, db = _hidden_back(grad, x0, x1, w, bias, row, into, 0, ch, R)
        w0 += dw
        b0 += db
        tl.store(into + 256, _sum_points(grad * wave, R).to(grad_mod.dtype.element_ty))
        grad = grad * coef * tl.cos(3.141592653589793 * angle) * 3.141592653589793
        side = grad_angle + p[:, None] * 48 + ch[None, :]
        tl.store(side, _sum_points(grad * rel_y[:, None], R))
        tl.store(side + 16, _sum_points(grad * rel_x[:, None], R))
        tl.store(side + 32, _sum_points(grad, R))
    at = grad_w + pid * 2304 + ch[:, None] * 16 + ch[None, :]
    tl.store(at, w0)
    tl.store(at + 256, w1)
    tl.store(at + 512, w2)
    tl.store(at + 768, w3)
    tl.store(at + 1024, w4)
    tl.store(at + 1280, w5)
    tl.store(at + 1536, w6)
    tl.store(at + 1792, w7)
    tl.store(at + 2048, w8)
    at_b = grad_b + pid * 144 + ch
    tl.store(at_b, b0)
    tl.store(at_b + 16, b1)
    tl.store(at_b + 32, b2)
    tl.store(at_b + 48, b3)
    tl.store(at_b + 64, b4)
    tl.store(at_b + 80, b5)
    tl.store(at_b + 96, b6)
    tl.store(at_b + 112, b7)
    tl.store(at_b + 128, b8)


class DenseRender(torch.autograd.Function):
    """mod (B, n, n, 288), inp (B, n, n, 3), offsets and weights (B, n, 4) each, phase (B, 8), stacked layers ->
    (B, n, n, 16, 3): what each pixel gives to its 4 x 4 points."""

    @staticmethod
    def forward(ctx, mod, inp, ry, rx, wy, wx, phase, w, bias):
        b, n = mod.shape[:2]
        blocks = b * n * n // PIXELS
        out = torch.empty(b, n, n, POINTS, 3, device=mod.device)
        _forward[(blocks,)](mod, inp, ry, rx, wy, wx, phase, w, bias, out, n, R=PIXELS * POINTS, num_warps=WARPS)
        ctx.save_for_backward(mod, ry, rx, wy, wx, phase, w, bias)
        return out

    @staticmethod
    def backward(ctx, grad_out):
        mod, ry, rx, wy, wx, phase, w, bias = ctx.saved_tensors
        b, n = mod.shape[:2]
        blocks = b * n * n // BACK_PIXELS
        programs = min(blocks, 132 * max(2, 8 // BACK_WARPS))
        grad_mod = torch.empty_like(mod)
        side = torch.empty(b, n, n, 48, device=mod.device)
        grad_w = torch.empty(programs, 9, 16, 16, device=mod.device)
        grad_b = torch.empty(programs, 9, 16, device=mod.device)
        _backward[(programs,)](
            mod,
            ry,
            rx,
            wy,
            wx,
            phase,
            w,
            bias,
            grad_out.contiguous(),
            grad_mod,
            side,
            grad_w,
            grad_b,
            n,
            blocks,
            programs,
            0,
            R=BACK_PIXELS * POINTS,
            num_warps=BACK_WARPS,
            num_stages=1,
        )
        side = side.view(b, n, n, 3, 2, 8).sum(-2)
        grad_mod[..., 272:] = side[..., :2, :].transpose(-1, -2).flatten(-2)
        return grad_mod, None, None, None, None, None, side[..., 2, :].sum((1, 2)), grad_w.sum(0), grad_b.sum(0)


def stacked(imnet: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """(9, 16, 16) and (9, 16): the layers of the render network, the last one padded with zeros."""
    linear = list(imnet.layers)[::2]
    w, b = [m.weight for m in linear], [m.bias for m in linear]
    w[-1] = torch.nn.functional.pad(w[-1], (0, 0, 0, WIDTH - 3))
    b[-1] = torch.nn.functional.pad(b[-1], (0, WIDTH - 3))
    return torch.stack(w), torch.stack(b)
