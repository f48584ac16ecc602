"""`prune_model`: a network with fewer channels, or with zeros among its weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.utils.prune as masks
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.prune.channels import groups_of
from lorgnette.prune.surgeon import Surgeon

MOST = 64
"""Inputs that are calibrated on."""
STEP = 4
"""Widths are multiples of it: processors compute several channels at once."""
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Cut:
    """What was taken out of a network."""

    widths: Mapping[str, tuple[int, int]]
    """Name of the first layer that makes some channels -> how many there were, and are."""
    made: Mapping[str, Sequence[str]]
    """The same name -> all layers that made these channels."""
    left: Sequence[str]
    """Convolutions and products whose outputs are as wide as before: they are given away, normalised or counted."""


def prune_model(
    model: Model,
    pruning_ratio: float = 0.3,
    dataset: Iterable[Any] = (),
    example: Any = None,
    step: int = STEP,
    unstructured: bool = False,
) -> Model:
    """Take channels out of a network, in place: it has fewer weights then, and takes less time.

    What is left should learn again: see `lorgnette.prune.Distilled`.

    Args:
        model: on the processor; adapters are folded in first.
        pruning_ratio: share of the channels that go, in (0, 1); of each layer whose channels can be taken out.
        dataset: inputs like those it is for: a tensor each, or a tuple of the arguments; `MOST` at the most are read.
            They decide which channels go, and what reads those makes up for them by least squares, which saves most of
            what would be lost. Empty: the channels with the smallest weights go.
        example: arguments to find out by which channels hang together. None: the first of the data set, or what
            `model.example_inputs()` gives, or a random picture.
        step: what is left of each is a multiple of it.
        unstructured: as the requirement has it: single weights of all convolutions become zero, the smallest of all.
            That makes a file that compresses better, and nothing smaller or faster.

    Returns:
        The model.

    Raises:
        ValueError: a setting is out of range, nothing can be taken out, or Torch-Pruning is missing, in one line.
    """
    lora.merge_lora_weights(model)
    if unstructured:
        _check(pruning_ratio, step)
        return _with_zeros(model, pruning_ratio)
    given = [x if isinstance(x, tuple) else (x,) for x, _ in zip(dataset, range(MOST), strict=False)]
    if example is None:
        example = given[0] if given else _example(model)
    prune_channels(
        model,
        example if isinstance(example, tuple) else (example,),
        (lambda: [model(*x) for x in given]) if given else None,
        pruning_ratio,
        step,
    )
    return model


def prune_channels(
    model: nn.Module,
    example: tuple[Any, ...],
    passes: Callable[[], object] | None = None,
    pruning_ratio: float = 0.3,
    step: int = STEP,
) -> Cut:
    """As `prune_model`, without adapters; and what was done.

    Args:
        model: changed in place.
        example: arguments of its `forward`.
        passes: gives the model what it is calibrated on. None: the channels with the smallest weights go.
        pruning_ratio: as for `prune_model`; so is `step`.
    """
    _check(pruning_ratio, step)
    groups, left = groups_of(model, example)
    counts = {group: group.size - _kept(group.size, pruning_ratio, step) for group in groups}
    if not any(counts.values()):
        widest = max((group.size for group in groups), default=0)
        raise ValueError(
            f"pruning_ratio: {pruning_ratio} takes nothing out of this network: "
            + (f"its widest layer that can lose channels has {widest}, and goes by {step}" if widest else
               "none of its convolutions and products can lose channels")
        )  # fmt: skip
    last = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and _channels_last(layer.weight)]
    surgeon = Surgeon(model, groups, passes)
    gone = {group: surgeon.silence(group, count) for group, count in counts.items() if count}
    for group, channels in gone.items():
        group.remove(channels)
    for layer in last:
        layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    widths = {group.name: (group.size, group.size - counts[group]) for group in groups}
    return Cut(widths, {group.name: group.made for group in groups}, left)


def _channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def _check(pruning_ratio: float, step: int) -> None:
    if not 0 < pruning_ratio < 1:
        raise ValueError(f"pruning_ratio: {pruning_ratio} is outside (0, 1); 0.3 is usual")
    if step < 1:
        raise ValueError(f"step: {step} is too small; 1 or more works")


def _kept(size: int, pruning_ratio: float, step: int) -> int:
    return min(size, max(step, round(size * (1 - pruning_ratio) / step) * step))


def _with_zeros(model: Model, share: float) -> Model:
    convolutions = [(module, "weight") for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise ValueError("unstructured: this network has no convolution")
    masks.global_unstructured(convolutions, pruning_method=masks.L1Unstructured, amount=share)
    for module, name in convolutions:
        masks.remove(module, name)
    return model


def _example(model: nn.Module) -> tuple[Any, ...]:
    """What a network says itself, or a random picture with as many channels as its first convolution takes."""
    own: Any = getattr(model, "example_inputs", None)
    if own is not None:
        return own()
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    wanted = [p for p in inspect.signature(model.forward).parameters.values() if p.default is p.empty]
    if first is None or len(wanted) != 1:
        raise ValueError(f"example: {type(model).__name__} does not take one picture; give a tuple of its arguments")
    return (torch.rand(1, first.in_channels, 32, 32, generator=torch.Generator().manual_seed(0)),)
