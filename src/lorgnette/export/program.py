"""torch.export: a graph of PyTorch's own operators, which PyTorch runs without this package (`.pt2`)."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lorgnette.export.manifest import ARCHIVED, Manifest
from lorgnette.systems.protocol import Program

SUFFIXES = (".pt2",)


def traced(program: Program, most: Mapping[str, int] | None = None) -> ExportedProgram:
    """The graph of a program, its free axes free.

    Args:
        program: of a room.
        most: by the name of an axis, how long it may be. None: as long as it likes.

    Raises:
        ValueError: PyTorch cannot make one of this network, in one line.
    """
    any_length: Any = torch.export.Dim.DYNAMIC
    free = [
        {axis: any_length if most is None else any_length(max=most[name]) for axis, name in axes.items()} or None
        for axes in program.inputs.values()
    ]
    return _traced(program.module, program.example(0), free)


def traced_freely(module: nn.Module, arguments: tuple[Tensor, ...], most: int | None = None) -> ExportedProgram:
    """The graph of any module: an axis is free where the module leaves it so, up to a length of `most`; of 1: none is.

    Raises:
        ValueError: PyTorch cannot make one, in one line.
    """
    auto: Any = torch.export.Dim.AUTO
    free = auto if most is None else auto(max=most) if most > 1 else None
    return _traced(module, arguments, [free if free is None else dict.fromkeys(range(x.ndim), free) for x in arguments])


def _traced(module: nn.Module, arguments: tuple[Tensor, ...], free: Sequence[Any]) -> ExportedProgram:
    try:
        with quietly(), torch.no_grad():
            graph = torch.export.export(module, arguments, dynamic_shapes=_as_signature(module, free))
    except Exception as error:  # of many kinds, and none of them promised
        raise ValueError(f"torch.export cannot express this network: {first_line(error)}") from error
    for part in graph.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it tells of this machine
    return graph


def write(program: Program, manifest: Manifest, file: Path) -> None:
    """Write a `.pt2` file."""
    with quietly():
        torch.export.save(traced(program), file, extra_files={ARCHIVED: manifest.to_json()})


def runner(file: Path) -> Callable[..., Tensor]:
    """The program of a file as a function. Only of files that one has written oneself: PyTorch unpickles some of it."""
    with quietly():
        module = torch.export.load(file).module()

    @torch.no_grad()
    def run(*inputs: Tensor) -> Tensor:
        return module(*inputs)

    return run


def _as_signature(module: nn.Module, free: Sequence[Any]) -> tuple[Any, ...]:
    """As torch.export wants it: one entry for an argument, and for `*args` a tuple of them."""
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    plain = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else len(free)
    return (*free[:plain], *([tuple(free[plain:])] if plain < len(free) else []))


@contextmanager
def quietly() -> Iterator[None]:
    """Within this context exporters say nothing: what they warn of is their own, such as deprecated parts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def first_line(error: Exception) -> str:
    """What went wrong, shortly: exporters tell pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
