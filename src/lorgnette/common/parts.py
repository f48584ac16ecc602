"""Which items a run learns from and which are held out: written down with the run, so that both stay what they are.

A split that is a function of a folder is another one once the folder has changed, and what was held out would be
learnt from. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorgnette.common.files import read_json, write_json

FORMAT_VERSION = 1
FILE = "data.json"
"""Its name in the folder of a run."""
NEW = "it was not there when the run began"


class LeftOut(UserWarning, ValueError):
    """Something that was asked for is left out. `warnings.simplefilter("error", LeftOut)` refuses it instead.

    Args:
        line: what is said.
        names: of what is left out.
    """

    def __init__(self, line: str, names: Iterable[str] = ()):
        super().__init__(line)
        self.names = list(names)


@dataclass(frozen=True)
class Parts:
    """Items by name, each with a hash of its content: a file that was renamed is still known."""

    training: Mapping[str, str] = field(default_factory=dict)
    """What is learnt from, in its order."""
    held_out: Mapping[str, str] = field(default_factory=dict)
    """What is scored."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What is neither: name -> why, in one line."""
    grows: bool = False
    """Whether what is new is learnt from when it goes on; else it is left out."""

    def found_in(self, there: Mapping[str, str]) -> tuple[list[str], list[str], list[str]]:
        """What of `there` (name -> hash) is learnt from again, what is held out again, and which items are gone.

        An item is known by its name, or else by its content. What is held out is never learnt from, whatever it is
        called now.
        """
        names = {digest: name for name, digest in reversed(list(there.items()))}
        secret = set(self.held_out.values())

        def now(name: str, digest: str) -> str | None:
            return name if name in there else names.get(digest)

        held_out = {name: now(name, digest) for name, digest in self.held_out.items()}
        training = {name: now(name, digest) for name, digest in self.training.items()}
        never = {place for name, place in held_out.items() if name not in self.training}
        for name, place in training.items():
            if place is not None and there[place] in secret and (place, there[place]) != (name, self.training[name]):
                never.add(place)
        return (
            [place for place in dict.fromkeys(training.values()) if place and place not in never],
            [place for place in dict.fromkeys(held_out.values()) if place],
            [name for name, place in (training | held_out).items() if place is None],
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Keep it as a JSON file."""
        write_json(path, {"format_version": FORMAT_VERSION, **{part: dict(getattr(self, part)) for part in PARTS}})

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
            training, held_out, left_out = ({str(n): str(v) for n, v in kept[part].items()} for part in PARTS)
            return cls(training, held_out, left_out)
        except (KeyError, AttributeError):
            raise ValueError(f"{path} is damaged") from None

    def in_words(self, most: int = 10) -> str:
        """How many there are of each, and why the first few are left out."""
        text = f"Learnt from {len(self.training)} images, scored on {len(self.held_out)}"
        if not self.left_out:
            return f"{text}."
        rest = f"; and {len(self.left_out) - most} more" if len(self.left_out) > most else ""
        return f"{text}, {len(self.left_out)} left out: {'; '.join(list(self.left_out.values())[:most])}{rest}."


PARTS = ("training", "held_out", "left_out")
