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
    that are written through `.data` or by other libraries. Against mistakes, not against forgery.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.numel()}
    layout = tuple((name, tuple(tensor.shape), tensor.dtype, tensor.device) for name, tensor in tensors.items())
    settings = tuple((name, type(module), _settings(module)) for name, module in model.named_modules())
    whole = repr((layout, _checksum(tensors.values()), settings))
    return hashlib.blake2b(whole.encode(), digest_size=16).digest()


def _settings(module: nn.Module) -> tuple[object, ...]:
    plain = (bool, int, float, str, type(None))
    found: list[object] = []
    for name, value in vars(module).items():
        members = value if isinstance(value, tuple | list) else (value,)
        if name != "training" and all(isinstance(member, plain) for member in members):
            found.append((name, *members))
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return (*found, *map(id, hooks))


@torch.no_grad()
def _checksum(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Sums of the words of the tensors' bytes times random odd numbers, for each device."""
    devices: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        devices.setdefault(tensor.device, []).append(raw)
    return tuple(_weighted_sum(torch.cat(raws)) for raws in devices.values())


def _weighted_sum(raw: Tensor, width: int = 4096, at_once: int = 2**20) -> int:
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.int64, device=raw.device)
    within = torch.randint(-(2**62), 2**62, (width,), generator=generator).to(raw.device) | 1
    for piece in raw.split(at_once):
        padded = F.pad(piece, (0, -len(piece) % (4 * width)))
        rows = (padded.view(torch.int32).view(-1, width).long() * within).sum(1)
        across = torch.randint(-(2**62), 2**62, (len(rows),), generator=generator).to(raw.device) | 1
        total += (rows * across).sum()
    return int(total)
