"""Where a module computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T", bound="nn.Module")


def to_device(module: T, name: str) -> T:
    """Move a module to 'cpu', 'cuda', 'cuda:1', 'mps', or with 'auto' to an accelerator where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return module.to(found or torch.device("cpu"))
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        works = f"cpu or {found.type}" if found else "cpu"
        raise ValueError(f"--device: {name!r} does not work here; {works} does") from None
    return module.to(device)
