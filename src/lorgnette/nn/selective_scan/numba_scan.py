"""The scan on processors, by kernels that numba compiles: no compiler has to be installed."""

from __future__ import annotations

import torch
from torch import Tensor

from lorgnette.nn.compiled import in_threads
from lorgnette.nn.selective_scan.kernels import LANES, STRIDE, backward_kernel, forward_kernel


def numba_scan(
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
    """See `lorgnette.nn.selective_scan.selective_scan`. On a CPU; computes in float32."""
    tensors = [tensor.float() for tensor in (u, dt, A, B, C, D, dt_bias)]
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    y, _ = _scan(*tensors, list(size), list(directions), keep)
    return y.to(u.dtype)


@torch.library.custom_op("lorgnette::selective_scan", mutates_args=())
def _scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    size: list[int],
    directions: list[int],
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The sum over the directions, and some of the states, from which the backward pass makes the others again."""
    u, A, D, dt_bias = (tensor.contiguous() for tensor in (u, A, D, dt_bias))
    y, kept = torch.zeros_like(u), _room(u, A, size, keep)
    inputs = _arrays(u, dt, A, B, C, D, dt_bias), *size, torch.tensor(directions).numpy()
    in_threads(forward_kernel(), _tasks(u), *inputs[0], *inputs[1:], *_arrays(y, kept))
    return y, kept


@_scan.register_fake
def _(u, dt, A, B, C, D, dt_bias, size, directions, keep):
    return torch.empty(u.shape, dtype=u.dtype, device=u.device), _room(u, A, size, keep)


@torch.library.custom_op("lorgnette::selective_scan_backward", mutates_args=())
def _scan_backward(
    grad: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    size: list[int],
    directions: list[int],
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the seven tensors."""
    grad, u, A, D, dt_bias = (tensor.contiguous() for tensor in (grad, u, A, D, dt_bias))
    batch, _, d = u.shape
    blocks = -(-d // LANES)
    du, d_dt = torch.zeros_like(u), dt.new_empty(dt.shape)
    dA, dD, d_bias = (x.new_empty(batch, *x.shape) for x in (A, D, dt_bias))
    dB, dC = (u.new_empty(batch, blocks, *B.shape[1:]) for _ in range(2))
    inputs = *_arrays(grad, u, dt, A, B, C, D, dt_bias), *size, torch.tensor(directions).numpy()
    in_threads(backward_kernel(), _tasks(u), *inputs, *_arrays(kept, du, d_dt, dA, dB, dC, dD, d_bias))
    return du, d_dt, dA.sum(0), dB.sum(1), dC.sum(1), dD.sum(0), d_bias.sum(0)


@_scan_backward.register_fake
def _(grad, u, dt, A, B, C, D, dt_bias, size, directions, kept):
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (u, dt, A, B, C, D, dt_bias))


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.size, ctx.directions, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


def _gradients(ctx, grad, _):
    *tensors, kept = ctx.saved_tensors
    if grad is None:
        return (None,) * 10
    return *_scan_backward(grad, *tensors, ctx.size, ctx.directions, kept), None, None, None


_scan.register_autograd(_gradients, setup_context=_remember)


def _room(u: Tensor, A: Tensor, size: list[int], keep: bool) -> Tensor:
    chunks = -(-size[0] * size[1] // STRIDE) if keep else 0
    return u.new_empty(u.shape[0], -(-u.shape[2] // LANES), A.shape[0], chunks, A.shape[2], LANES)


def _tasks(u: Tensor) -> int:
    return u.shape[0] * -(-u.shape[2] // LANES)


def _arrays(*tensors: Tensor):
    return [tensor.detach().numpy() for tensor in tensors]
