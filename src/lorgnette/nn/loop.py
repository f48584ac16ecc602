"""A loop that stays one loop in an exported program, however long it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def loop(
    step: Callable[..., tuple[Tensor, Tensor | None]], carried: Tensor, along: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Go along the first axis of tensors, carrying a state.

    An exported program has an operator for it (ONNX calls it Scan), unless the length is fixed there: then, and
    anywhere else, it is a loop of Python.

    Args:
        step: `step(carried, *slices) -> (carried, out)`: new tensors of the same shapes every time; or None for `out`.
        carried: what the first step gets.
        along: tensors of one length, of which each step gets a slice.

    Returns:
        What the last step carried on, and the `out` of all steps, stacked; None where there are none.
    """
    if torch.compiler.is_exporting() and not isinstance(along[0].shape[0], int):
        from torch._higher_order_ops.scan import scan  # torch 2.13 has it under no public name

        def combine(carried: Tensor, slices: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | tuple[()]]:
            carried, out = step(carried, *slices)
            return carried.contiguous(), () if out is None else out  # strides as well have to be the same every time

        last, outs = scan(combine, carried.contiguous(), tuple(along))
        return last, outs if isinstance(outs, Tensor) else None
    outs = []
    for slices in zip(*(x.unbind(0) for x in along), strict=True):
        carried, out = step(carried, *slices)
        outs.append(out)
    return carried, None if outs[0] is None else torch.stack(outs)
