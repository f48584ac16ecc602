"""The tensors of an adapter's folder, read from files that strangers may have written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lorgnette.common.tensors import read_tensors
from lorgnette.lora.files.commit import MANIFEST, PICKLED, WEIGHTS, current_file


def read_weights(model: nn.Module, folder: str | os.PathLike[str], digest: str | None) -> dict[str, Tensor]:
    """The tensors of an adapter's folder, by the file's names.

    Args:
        model: which the adapter is for: its size bounds that of the file.
        folder: with `adapter_model.safetensors`, or else `adapter_model.bin`.
        digest: hash that the file must have; None: any.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: it is too large, damaged, or not the file that was described.
    """
    path = current_file(folder, WEIGHTS)
    if not path.is_file():
        path = Path(folder) / PICKLED  # read without running anything of it
    if not path.is_file():
        raise FileNotFoundError(f"no {WEIGHTS} in {folder}")
    limit = 2**26 + 32 * sum(parameter.numel() for parameter in model.parameters())
    if path.stat().st_size > limit:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes: far too large for an adapter of {type(model).__name__}"
        )
    if path.name == PICKLED:
        return dict(sorted(named_tensors(read_tensors(path, limit)).items()))
    data = path.read_bytes()
    if digest is not None and hash_bytes(data) != digest:
        raise ValueError(
            f"{path} is not the file that {MANIFEST} describes: it is damaged, or another program replaced it"
            f" (then remove {MANIFEST})"
        )
    try:
        return dict(sorted(safetensors.torch.load(data).items()))
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is not a safetensors file ({error}); nothing else is opened") from None


def named_tensors(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """A table that holds tensors by name and nothing else.

    Raises:
        ValueError: it holds something else.
    """
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{name!r} is a {type(value).__name__}, not a tensor; tensors by name are read")
    return dict(found)


def hash_bytes(data: bytes) -> str:
    """Of the contents of a file."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
