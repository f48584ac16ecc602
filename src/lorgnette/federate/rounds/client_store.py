"""What a client keeps from round to round: rounding errors, and its personal layers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from safetensors.torch import save_file
from torch import Tensor

from lorgnette.common.files import atomic_write, make_folder
from lorgnette.common.tensors import read_tensors


class Store(Protocol):
    """The memory of one client, by round: a round that is asked again finds the same state as the first time."""

    def before(self, round: int) -> dict[str, Tensor]:
        """What was kept after the last round before this one; empty if there was none."""
        ...

    def keep(self, round: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep this after a round."""
        ...


class MemoryStore:
    """In this process's memory."""

    def __init__(self) -> None:
        self._kept: dict[int, dict[str, Tensor]] = {}

    def before(self, round: int) -> dict[str, Tensor]:
        earlier = [number for number in self._kept if number < round]
        return dict(self._kept[max(earlier)]) if earlier else {}

    def keep(self, round: int, tensors: Mapping[str, Tensor]) -> None:
        self._kept = {number: kept for number, kept in self._kept.items() if number in _still_needed(self._kept, round)}
        self._kept[round] = dict(tensors)


class FolderStore:
    """In safetensors files of a folder, each written whole or not at all.

    Args:
        folder: of this client alone; made when there is something to keep.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)

    def before(self, round: int) -> dict[str, Tensor]:
        earlier = [number for number in self._files() if number < round]
        return dict(read_tensors(self._files()[max(earlier)])) if earlier else {}

    def keep(self, round: int, tensors: Mapping[str, Tensor]) -> None:
        files = self._files()
        if not tensors and not files:
            return
        make_folder(self.folder)
        with atomic_write(self.folder / f"round-{round:06d}.safetensors") as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        for number in files.keys() - _still_needed(files, round) - {round}:
            files[number].unlink()

    def _files(self) -> dict[int, Path]:
        found = (re.fullmatch(r"round-(\d+)\.safetensors", path.name) for path in self.folder.glob("round-*"))
        return {int(match[1]): self.folder / match[0] for match in found if match}


def _still_needed(numbers: Mapping[int, object], round: int) -> set[int]:
    """The last round before this one of those kept: this round may be asked again."""
    return {max((number for number in numbers if number < round), default=-1)}
