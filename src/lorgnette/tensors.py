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
