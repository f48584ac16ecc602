"""The forward and backward pass of an adapted layer as one autograd function.

It is faster than `base(x) + s * up(down(dropout(x)))` left to autograd, by fewer:

* passes over activations: low-rank terms are accumulated in place by the product that makes them;
* bytes kept: float32 factors are cast down to the dtype of `x`, never `x` up to theirs; dropout keeps a seed,
  neither a mask nor a dropped copy of `x`; under autocast no cast copy of the frozen weight is kept;
* operations: with many rows `W + s B A` is formed once instead (`_merging_pays`), and with a high rank the gradients of
  the factors are taken from that of their product (`_product_pays`).

Where it cannot be used (`fusable`), the layers compute the same by ordinary operations.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from lorgnette.lora.kernels.convolution_products import Convolution

_PLAIN = (Tensor, nn.Parameter)
_MERGING_MARGIN = 2.0  # measured: what forming the weight costs per element, in elements of a product it replaces


def no_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """A context without autocast on this type of device."""
    available = torch.amp.is_autocast_available(device)  # it is not on 'meta'
    return torch.autocast(device, enabled=False) if available else contextlib.nullcontext()


def fusable(x: Tensor, weight: Tensor, bias: Tensor | None, dropout: float = 0.0) -> bool:
    """Whether the fused pass can be used here.

    It cannot for a base that is trained itself, for tensors of another kind (quantised, distributed, fake,
    nested), for dtypes that the base refuses, under `torch.func` and forward-mode differentiation, in tracing and
    export, nor in compilation with dropout, whose seed a compiler cannot trace.
    """
    if torch.compiler.is_compiling():
        if dropout or torch.compiler.is_exporting() or torch.is_autocast_enabled(x.device.type):
            return False
    elif torch._C._is_tracing():
        return False
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return False
    if type(x) not in _PLAIN or type(weight) not in _PLAIN or x.is_meta or x.is_nested:
        return False
    if torch.is_autocast_enabled(x.device.type):
        if not x.is_floating_point() or torch.float64 in (x.dtype, weight.dtype):  # autocast leaves these alone
            return False
    elif x.dtype != weight.dtype:  # the base refuses it
        return False
    # There is no public way to ask for these.
    if torch._C._are_functorch_transforms_active():
        return False
    return torch.compiler.is_compiling() or forward_ad._current_level < 0


def adapted(
    kind: Matrix | Convolution,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    scaling: float,
    dropout: float,
) -> Tensor:
    """`W x + b + s B A drop(x)`.

    Args:
        kind: the products of the layer.
        x: input, `(..., in)` or `(B, in, *size)`.
        weight: frozen, `(out, in)` or `(out, in, *kernel)`.
        bias: frozen, `(out,)`.
        A: first factor, `(r, in)` or `(r, in, *kernel)`.
        B: second factor, `(out, r)` or `(out, r, 1, ...)`.
        scaling: `s`.
        dropout: on the input of the low-rank path, in [0, 1); 0 while not training.

    Returns:
        `(..., out)` or `(B, out, *size)`, in the dtype of `x`, or in that of autocast.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    only_B = B.requires_grad and not A.requires_grad and torch.is_grad_enabled()
    if not dropout and not only_B and _merging_pays(kind.rows(x), x, A, B):
        return _Merged.apply(kind, x, weight, bias, A, B, scaling)
    # One draw from the default generator, always on the CPU: a seed is never fetched from a device.
    seed = int(torch.randint(2**63 - 1, (), device="cpu")) if dropout else 0
    return _Beside.apply(kind, x, weight, bias, A, B, scaling, dropout, seed)


