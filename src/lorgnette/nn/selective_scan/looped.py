"""The scan as loops whose length is no part of the program: for export, where images of every size pass through.

The pixels of a direction are cut into as many chunks as the image has rows. One loop goes through all chunks side by
side, for the state at the end of each; one carries the states from chunk to chunk; and one goes through the chunks once
more, from the right states. (`doubling_scan` has as many operations as the image has doublings, which fixes its size.)

`unrolled_scan` is for images of one size, where there is no loop at all (ExecuTorch): chunks have `STEPS` steps, and
their states are carried on by doubling, so that it is a few hundred operations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.nn.loop import loop
from lorgnette.nn.selective_scan.blocked import prepared

STEPS = 16


def looped_scan(
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

    def chunks(x_BLKc: Tensor) -> Tensor:
        """(width, K, batch, height, c): a chunk is `width` steps of a direction."""
        return _ways(x_BLKc, size, directions).unflatten(2, size).permute(3, 0, 1, 2, 4)

    # Channels stand last: what multiplies a few states at a time is slow in ONNX Runtime.
    rate_NK11d = A.to(u_wide.dtype).movedim(2, 0)[:, :, None, None]
    step_TKBHd, gain_TKBHd = chunks(steps), chunks(gains)
    B_TNKBH, C_TNKBH = (chunks(x).movedim(4, 1) for x in (B, C))

    def advance(state: Tensor, step: Tensor, gain: Tensor, B: Tensor) -> Tensor:
        return torch.exp(step * rate_NK11d) * state + gain * B[..., None]

    def seen(state: Tensor, step: Tensor, gain: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        state = advance(state, step, gain, B)
        return state, (state * C[..., None]).sum(0)

    nothing = torch.zeros_like(step_TKBHd[0] * rate_NK11d)
    own, _ = loop(lambda state, *x: (advance(state, *x), None), nothing, (step_TKBHd, gain_TKBHd, B_TNKBH))
    decay = torch.exp(step_TKBHd.sum(0) * rate_NK11d)
    _, before = loop(
        lambda state, own, decay: (own + decay * state, state.clone()),
        nothing[..., 0, :],
        (own.movedim(3, 0), decay.movedim(3, 0)),
    )
    assert before is not None
    _, y = loop(seen, before.movedim(0, 3), (step_TKBHd, gain_TKBHd, B_TNKBH, C_TNKBH))
    assert y is not None
    y_KBLd = y.permute(1, 2, 3, 0, 4).flatten(2, 3)
    return _summed(y_KBLd, u_wide * D.to(u_wide.dtype).sum(0), size, directions).to(u.dtype)


def unrolled_scan(
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
    length, more = u.shape[1], -u.shape[1] % STEPS

    def chunks(x_BLKc: Tensor) -> tuple[Tensor, ...]:
        """`STEPS` times (K, batch, M, c), for M chunks; filled up with zeros: with step 0 a state stays as it is."""
        return F.pad(_ways(x_BLKc, size, directions), (0, 0, 0, more)).unflatten(2, (-1, STEPS)).unbind(3)

    rate_NK11d = A.to(u_wide.dtype).movedim(2, 0)[:, :, None, None]
    step, gain, B_TKBMN, C_TKBMN = map(chunks, (steps, gains, B, C))

    def advanced(state: Tensor | None, t: int) -> Tensor:
        added = gain[t] * B_TKBMN[t].movedim(-1, 0)[..., None]
        return added if state is None else torch.exp(step[t] * rate_NK11d) * state + added

    state = None
    for t in range(STEPS):
        state = advanced(state, t)
    assert state is not None
    decay, distance = torch.exp(sum(step[1:], step[0]) * rate_NK11d), 1
    while distance < state.shape[3]:  # at the end of each chunk: what its `distance` chunks add
        reached = state[:, :, :, distance:] + decay[:, :, :, distance:] * state[:, :, :, :-distance]
        state = torch.cat([state[:, :, :, :distance], reached], 3)
        product = decay[:, :, :, distance:] * decay[:, :, :, :-distance]
        decay = torch.cat([decay[:, :, :, :distance], product], 3)
        distance *= 2
    state = F.pad(state[:, :, :, :-1], (0, 0, 1, 0))  # before each chunk
    outs = []
    for t in range(STEPS):
        state = advanced(state, t)
        outs.append((state * C_TKBMN[t].movedim(-1, 0)[..., None]).sum(0))
    y_KBLd = torch.stack(outs, 3).flatten(2, 3)[:, :, :length]
    return _summed(y_KBLd, u_wide * D.to(u_wide.dtype).sum(0), size, directions).to(u.dtype)


def _ways(x_BLKc: Tensor, size: tuple[int, int], directions: tuple[int, ...]) -> Tensor:
    """(K, batch, L, c): of each direction its own, in its order."""
    return torch.stack([_in_order(x_BLKc[:, :, k], size, direction) for k, direction in enumerate(directions)])


def _summed(y_KBLd: Tensor, total: Tensor, size: tuple[int, int], directions: tuple[int, ...]) -> Tensor:
    """(batch, L, d): what all directions add to `total`, at the pixels."""
    for k, direction in enumerate(directions):
        total = total + _in_place(y_KBLd[k], size, direction)
    return total


def _in_order(x: Tensor, size: tuple[int, int], direction: int) -> Tensor:
    """(batch, L, c), pixels row by row -> as they come in a direction (`lorgnette.nn.selective_scan.reference`)."""
    x = x.unflatten(1, size).transpose(1, 2).flatten(1, 2) if direction % 2 else x
    return x.flip(1) if direction >= 2 else x


def _in_place(x: Tensor, size: tuple[int, int], direction: int) -> Tensor:
    """The way back from `_in_order`."""
    x = x.flip(1) if direction >= 2 else x
    return x.unflatten(1, (size[1], size[0])).transpose(1, 2).flatten(1, 2) if direction % 2 else x
