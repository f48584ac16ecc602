"""What int8 models of all formats share: which layers are meant, what they are calibrated on, and what is told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lorgnette.systems.protocol import Program
from lorgnette.train.task import Task

MOST = 64
"""Inputs that are calibrated on."""
LEAST = 1024
"""Weights with fewer numbers are left as they are: there is nothing to gain, and coordinates pass through such."""
NOTHING = "int8: nothing of this model could be quantised: it has no convolution or product with weights"
NO_SAMPLES = "int8: there is nothing to calibrate on; give at least one input like those it is for"
Sample = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Int8:
    """What of a model is int8."""

    way: str
    """'static' or 'weights'."""
    layers: Mapping[str, str]
    """Name of each layer whose weights are int8 -> its operation."""
    left: Mapping[str, str]
    """And of those whose weights are not, loops included."""
    runs: Mapping[str, int]
    """Operation -> how many of them are computed in 8 bits: by ONNX Runtime on this processor, or by XNNPACK."""
    samples: int
    """Inputs that it was calibrated on."""


def inner(order: Sequence[tuple[str, AbstractSet[str], AbstractSet[str]]], large: AbstractSet[str]) -> set[str]:
    """Names of the layers that are quantised: large ones, but for the first and the last of every path; of few all.

    Args:
        order: name of each node, in order, with what it reads and what it gives.
        large: names of those with large weights.
    """
    behind, ahead, first, last = set[str](), set[str](), set[str](), set[str]()
    for name, reads, gives in order:
        reached = not behind.isdisjoint(reads)
        if name in large and not reached:
            first.add(name)
        if name in large or reached:
            behind |= gives
    for name, reads, gives in reversed(order):
        needed = not ahead.isdisjoint(gives)
        if name in large and not needed:
            last.add(name)
        if name in large or needed:
            ahead |= reads
    return set(large) - first - last or set(large)


def samples_of(program: Program, calibrate: Callable[[Mapping[str, Task]], object]) -> list[Sample]:
    """The inputs that a room's own scores give a program, `MOST` at the most.

    Args:
        program: that is to be quantised.
        calibrate: scores tasks on calibration data, as for `export`.
    """
    found: list[Sample] = []

    def recorded(*inputs: Tensor) -> Tensor:
        if len(found) == MOST:
            raise _EnoughError
        found.append({name: x.numpy() for name, x in zip(program.inputs, inputs, strict=True)})
        with torch.no_grad():
            return program.module(*inputs)

    with contextlib.suppress(_EnoughError):
        calibrate({"network": program.answering(recorded)})
    return found


class _EnoughError(Exception):
    pass


def as_facts(int8: Int8) -> dict[str, Any]:
    """As a manifest has it: layers are counted."""
    return asdict(int8) | {"layers": len(int8.layers), "left": len(int8.left)}
