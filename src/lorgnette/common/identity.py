"""Which model it is: what its outputs depend on beside its inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def identity(model: nn.Module) -> bytes:
    """16 bytes that tell a model, its weights and its adapter from all others: equal models give equal outputs.

    Values are summed up anew at each call, a few milliseconds for a million: a counter of changes would miss those
    that are written through `.data` or by other libraries. Hooks count, and so do devices. Against mistakes, not
    against forgery.
    """
    hooks = [id(hook) for m in model.modules() for hook in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())]
    devices = [str(tensor.device) for tensor in _tensors(model).values()]
    return _digest(f"{lasting_identity(model)} {devices} {hooks}")


def lasting_identity(model: nn.Module) -> str:
    """32 hexadecimal digits of which the same holds, but which are the same in every process and on every device.

    Hooks, which are functions of one process, do not count. A model over several devices has another identity than
    on one.
    """
    tensors = _tensors(model)
    layout = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()]
    settings = [(name, str(type(module)), _settings(module)) for name, module in model.named_modules()]
    return _digest(repr((layout, _checksum(tensors.values()), settings))).hex()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return {name: tensor for name, tensor in tensors.items() if tensor.numel()}


def _settings(module: nn.Module) -> list[tuple[str, object]]:
    """Attributes that are plain values, or lists and tuples of such."""
    return [(name, value) for name, value in vars(module).items() if name != "training" and _is_plain(value)]


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None)


@torch.no_grad()
def _checksum(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Sums of the words of the tensors' bytes times random odd numbers, for each device."""
    devices: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        devices.setdefault(tensor.device, []).append(raw)
    return tuple(weighted_sum(torch.cat(raws)) for raws in devices.values())


@torch.no_grad()
def weighted_sum(raw: Tensor, width: int = 4096, at_once: int = 2**19) -> int:
    """A sum of bytes (N,) that changes with any of them and with their order: several times quicker than a hash.

    Words of eight bytes count times random odd numbers. Their halves are mixed first: two words that differ in their
    highest bit alone, as x and -x do, would otherwise be exchanged unseen (2^63 times an even number is 0).
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.int64, device=raw.device)
    within = torch.randint(-(2**62), 2**62, (width,), generator=generator).to(raw.device) | 1
    for piece in raw.split(at_once):  # small enough for a processor's cache
        words = F.pad(piece, (0, -len(piece) % (8 * width))).view(torch.int64).view(-1, width)
        rows = (words >> 32).bitwise_xor_(words).mul_(within).sum(1)
        across = torch.randint(-(2**62), 2**62, (len(rows),), generator=generator).to(raw.device) | 1
        total += (rows * across).sum()
    return int(total)
