"""Which items a run learns from and which are held out: written down with the run, so that both stay what they are.

A split that is a function of a folder is another one once the folder has changed, and what was held out would be
learnt from. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lorgnette.common.files import read_json, write_json

FORMAT_VERSION = 1
NEW = "it was not there when the run began"


@dataclass(frozen=True)
class Parts:
    """Items by name, each with a hash of its content: a file that was renamed is still known."""

    training: Mapping[str, str] = field(default_factory=dict)
    """What is learnt from, in its order."""
    held_out: Mapping[str, str] = field(default_factory=dict)
    """What is scored."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What is neither: name -> why, in one line."""

    def found_in(self, there: Mapping[str, str]) -> tuple[list[str], list[str], list[str]]:
        """What of `there` (name -> hash) is learnt from again, what is held out again, and which items are gone.

        An item is known by its name, or else by its content. What is held out is never learnt from, whatever it is
        called now.
        """
        names = {digest: name for name, digest in reversed(list(there.items()))}
        held_out = {name: _now(name, digest, there, names) for name, digest in self.held_out.items()}
        training = {name: _now(name, digest, there, names) for name, digest in self.training.items()}
        never = {*held_out.values(), *self._became_held_out(there)}
        return (
            [now for now in dict.fromkeys(training.values()) if now and now not in never],
            [now for now in dict.fromkeys(held_out.values()) if now],
            [name for name, now in (training | held_out).items() if now is None],
        )

    def _became_held_out(self, there: Mapping[str, str]) -> Iterable[str]:
        """Items that were learnt from and have now the content of one that was held out."""
        secret = set(self.held_out.values())
        return (n for n, digest in self.training.items() if there.get(n) in secret and there[n] != digest)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Keep it as a JSON file."""
        write_json(path, {"format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Parts | None:
        """What `write` kept; None where there is no such file.

        Raises:
            ValueError: it is damaged, or of another version.
        """
        if not Path(path).is_file():
            return None
        kept = read_json(path, 2**30)
        if not isinstance(kept, dict) or kept.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"{path} does not say which items a run has in a way this program reads")
        try:
            return cls(*({str(name): str(value) for name, value in kept[part].items()} for part in PARTS))
        except (KeyError, AttributeError):
            raise ValueError(f"{path} is damaged") from None


PARTS = ("training", "held_out", "left_out")


def _now(name: str, digest: str, there: Mapping[str, str], names: Mapping[str, str]) -> str | None:
    return name if name in there else names.get(digest)
