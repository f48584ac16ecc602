"""TorchScript (`.ts`): what older programs load, in Python and C++. PyTorch calls it deprecated since 2.13.

It is traced: loops of Python are unrolled, and what depends on a size beside the tensors' own operations is fixed. A
room's file is compared at other sizes before it is kept, as any other; a module of your own is not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.common.files import atomic_write
from lorgnette.export.manifest import ARCHIVED, Manifest
from lorgnette.export.program import first_line, quietly
from lorgnette.systems.protocol import Program

SUFFIXES = (".ts",)
DEPRECATED = "TorchScript is deprecated since PyTorch 2.13; torch.export (.pt2) and ONNX are what follows it"


def write(program: Program, manifest: Manifest, file: Path) -> None:
    """Write a `.ts` file."""
    _save(program.module, program.example(0), file, {ARCHIVED: manifest.to_json()})


def runner(file: Path) -> Callable[..., Tensor]:
    """The program of a file as a function."""
    with quietly():
        loaded = torch.jit.load(str(file), map_location="cpu")

    @torch.no_grad()
    def run(*inputs: Tensor) -> Tensor:
        try:
            return loaded(*inputs)
        except RuntimeError as error:
            raise ValueError(f"TorchScript: the network fixes sizes in its program: {first_line(error)}") from None

    return run


def export_torchscript(model: nn.Module, example_input: Any, path: str | Path) -> str | Path:
    """Write a module as TorchScript, adapters folded in.

    Args:
        model: stays as it is.
        example_input: a tensor, or a tuple of the arguments; the file answers for others of its size for certain.
        path: to be written.

    Returns:
        `path`.

    Raises:
        ValueError: it cannot be traced, in one line.

    Warns:
        DeprecationWarning: PyTorch gives TorchScript up.
    """
    warnings.warn(DEPRECATED, DeprecationWarning, stacklevel=2)
    merged: Any = lora.merge_lora_weights(model, inplace=False)
    with atomic_write(path) as temporary:
        _save(merged.eval(), example_input if isinstance(example_input, tuple) else (example_input,), temporary, {})
    return path


def _save(module: nn.Module, arguments: tuple[Tensor, ...], file: Path, extra: dict[str, str]) -> None:
    try:
        with quietly(), torch.no_grad():
            traced = torch.jit.trace(module, arguments, check_trace=False)
            torch.jit.save(traced, str(file), _extra_files=extra)
    except Exception as error:  # of many kinds, and none of them promised
        raise ValueError(f"TorchScript cannot express this network: {first_line(error)}") from error
