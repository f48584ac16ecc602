"""LM-LTE's render network on processors, one window after another, compiled by numba.

Of each latent pixel: sines and cosines of rows and columns apart, joined by the addition theorems; the layers with the
pixel's modulation folded in, whose sums stay in registers; the weighted colours added to the picture.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numba
import numpy as np
import torch
from torch import Tensor

from lorgnette.nn.compiled import FUSED, compiled, in_threads
from lorgnette.systems.superres.decoders.windows import WIDTH, Windows

f32 = np.float32
i32 = np.int32


@numba.njit(fastmath=FUSED, error_model="numpy")
def sinpi(t):
    """Sine of pi t, within two units of the last place of 1: pi t = pi n + pi r with |r| <= 1/2, and a polynomial."""
    n = np.floor(t + f32(0.5))
    r = t - n
    q = r * r
    p = f32(0.07721839)
    p = p * q + f32(-0.59804419)
    p = p * q + f32(2.55003119)
    p = p * q + f32(-5.16770687)
    p = p * q + f32(3.14159258)
    s = p * r
    return -s if i32(n) & i32(1) else s


@numba.njit(error_model="numpy")
def _part(wanted, i, rel, share):
    """Of the window of latent pixel i the places near wanted ones among i - 1, i and i + 1: [from, to)."""
    before, here, after = False, False, False
    for k in range(wanted.shape[1]):
        before |= i > 0 and wanted[i - 1, k] != 0
        here |= wanted[i, k] != 0
        after |= i + 1 < wanted.shape[0] and wanted[i + 1, k] != 0
    low = f32(-3) if before else f32(-1.001) if here else f32(0.999)
    high = f32(3) if after else f32(1.001) if here else f32(-0.999)
    start, stop = len(rel), 0
    for a in range(len(rel)):
        if share[a] != 0 and low <= rel[a] <= high:
            start, stop = min(start, a), a + 1
    return start, stop


def _render(
    mod,
    wanted,
    phase,
    weights,
    biases,
    last_weight,
    last_bias,
    y0,
    rel_y,
    part_y,
    x0,
    rel_x,
    part_x,
    out,
    odd,
    first,
    last,
):
    """Add the windows of the rows of latent pixels `2 task + odd`: those of such rows do not overlap.

    mod (h, w, M); wanted (h, w), not 0 for latent pixels whose surroundings are asked for; phase (WIDTH / 2); weights
    (layers, WIDTH, WIDTH); windows as in `Windows`; out (3, H, W).
    """
    layers, half = weights.shape[0], WIDTH // 2
    ky, kx = rel_y.shape[1], rel_x.shape[1]
    most = (ky * kx + 15) // 16 * 16
    x, z, colour = np.zeros((WIDTH, most), f32), np.zeros((WIDTH, most), f32), np.zeros(most, f32)
    sin_y, cos_y, sin_x, cos_x = np.empty(ky, f32), np.empty(ky, f32), np.empty(kx, f32), np.empty(kx, f32)
    at_shift = layers * WIDTH
    at_coef = 2 * at_shift
    at_freq = at_coef + WIDTH
    for task in range(first, last):
        i = 2 * task + odd
        for j in range(mod.shape[1]):
            top, bottom = _part(wanted[:, max(0, j - 1) : j + 2], i, rel_y[i], part_y[i])
            left, right = _part(wanted[max(0, i - 1) : i + 2].T, j, rel_x[j], part_x[j])
            ky, kx = bottom - top, right - left
            if ky <= 0 or kx <= 0:
                continue
            n = (ky * kx + 15) // 16 * 16  # whole registers
            own = mod[i, j]
            for k in range(half):
                for a in range(ky):
                    t = own[at_freq + 2 * k] * rel_y[i, top + a] + phase[k]
                    sin_y[a] = sinpi(t)
                    cos_y[a] = sinpi(t + f32(0.5))
                for b in range(kx):
                    t = own[at_freq + 2 * k + 1] * rel_x[j, left + b]
                    sin_x[b] = sinpi(t)
                    cos_x[b] = sinpi(t + f32(0.5))
                c, s = own[at_coef + k], own[at_coef + half + k]
                for a in range(ky):
                    for b in range(kx):
                        x[k, a * kx + b] = c * (cos_y[a] * cos_x[b] - sin_y[a] * sin_x[b])
                        x[half + k, a * kx + b] = s * (sin_y[a] * cos_x[b] + cos_y[a] * sin_x[b])
            for layer in range(layers):
                for o in range(WIDTH):
                    gain = f32(1.0) + own[layer * WIDTH + o]
                    bias = gain * biases[layer, o] + own[at_shift + layer * WIDTH + o]
                    row = weights[layer, o]
                    # Written out, so that all sixteen weights and the sum are registers.
                    w0, w1, w2, w3 = gain * row[0], gain * row[1], gain * row[2], gain * row[3]
                    w4, w5, w6, w7 = gain * row[4], gain * row[5], gain * row[6], gain * row[7]
                    w8, w9, wa, wb = gain * row[8], gain * row[9], gain * row[10], gain * row[11]
                    wc, wd, we, wf = gain * row[12], gain * row[13], gain * row[14], gain * row[15]
                    for p in range(n):
                        total = bias + w0 * x[0, p] + w1 * x[1, p] + w2 * x[2, p] + w3 * x[3, p]
                        total = total + w4 * x[4, p] + w5 * x[5, p] + w6 * x[6, p] + w7 * x[7, p]
                        total = total + w8 * x[8, p] + w9 * x[9, p] + wa * x[10, p] + wb * x[11, p]
                        total = total + wc * x[12, p] + wd * x[13, p] + we * x[14, p] + wf * x[15, p]
                        z[o, p] = max(total, f32(0.0))
                x, z = z, x
            for channel in range(3):
                for p in range(n):
                    colour[p] = last_bias[channel]
                for o in range(WIDTH):
                    weight = last_weight[channel, o]
                    for p in range(n):
                        colour[p] += weight * x[o, p]
                for a in range(min(ky, out.shape[1] - y0[i] - top)):
                    for b in range(min(kx, out.shape[2] - x0[j] - left)):
                        share = part_y[i, top + a] * part_x[j, left + b]
                        out[channel, y0[i] + top + a, x0[j] + left + b] += share * colour[a * kx + b]


_WINDOWS = "i8[::1], f4[:,::1], f4[:,::1]"


@functools.cache
def render_kernel() -> Callable[..., None]:
    """`_render`, compiled: some seconds for the first time on a machine."""
    network = "f4[:,:,::1], u1[:,::1], f4[::1], f4[:,:,::1], f4[:,::1], f4[:,::1], f4[::1]"
    return compiled(_render, f"void({network}, {_WINDOWS}, {_WINDOWS}, f4[:,:,::1], i8, i8, i8)")


def colours(
    mod: Tensor,
    y: Windows,
    x: Windows,
    phase: Tensor,
    matrices: Sequence[tuple[Tensor, Tensor]],
    wanted: Tensor | None = None,
) -> Tensor:
    """What all latent pixels say of a picture, (3, H, W).

    Args:
        mod: (h, w, M): scales and shifts of all layers, coefficients, frequencies.
        y: windows of the rows.
        x: windows of the columns.
        phase: (WIDTH / 2,), added to the angles, in halves of a turn.
        matrices: weight and bias of each layer of the render network.
        wanted: (h, w) bool: as for `lorgnette.systems.superres.decoders.windows.summed`.
    """
    some = mod.new_ones(mod.shape[:2], dtype=torch.uint8) if wanted is None else wanted.byte()
    (*weights, last_weight), (*biases, last_bias) = zip(*matrices, strict=True)
    network = phase, torch.stack(weights), torch.stack(biases), last_weight, last_bias
    given = [tensor.detach().contiguous().numpy() for tensor in (mod, some, *network, *y[:3], *x[:3])]
    out = torch.zeros(3, y.size, x.size)
    for odd in (0, 1):
        in_threads(render_kernel(), (len(mod) + 1 - odd) // 2, *given, out.numpy(), odd)
    return out
