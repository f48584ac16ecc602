"""The scan in plain torch operations, for every device and dtype, where no kernel serves.

`blocked_scan` cuts the pixels of a direction into chunks and goes through all chunks side by side: once for the state
at the end of each, then, from the right states, once more for the output. Channels are taken in blocks small enough
for a processor's cache, and nothing of the size pixels x channels x states is kept: the backward pass makes
the states again. `doubling_scan` combines neighbours at distances 1, 2, 4, ... (Hillis and Steele, 1986): more
work and memory in few operations, for graphs that are exported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.nn.selective_scan.reference import pixel_order

CHUNK = 32  # steps
BLOCK = 128  # channels


def blocked_scan(
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
    u_wide, steps, gains, B, C = prepared(u, dt, B, C, dt_bias)
    total = torch.zeros_like(u_wide)
    for k, direction in enumerate(directions):
        order = pixel_order(size, direction, u.device)
        along = [x[:, :, k].index_select(1, order) for x in (steps, gains, B, C)]
        total = total.index_add(1, order, _OneDirection.apply(*along, A[k].to(u_wide.dtype)))
    return (total + u_wide * D.to(u_wide.dtype).sum(0)).to(u.dtype)


def doubling_scan(
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
    u_wide, steps, gains, B, C = prepared(u, dt, B, C, dt_bias)
    total = u_wide * D.to(u_wide.dtype).sum(0)
    for k, direction in enumerate(directions):
        order = pixel_order(size, direction, u.device)
        step, gain, B_k, C_k = (
            x.index_select(1, order) for x in (steps[:, :, k], gains[:, :, k], B[:, :, k], C[:, :, k])
        )
        decay_BLDN = torch.exp(step[..., None] * A[k].to(step.dtype))
        state_BLDN = gain[..., None] * B_k[:, :, None]
        distance = 1
        while distance < order.numel():
            reached = state_BLDN[:, distance:] + decay_BLDN[:, distance:] * state_BLDN[:, :-distance]
            state_BLDN = torch.cat([state_BLDN[:, :distance], reached], dim=1)
            product = decay_BLDN[:, distance:] * decay_BLDN[:, :-distance]
            decay_BLDN = torch.cat([decay_BLDN[:, :distance], product], dim=1)
            distance *= 2
        y = (state_BLDN * C_k[:, :, None]).sum(-1)
        total = total + y.index_select(1, torch.argsort(order))
    return total.to(u.dtype)


def prepared(u: Tensor, dt: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor) -> tuple[Tensor, ...]:
    """Input, step sizes, step times input, B and C, all in float32 (float64 for float64)."""
    wide = torch.promote_types(u.dtype, torch.float32)
    u, dt, B, C = (x.to(wide) for x in (u, dt, B, C))
    steps = F.softplus(dt + dt_bias.to(wide))
    return u, steps, steps * u[:, :, None], B, C


class _OneDirection(torch.autograd.Function):
    """`h_t = exp(step_t A) h_(t-1) + gain_t B_t`, `y_t = C_t h_t` along one direction.

    step, gain: (batch, L, d); B, C: (batch, L, N); A: (d, N); gives (batch, L, d).
    """

    @staticmethod
    def forward(ctx: Any, step: Tensor, gain: Tensor, B: Tensor, C: Tensor, A: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(step, gain, B, C, A)
        length = step.shape[1]
        chunks = _chunks(length)
        B_TMN, C_TMN = _cut(B, chunks), _cut(C, chunks)
        parts = []
        for columns in _blocks(step.shape[2]):
            step_TMd, gain_TMd = _cut(step[..., columns], chunks), _cut(gain[..., columns], chunks)
            rate = A[columns]
            decays = [torch.exp_(step_Md[..., None] * rate) for step_Md in step_TMd]
            state = _first_states(decays, step_TMd, gain_TMd, B_TMN, rate, chunks)
            outs = []
            for t, decay in enumerate(decays):
                _advance(state, decay, gain_TMd[t], B_TMN[t])
                outs.append(torch.matmul(state, C_TMN[t][..., None])[..., 0])
            parts.append(_join(torch.stack(outs), chunks, length))
        return torch.cat(parts, dim=-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        step, gain, B, C, A = ctx.saved_tensors
        length, chunks = step.shape[1], _chunks(step.shape[1])
        B_TMN, C_TMN = _cut(B, chunks), _cut(C, chunks)
        d_steps, d_gains, d_A = [], [], []
        d_B, d_C = torch.zeros_like(B_TMN), torch.zeros_like(C_TMN)
        for columns in _blocks(step.shape[2]):
            step_TMd, gain_TMd = _cut(step[..., columns], chunks), _cut(gain[..., columns], chunks)
            grad_TMd, rate = _cut(grad[..., columns], chunks), A[columns]
            decays = [torch.exp_(step_Md[..., None] * rate) for step_Md in step_TMd]
            states = [_first_states(decays, step_TMd, gain_TMd, B_TMN, rate, chunks)]
            for t, decay in enumerate(decays):
                states.append(_advance(states[-1].clone(), decay, gain_TMd[t], B_TMN[t]))
            carried = _last_adjoints(decays, step_TMd, grad_TMd, C_TMN, rate, chunks)
            d_step, d_gain, d_rate = torch.empty_like(step_TMd), torch.empty_like(gain_TMd), torch.zeros_like(rate)
            for t in reversed(range(len(step_TMd))):
                adjoint_MdN = carried + grad_TMd[t][..., None] * C_TMN[t][:, None]
                d_C[t] += torch.matmul(grad_TMd[t][:, None], states[t + 1])[:, 0]
                d_B[t] += torch.matmul(gain_TMd[t][:, None], adjoint_MdN)[:, 0]
                d_gain[t] = torch.matmul(adjoint_MdN, B_TMN[t][..., None])[..., 0]
                carried = adjoint_MdN * decays[t]
                d_exponent = carried * states[t]
                d_step[t] = (d_exponent * rate).sum(-1)
                d_rate += (d_exponent * step_TMd[t][..., None]).sum(0)
            d_steps.append(_join(d_step, chunks, length))
            d_gains.append(_join(d_gain, chunks, length))
            d_A.append(d_rate)
        d_BC = (_join(x, chunks, length) for x in (d_B, d_C))
        return torch.cat(d_steps, -1), torch.cat(d_gains, -1), *d_BC, torch.cat(d_A)


def _advance(state: Tensor, decay: Tensor, gain: Tensor, B: Tensor) -> Tensor:
    """One step of all chunks, in place."""
    return state.mul_(decay).addcmul_(gain[..., None], B[:, None])


def _first_states(decays: list[Tensor], step: Tensor, gain: Tensor, B: Tensor, rate: Tensor, chunks: int) -> Tensor:
    """The state before each chunk, (batch * chunks, d, N): what each adds by itself, carried from one to the next."""
    state = step.new_zeros(step.shape[1], *rate.shape)
    for t, decay in enumerate(decays):
        _advance(state, decay, gain[t], B[t])
    return _carry(state, torch.exp(step.sum(0)[..., None] * rate), chunks, range(chunks))


def _last_adjoints(decays: list[Tensor], step: Tensor, grad: Tensor, C: Tensor, rate: Tensor, chunks: int) -> Tensor:
    """The same backwards: what reaches the end of each chunk from those behind it."""
    carried = step.new_zeros(step.shape[1], *rate.shape)
    for t, decay in reversed(list(enumerate(decays))):
        carried.addcmul_(grad[t][..., None], C[t][:, None]).mul_(decay)
    return _carry(carried, torch.exp(step.sum(0)[..., None] * rate), chunks, reversed(range(chunks)))


def _carry(own: Tensor, decay: Tensor, chunks: int, order: Any) -> Tensor:
    own, decay = (x.unflatten(0, (-1, chunks)) for x in (own, decay))
    reached, carried = torch.empty_like(own), torch.zeros_like(own[:, 0])
    for chunk in order:
        reached[:, chunk] = carried
        carried = own[:, chunk] + decay[:, chunk] * carried
    return reached.flatten(0, 1)


def _chunks(length: int) -> int:
    return -(-length // CHUNK)


def _cut(x: Tensor, chunks: int) -> Tensor:
    """(batch, L, c) -> (CHUNK, batch * chunks, c), filled up with zeros: with step 0 a state stays as it is."""
    x = F.pad(x, (0, 0, 0, chunks * CHUNK - x.shape[1]))
    return x.reshape(-1, CHUNK, x.shape[-1]).transpose(0, 1).contiguous()


def _join(x: Tensor, chunks: int, length: int) -> Tensor:
    """The way back from `_cut`."""
    return x.transpose(0, 1).reshape(-1, chunks * CHUNK, x.shape[-1])[:, :length]


def _blocks(d: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, d)) for start in range(0, d, BLOCK))
