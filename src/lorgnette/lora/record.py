"""What the base was like when its first adapters came: kept on the model, until they are merged or taken out."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakTensorKeyDictionary

from lorgnette.common.identity import weighted_sum

DIGEST_BYTES = 8  # against mistakes, not against forgery
_RECORD = "_lora_record"
_WORTH_REMEMBERING = 2**16  # bytes
_hashes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Tensor -> the state it was in, and its hash then."""


class Buffer(NamedTuple):
    """A buffer of the base as it was."""

    dtype: torch.dtype
    digest: str


class Record(NamedTuple):
    """The base as it was."""

    buffers: dict[str, Buffer]
    """Every buffer that a state dict holds, by name."""
    asked: list[str]
    """Names of the parameters that asked for gradients."""


def remember(model: nn.Module, buffers: dict[str, Tensor]) -> None:
    """Keep what the base is like now, unless it is known already."""
    if _RECORD not in vars(model):
        held = {
            name: Buffer(tensor.dtype, hash_values(tensor))
            for name, tensor in buffers.items()
            if not is_lazy(tensor) and not tensor.is_meta
        }
        keep(model, Record(held, [name for name, p in model.named_parameters() if p.requires_grad]))


def keep(model: nn.Module, record: Record | None) -> None:
    """Have a model remember this of its base."""
    vars(model).pop(_RECORD, None)
    if record is not None:
        setattr(model, _RECORD, record)


def remembered(model: nn.Module) -> Record | None:
    """What is known of the base of a model."""
    return vars(model).get(_RECORD)


def moved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers of the base that are no more what they were when the adapters came: something moves them in training.

    A buffer that was cast to another dtype is not counted.
    """
    moved = {}
    for prefix, module in model.named_modules():
        record = remembered(module)
        for name, was in record.buffers.items() if record else ():
            owner, _, own = name.rpartition(".")
            try:
                tensor = module.get_submodule(owner)._buffers.get(own)
            except AttributeError:  # the module is gone
                continue
            if tensor is None or tensor.is_meta or tensor.dtype != was.dtype:
                continue
            if hash_values(tensor) != was.digest:
                moved[f"{prefix}.{name}" if prefix else name] = tensor
    return moved


def hash_values(tensor: Tensor) -> str:
    """Hash of the values of a tensor, by their bytes; remembered as long as nothing of it can have changed.

    Whoever writes by way of `.data` leaves no trace on the tensor: a weighted sum, several times quicker, finds it out.
    """
    state = _state(tensor)
    known = _hashes.get(tensor) if state is not None else None
    if known is not None and known[0] == state:
        return known[1]
    digest = _hash(tensor)
    if state is not None:
        _hashes[tensor] = state, digest
    return digest


def _hash(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(raw.numpy().data, digest_size=DIGEST_BYTES).hexdigest()


def _state(tensor: Tensor) -> tuple[object, ...] | None:
    """What a tensor's contents cannot change without; None where hashing is as quick, or this cannot be asked."""
    bits, width = tensor.detach(), tensor.element_size()
    if type(bits) is not Tensor or tensor.is_quantized or tensor.is_inference() or not tensor.is_contiguous():
        return None
    if tensor.numel() * width < _WORTH_REMEMBERING or tensor.numel() * width % 8 or tensor.storage_offset() * width % 8:
        return None
    raw = bits.reshape(-1).view(torch.uint8)
    return tensor._version, tensor.data_ptr(), tensor.dtype, tensor.shape, weighted_sum(raw)
