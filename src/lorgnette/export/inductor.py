"""AOTInductor (`.pt2`): compiled for this machine's processor by its C++ compiler, loaded by PyTorch in Python and C++.

Such a file is a shared library: it runs on processors like the one that it was made on, with the same PyTorch.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lorgnette.export.manifest import ARCHIVED, Manifest
from lorgnette.export.program import first_line, quietly, traced
from lorgnette.systems.protocol import Program

SUFFIXES = (".pt2",)


def write(program: Program, manifest: Manifest, file: Path) -> None:
    """Write a `.pt2` package.

    Raises:
        ValueError: there is no C++ compiler, or the network cannot be compiled, in one line.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ValueError(f"there is no C++ compiler {compiler} here, which AOTInductor needs; install one, or set CXX")
    package = file.with_suffix(".package.pt2")
    try:
        with quietly(), torch.no_grad():
            torch._inductor.aoti_compile_and_package(traced(program), package_path=str(package))
        with zipfile.ZipFile(package, "a") as archive:
            root = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{root}/extra/{ARCHIVED}", manifest.to_json())
        package.replace(file)
    except Exception as error:  # of many kinds, and none of them promised
        raise ValueError(f"AOTInductor cannot compile this network: {first_line(error)}") from error
    finally:
        package.unlink(missing_ok=True)


def runner(file: Path) -> Callable[..., Tensor]:
    """The program of a file as a function. Only of files that one has written oneself: it is machine code."""
    loaded = torch._inductor.aoti_load_package(str(file))

    @torch.no_grad()
    def run(*inputs: Tensor) -> Tensor:
        return loaded(*(x.contiguous() for x in inputs))

    return run