class Matrix:
    """The products of a linear layer, in their quickest order. `x: (..., in)`, `y: (..., out)`, `h: (..., r)`.

    `h = A x` stands between the factors; `grad` is the gradient of an output or of `h`.
    """

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight, bias)

    def lower(self, x: Tensor, A: Tensor) -> Tensor:
        return F.linear(x, A)

    def rows(self, x: Tensor) -> int:
        return x.numel() // max(1, x.shape[-1])

    def input_grad(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return (_flat(grad) @ weight).view(x.shape)

    def add_input_grad(self, to: Tensor, grad: Tensor, factor: Tensor) -> Tensor:
        return _flat(to).addmm_(_flat(grad), factor).view(to.shape)

    def weight_grad(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return _flat(grad).mT @ _flat(x)

    def add_up(self, y: Tensor, h: Tensor, B: Tensor, scale: float) -> Tensor:
        return _flat(y).addmm_(_flat(h), B.mT.contiguous(), alpha=scale).view(y.shape)

    def down(self, grad: Tensor, B: Tensor) -> Tensor:
        return F.linear(grad, B.mT.contiguous())  # twice as fast as grad @ B where B is narrow

    def outer(self, grad: Tensor, h: Tensor) -> Tensor:
        return (_flat(h).mT @ _flat(grad)).mT  # several times as fast as the other way round


class _Beside(torch.autograd.Function):
    """`W x + b + s B A drop(x)`, the low-rank path beside the base."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        kind: Matrix | Convolution,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        A: Tensor,
        B: Tensor,
        scaling: float,
        dropout: float,
        seed: int,
    ) -> Tensor:
        ctx.kind, ctx.scaling, ctx.dropout, ctx.seed = kind, scaling, dropout, seed
        y = kind.apply(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        mask, gain = _dropout_mask(x, dropout, seed)
        h = kind.lower(_masked(x, mask), A.to(x.dtype))
        ctx.shape = x.shape
        keeps = A.requires_grad or not B.requires_grad  # with A frozen (LoRA-FA) h is all that is asked for
        ctx.save_for_backward(x if keeps else None, weight, A, B, *((h,) if not keeps or _keeping_pays(A) else ()))
        return _no_view(kind.add_up(y, h, B.to(x.dtype), scaling * gain))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, weight, A, B, *kept = ctx.saved_tensors
        if x is None:
            if torch.is_grad_enabled():
                raise RuntimeError("with a frozen lora_A there is no second derivative: its input was not kept")
            x = grad.new_empty(()).expand(ctx.shape)  # for its shape alone
        kind, dtype = ctx.kind, x.dtype
        _, needs_x, _, _, needs_A, needs_B, *_ = ctx.needs_input_grad
        dx = dA = dB = None
        with no_autocast(x.device.type):
            mask, gain = _dropout_mask(x, ctx.dropout, ctx.seed)
            scale = ctx.scaling * gain
            if needs_B:
                # For a second derivative h has to depend on x and A.
                again = not kept or torch.is_grad_enabled()
                h = kind.lower(_masked(x, mask), A.to(dtype)) if again else kept[0]
                dB = (kind.outer(grad, h) * scale).view(B.shape).to(B.dtype)
            grad_h = kind.down(grad, B.to(dtype)) * scale if needs_x or needs_A else grad
            if needs_A:
                dA = kind.weight_grad(grad_h, _masked(x, mask), A.to(dtype)).to(A.dtype)
            if needs_x:
                dx = kind.input_grad(grad, x, weight.to(dtype))
                if mask is None:
                    dx = kind.add_input_grad(dx, grad_h, A.to(dtype))
                else:
                    dx = dx.add_(kind.input_grad(grad_h, x, A.to(dtype)).mul_(mask))
        return None, dx, None, None, dA, dB, None, None, None


class _Merged(torch.autograd.Function):
    """`(W + s B A) x + b`, in float32 and float64 only: in fewer bits small updates would be lost."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        kind: Matrix | Convolution,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        A: Tensor,
        B: Tensor,
        scaling: float,
    ) -> Tensor:
        ctx.kind, ctx.scaling = kind, scaling
        ctx.save_for_backward(x, weight, A, B)
        return _no_view(kind.apply(x, _effective(weight, A, B, scaling), bias))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, weight, A, B = ctx.saved_tensors
        kind, scale = ctx.kind, ctx.scaling
        _, needs_x, _, _, needs_A, needs_B, *_ = ctx.needs_input_grad
        dx = dA = dB = None
        with no_autocast(x.device.type):
            if needs_x:
                dx = kind.input_grad(grad, x, _effective(weight, A, B, scale))
            if (needs_A or needs_B) and _product_pays(A, B):
                product = kind.weight_grad(grad, x, weight).flatten(1)
                dA = (B.flatten(1).mT @ product * scale).view(A.shape)
                dB = (product @ A.flatten(1).mT * scale).view(B.shape)
            else:
                if needs_A:
                    dA = kind.weight_grad(kind.down(grad, B) * scale, x, A)
                if needs_B:
                    dB = (kind.outer(grad, kind.lower(x, A)) * scale).view(B.shape)
        return None, dx, None, None, dA, dB, None


def _effective(weight: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
    """`W + s B A`, laid out in memory like `W`."""
    if weight.is_contiguous():
        return torch.addmm(weight.flatten(1), B.flatten(1), A.flatten(1), alpha=scaling).view(weight.shape)
    return weight + (B.flatten(1) @ A.flatten(1)).view(weight.shape) * scaling


def _merging_pays(rows: int, x: Tensor, A: Tensor, B: Tensor) -> bool:
    """Merging makes `in * out` elements forward and backward; beside it, `rows * out` and `rows * in` are added to."""
    if x.dtype not in (torch.float32, torch.float64) or A.dtype != x.dtype or B.dtype != x.dtype:
        return False
    width_in, width_out = A[0].numel(), B.shape[0]
    return rows * (width_in + width_out) > _MERGING_MARGIN * width_in * width_out


def _product_pays(A: Tensor, B: Tensor) -> bool:
    """Whether the gradient of `B A` costs less than the three products (with `h`, four) which avoid it."""
    width_in, width_out = A[0].numel(), B.shape[0]
    return 2 * A.shape[0] * (width_in + width_out) > width_in * width_out


def _keeping_pays(A: Tensor) -> bool:
    """Whether `h = A x` is small beside `x`: otherwise it is made again, by one narrow product."""
    return 8 * A.shape[0] <= A[0].numel()


def _dropout_mask(x: Tensor, dropout: float, seed: int) -> tuple[Tensor | None, float]:
    """The mask of a dropout as bytes 0 and 1, the same for the same seed, and the factor for what is kept.

    Each element takes 16 random bits, which is several times faster than `bernoulli_`; the probability is
    rounded to a multiple of 2^-16, and the factor is that of the rounded one.
    """
    if not dropout:
        return None, 1.0
    generator = torch.Generator(x.device).manual_seed(seed)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: x.numel()].view(x.shape)
    keep = min(max(round((1 - dropout) * 2**16), 1), 2**16 - 1)
    return (bits < keep - 2**15).view(torch.uint8), 2**16 / keep


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


def _no_view(y: Tensor) -> Tensor:
    """`y` itself, which a layer behind may change in place: autograd forbids that for a view from a Function."""
    compiled = torch.compiler.is_compiling()  # where it cannot be asked, and costs nothing
    return torch.ops.aten._unsafe_view(y, y.shape) if compiled or y._is_view() else y


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])
