"""Different adapters for the samples of one batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lorgnette.lora.layers.base import LowRank
from lorgnette.lora.layers.convolution import CONV, TRANSPOSED
from lorgnette.lora.layers.parameter import LoRAParameter
from lorgnette.lora.several.named import all_adapters, check_known
from lorgnette.lora.several.stacking import check_linear, stacked
from lorgnette.lora.surgery import disabled
from lorgnette.lora.wrappers import unwrapped

Update = Callable[[Any, Tensor, Tensor, Tensor, tuple[int, ...]], Tensor]


@contextlib.contextmanager
def per_sample(model: nn.Module, names: Sequence[str | None], *, windows: bool = False) -> Iterator[None]:
    """Within this context each sample of a batch has an adapter of its own.

    The base runs once on the whole batch; beside each layer one batched product adds the updates. The factors of
    the named adapters are kept once more for the context, filled up to the largest rank; while a layer runs, its own
    are held once for each sample, for a convolution with groups as whole kernels. Gradients reach every adapter;
    with activation checkpointing the backward pass belongs inside the context.

    Args:
        model: with these adapters; which one is active does not matter.
        names: for each sample that of its adapter; None: the base alone.
        windows: whether a layer may see a sample as several rows that follow each other, as window attention does.
            Without it every adapted layer must see as many rows as there are names, samples along the first axis.

    Raises:
        ValueError: an unknown name; a place where this cannot be done (embeddings, raw parameters, attention
            projections, DoRA); dropout while training; or, from the model's forward, a layer that sees another
            number of rows.
    """
    with unwrapped(model) as inner:
        known = all_adapters(inner)
        used = list(dict.fromkeys(name for name in names if name is not None))
        for name in used:
            check_known("per_sample", name, known)
            check_linear("per_sample", name, known[name])
        modules = dict(inner.named_modules())
        index = torch.tensor([used.index(name) if name is not None else len(used) for name in names])
        hooks = []
        for place in dict.fromkeys(place for name in used for place in known[name]):
            like, A, B = stacked(known, place, used)
            owner = modules[place.rpartition(".")[0] if isinstance(like, LoRAParameter) else place]
            if reason := _why_not(place, like, owner, modules):
                raise ValueError(f"per_sample: {place!r} {reason}")
            if owner.training and any(known[n][place].lora_dropout for n in used if place in known[n]):
                raise ValueError(f"per_sample: {place!r} has dropout; model.eval() comes first")
            none = [factor.new_zeros(1, *factor.shape[1:]) for factor in (A, B)]
            hooks.append((owner, _hook(place, like, torch.cat([A, none[0]]), torch.cat([B, none[1]]), index, windows)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(disabled(model))
        for owner, hook in hooks:
            handle = owner.register_forward_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _why_not(place: str, like: LowRank, owner: nn.Module, modules: dict[str, nn.Module]) -> str | None:
    parent = modules[place.rpartition(".")[0]] if "." in place else None
    if isinstance(like, LoRAParameter) and not isinstance(owner, nn.Linear):
        return "adapts a raw parameter, of which the whole batch has one"
    if isinstance(parent, nn.MultiheadAttention):
        return "is read raw by its nn.MultiheadAttention, with one matrix for the whole batch"
    if not isinstance(owner, (nn.Linear, _ConvNd)):
        return f"is an nn.{_name(owner)}; only nn.Linear and (transposed) convolutions can tell samples apart"
    return None


def _name(layer: nn.Module) -> str:
    return getattr(layer, "base_class", type(layer)).__name__


def _hook(place: str, like: LowRank, A: Tensor, B: Tensor, index: Tensor, windows: bool) -> Callable[..., Tensor]:
    rows = like.rows if isinstance(like, LoRAParameter) else None
    index = index.to(A.device)

    def add(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        x: Tensor = args[0] if args else kwargs["input"]
        batched = x.dim() == layer.get_parameter("weight").dim() if isinstance(layer, _ConvNd) else x.dim() > 1
        count = x.shape[0] if batched else 1
        if count != len(index) and not (windows and count % len(index) == 0):
            hint = "" if windows or count % len(index) else "; windows=True treats consecutive rows as one sample"
            raise ValueError(f"per_sample: {place!r} sees {count} rows, and there are {len(index)} names{hint}")
        update = _update(layer)(layer, x, A[index].to(x.dtype), B[index].to(x.dtype), output.shape)
        if rows is None:
            return output + update.to(output.dtype)
        parts = output[..., : rows[0]], output[..., rows[0] : rows[1]] + update.to(output.dtype), output[..., rows[1] :]
        return torch.cat(parts, -1)

    return add


def _update(layer: nn.Module) -> Update:
    if isinstance(layer, nn.Linear):
        return _linear
    return _transposed if isinstance(layer, _ConvTransposeNd) else _conv


def _linear(layer: nn.Linear, x: Tensor, A: Tensor, B: Tensor, size: tuple[int, ...]) -> Tensor:
    """`A: (N, r, in)`, `B: (N, out, r)`; the rows of a sample follow each other."""
    low = x.reshape(len(A), -1, x.shape[-1]) @ A.mT
    return (low @ B.mT).view(*size[:-1], B.shape[1])


def _conv(layer: _ConvNd, x: Tensor, A: Tensor, B: Tensor, size: tuple[int, ...]) -> Tensor:
    """`A: (N, r, in / groups, *kernel)`, `B: (N, out, r, 1, ...)`; each sample is a group of channels."""
    conv = CONV[A.dim() - 4]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = _samples_as_groups(F.pad(x, layer._reversed_padding_repeated_twice, mode=mode), len(A))
    if layer.groups > 1:
        delta = (B.flatten(2) @ A.flatten(2)).view(-1, *A.shape[2:])
        y = conv(x, delta, None, layer.stride, 0, layer.dilation, len(A) * layer.groups)
    else:
        low = conv(x, A.flatten(0, 1), None, layer.stride, 0, layer.dilation, len(A))
        y = conv(low, B.flatten(0, 1), groups=len(A))
    return _groups_as_samples(y, len(A))


def _transposed(layer: _ConvTransposeNd, x: Tensor, A: Tensor, B: Tensor, size: tuple[int, ...]) -> Tensor:
    """`A: (N, r, out / groups, *kernel)`, `B: (N, in, r, 1, ...)`: the input meets B first."""
    dims = A.dim() - 3
    places = zip(size[2:], x.shape[2:], layer.stride, layer.padding, layer.dilation, layer.kernel_size, strict=True)
    # What the base's output has beyond the smallest size: output_padding, or what output_size asked for.
    extra = [y - ((n - 1) * stride - 2 * int(pad) + step * (k - 1) + 1) for y, n, stride, pad, step, k in places]
    x = _samples_as_groups(x, len(A))
    if layer.groups > 1:
        weight = (B.flatten(2) @ A.flatten(2)).view(-1, *A.shape[2:])
        groups = len(A) * layer.groups
    else:
        x = CONV[dims - 1](x, B.transpose(1, 2).flatten(0, 1), groups=len(A))
        weight, groups = A.flatten(0, 1), len(A)
    y = TRANSPOSED[dims - 1](x, weight, None, layer.stride, layer.padding, extra, groups, layer.dilation)
    return _groups_as_samples(y, len(A))


def _samples_as_groups(x: Tensor, samples: int) -> Tensor:
    """`(samples * k, C, *)` as `(k, samples * C, *)`."""
    return x.unflatten(0, (samples, -1)).transpose(0, 1).flatten(1, 2)


def _groups_as_samples(y: Tensor, samples: int) -> Tensor:
    return y.unflatten(1, (samples, -1)).transpose(0, 1).flatten(0, 1)
