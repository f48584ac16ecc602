"""Files of tensors from strangers: read without running anything, checked before memory is taken."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lorgnette.common.text import nearest
from lorgnette.common.wrappers import without_words

MAX_BYTES = 8 * 2**30


def read_tensors(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> Mapping[str, Any]:
    """A mapping from a safetensors file or a `torch.save` file (`weights_only=True`: tensors and plain containers).

    Raises:
        FileNotFoundError: no such file.
        ValueError: larger than `max_bytes`, damaged, not such a file, or one that wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such weight file: {path}")
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; more than {max_bytes} are not read")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} is not an intact safetensors file ({str(error).splitlines()[0]})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other pickle protocols
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} was refused unrun: it is no checkpoint of tensors and plain containers (it may carry code)"
        ) from None
    except Exception as error:  # at broken files the unpickler raises nearly anything, at times without a word
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged or not a checkpoint ({reason})") from None
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a mapping of tensors")
    return loaded


def float_state(raw: Any, source: str) -> dict[str, Tensor]:
    """A state dict in float32, without the words that wrappers (compiled, data-parallel, averaged) put into its names.

    Raises:
        ValueError: it is none, or empty.
    """
    if not isinstance(raw, Mapping) or not raw or not all(map(_is_named_tensor, raw.items())):
        raise ValueError(f"{source} holds no state dict of tensors")
    return {without_words(name): value.float() for name, value in raw.items() if name != "n_averaged"}


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def check_state(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """A one-line ValueError unless both have the same names and shapes; it names the first that differs."""
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if unexpected:
        raise ValueError(f"{source}: {unexpected[0]!r} is not part of this network{nearest(unexpected[0], own)}")
    if missing:
        raise ValueError(f"{source} lacks {missing[0]!r} and {len(missing) - 1} more")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"{source}: {name} has shape {tuple(tensor.shape)}, not {tuple(own[name].shape)}")
