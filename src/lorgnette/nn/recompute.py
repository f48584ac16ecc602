"""Activations that are made again for the backward pass instead of being kept, as `transformer` and `swin` offer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class _Again(NamedTuple):
    """In place of a tensor: how to make the one it is a view of, and which view it is."""

    make: Callable[[], Tensor]
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt


@contextlib.contextmanager
def recomputed(output: Tensor, again: Callable[[], Tensor], wanted: bool = True) -> Iterator[Tensor]:
    """Within this context, what would keep `output` for the backward pass keeps the recipe `again` instead.

    For results that are cheap to make and that something in the graph has the input of anyway: of a LayerNorm or a
    GELU before a linear layer. It trades their memory for one more pass over them in the backward.

        normed = self.norm(x)
        with recomputed(normed, lambda: self.norm(x)):
            y = self.linear(normed)

    Args:
        output: what is not to be kept; views of it neither.
        again: gives `output` once more, bit for bit and laid out in memory alike. It runs in the backward pass,
            without gradients and without autocast, and must neither change anything nor hold
            `output`.
        wanted: False keeps `output` as usual. Under `torch.compile` it is always kept: there the compiler decides.

    Yields:
        `output`.
    """
    if not wanted or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        yield output
        return
    place, dtype = output.untyped_storage().data_ptr(), output.dtype  # the hooks live on: they must not hold `output`

    def pack(tensor: Tensor) -> Tensor | _Again:
        if tensor.untyped_storage().data_ptr() != place or tensor.dtype != dtype:
            return tensor
        return _Again(again, tensor.size(), tensor.stride(), tensor.storage_offset())

    def unpack(packed: Tensor | _Again) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.no_grad():
            return packed.make().as_strided(packed.size, packed.stride, packed.offset)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield output


def linear_dtype(x: Tensor) -> torch.dtype | None:
    """What a linear layer casts `x` to under autocast; None where it leaves it.

    A LayerNorm gives float32 there: casting its output first makes it the cast copy that can be made again.
    """
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
