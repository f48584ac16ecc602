"""Where a verb computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from lorgnette.task import Task

T = TypeVar("T", bound="Task")


def to_device(task: T, name: str) -> T:
    """Move a task to 'cpu', 'cuda', 'cuda:1', 'mps', or with 'auto' to an accelerator where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return task.to(found or torch.device("cpu"))
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        works = f"cpu or {found.type}" if found else "cpu"
        raise ValueError(f"--device: {name!r} does not work here; {works} does") from None
    return task.to(device)
