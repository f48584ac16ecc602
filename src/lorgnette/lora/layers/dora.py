"""DoRA: the length and the direction of each output's weights are learnt apart (Liu et al., arXiv 2402.09353).

The layer applies `m (W + s B A) / |W + s B A|`, with one length `m` for each output channel (each column of an
embedding, as PEFT has it). As in the paper's section 4.3 the norm counts as a constant in the backward pass. `m`
starts as the norm that it is divided by, computed by the same expression: their ratio is exactly 1, and the
output at the start is the base's bit for bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd


def lengths(layer: nn.Module, weight: Tensor) -> Tensor:
    """Norm of the weights of each output of a layer, `(out,)`, without gradient."""
    grouped, axis = _by_output(layer, weight.detach())
    others = [dim for dim in range(grouped.dim()) if dim not in axis]
    return torch.linalg.vector_norm(grouped, dim=others).flatten()


def outputs(layer: nn.Module, parameter: str | None = None, rows: tuple[int, int] | None = None) -> int:
    """How many lengths a layer has, or a parameter of it, or some rows of that."""
    if rows is not None:
        return rows[1] - rows[0]
    if parameter is not None:
        return math.prod(layer.get_parameter(parameter).shape[:-1])
    if isinstance(layer, _ConvTransposeNd):
        return layer.out_channels
    weight = layer.get_parameter("weight")
    return weight.shape[1 if isinstance(layer, nn.Embedding) else 0]


def rescaled(layer: nn.Module, weight: Tensor, plain: Tensor) -> Tensor:
    """`weight` with the lengths that the layer learns; `plain` is the weight whose norm is divided by."""
    norm = lengths(layer, plain)
    magnitude = layer.get_parameter("lora_magnitude").to(weight.dtype)
    # An output whose weights are all zero has no direction to rescale.
    ratio = torch.where(norm == 0, torch.ones_like(norm), magnitude / torch.where(norm == 0, 1, norm))
    grouped, axis = _by_output(layer, weight)
    shape = [size if dim in axis else 1 for dim, size in enumerate(grouped.shape)]
    return (grouped * ratio.view(shape)).view_as(weight)


def _by_output(layer: nn.Module, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """A weight, and its axes that together count the outputs."""
    if isinstance(layer, _ConvTransposeNd):  # (in, out / groups, *kernel)
        return weight.unflatten(0, (layer.groups, -1)), (0, 2)
    if getattr(layer, "parameter", None) is not None:  # of another module: a stack of matrices (*stack, out, in)
        return weight, tuple(range(weight.dim() - 1))
    return weight, (1,) if isinstance(layer, nn.Embedding) else (0,)
