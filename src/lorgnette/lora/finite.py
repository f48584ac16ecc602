"""What to say where an adapter holds NaN or infinity: its model gives nothing else any more."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    checked = {name: t.detach().isfinite().all() for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    checked = {name: flag for name, flag in checked.items() if not flag.is_meta}
    if not checked:
        return []
    flags = torch.stack([flag.cpu() for flag in checked.values()]).tolist()
    return [name for name, fine in zip(checked, flags, strict=True) if not fine]


def complaint(caller: str, names: list[str]) -> str:
    """One sentence on tensors that are not finite."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{caller}: {names[0]!r}{more} of the adapter holds NaN or infinity, and so will the output"


def warn_of(caller: str, tensors: Mapping[str, Tensor]) -> None:
    """Warn if any of these tensors holds NaN or infinity."""
    if names := not_finite(tensors):
        warnings.warn(complaint(caller, names), stacklevel=4)  # beyond who found it, and `on_unwrapped`
