"""The journal of a federation: what is needed to go on at the same round and end with the same bits.

state.safetensors    the server's tensors after the last round, with its line of the journal; replaced whole
best.safetensors     those of the best round, where there are held-out batches
journal.jsonl        a line for each round
replies/             updates of the round that is running
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lorgnette.common.files import atomic_write, make_folder, write_text
from lorgnette.federate.aggregation.adapter_state import AdapterState
from lorgnette.federate.aggregation.aggregate import Global
from lorgnette.federate.aggregation.factors import Product
from lorgnette.train.listeners.metrics_file import read_metrics

FORMAT_VERSION = 1
_PARTS = ("A", "B", "tensor", "folded_A", "folded_B", "optimizer")


@dataclass(frozen=True)
class Saved:
    """The server after a round."""

    round: int
    state: Global
    record: Mapping[str, Any]
    """The line of the journal."""
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    best_round: int = 0
    best: Mapping[str, float | None] = field(default_factory=dict)
    """Metrics of the best round."""
    since_best: int = 0
    """Rounds without a better one."""
    void: int = 0
    """Rounds in a row without a quorum."""
    clients: Sequence[str] = ()
    """Every client there has been, in the order they came: their ranks go by it."""


class RoundJournal:
    """The files of one federation.

    Args:
        folder: made when the first round is kept.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self.lines_file = self.folder / "journal.jsonl"
        self._state, self._best = self.folder / "state.safetensors", self.folder / "best.safetensors"
        self._replies = self.folder / "replies"

    def latest(self) -> Saved | None:
        """What to go on from; None where no round was kept.

        Raises:
            ValueError: the files are damaged or of another version.
        """
        if not self._state.is_file():
            return None
        saved = _read(self._state)
        lines = [line for line in self.lines() if line.get("round", 0) < saved.round]
        kept = [line for line in self.lines() if line.get("round") == saved.round]
        self._write_lines([*lines, *(kept[:1] or [dict(saved.record)])])
        for folder in self._replies.glob("*"):
            if folder.name <= f"{saved.round:06d}":
                shutil.rmtree(folder, ignore_errors=True)
        return saved

    def best(self) -> Global | None:
        """What the server had after the best round."""
        return _read(self._best).state if self._best.is_file() else None

    def is_later_than(self, adapter: Path) -> bool:
        """Whether a round was kept since the files of this folder were written, or the folder is not there."""
        written = [file.stat().st_mtime_ns for file in adapter.rglob("*") if file.is_file()]
        return self._state.is_file() and self._state.stat().st_mtime_ns > max(written, default=0)

    def lines(self) -> list[dict[str, Any]]:
        """The line of every round that is closed; that of round 0 has the metrics at the start."""
        return read_metrics(self.lines_file) if self.lines_file.is_file() else []

    def commit(self, saved: Saved, seconds: float = 0.0) -> None:
        """Close a round. A process killed on the way leaves this round or the one before."""
        make_folder(self.folder)
        if saved.best_round == saved.round:
            _write(self._best, saved)
        _write(self._state, saved)
        earlier = [line for line in self.lines() if line.get("round", 0) < saved.round]
        self._write_lines([*earlier, {**saved.record, "seconds": round(seconds, 3)}])
        shutil.rmtree(self._replies, ignore_errors=True)

    def keep_reply(self, number: int, client: str, data: bytes) -> None:
        """Keep an update that came in, so that a restarted server need not ask for it again."""
        with atomic_write(self._reply_file(number, client)) as temporary:
            temporary.write_bytes(data)

    def kept_replies(self, number: int, clients: Iterable[str]) -> dict[str, bytes]:
        """The updates of a round that came in before."""
        files = {client: self._reply_file(number, client) for client in clients}
        return {client: file.read_bytes() for client, file in files.items() if file.is_file()}

    def _reply_file(self, number: int, client: str) -> Path:
        name = hashlib.blake2b(client.encode(), digest_size=12).hexdigest()  # a client may call itself anything
        return self._replies / f"{number:06d}" / name

    def _write_lines(self, lines: Iterable[Mapping[str, Any]]) -> None:
        write_text(self.lines_file, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def _write(path: Path, saved: Saved) -> None:
    tensors: dict[str, Tensor] = {}
    for name, (A, B) in saved.state.adapter.factors.items():
        tensors |= {f"A {name}": A, f"B {name}": B}
    for name, (A, B) in saved.state.folded.items():
        tensors |= {f"folded_A {name}": A, f"folded_B {name}": B}
    tensors |= {f"tensor {name}": tensor for name, tensor in saved.state.adapter.tensors.items()}
    tensors |= {f"optimizer {name}": tensor for name, tensor in saved.optimizer.items()}
    facts = {
        "format_version": FORMAT_VERSION,
        "round": saved.round,
        "record": dict(saved.record),
        "best_round": saved.best_round,
        "best": dict(saved.best),
        "since_best": saved.since_best,
        "void": saved.void,
        "clients": list(saved.clients),
        "statistics": sorted(saved.state.adapter.statistics),
    }
    contiguous = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    try:
        with atomic_write(path) as temporary:
            save_file(contiguous, temporary, metadata={"lorgnette": json.dumps(facts)})
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"cannot write {path} ({str(error).splitlines()[0]}): is the disk full?") from None


def _read(path: Path) -> Saved:
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["lorgnette"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no mapping
        if facts["format_version"] != FORMAT_VERSION:
            raise ValueError(f"{path} has format_version {facts['format_version']!r}; this program reads 1")
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
        for key, tensor in tensors.items():
            part, _, name = key.partition(" ")
            parts[part][name] = tensor
        factors = {name: Product(A, parts["B"][name]) for name, A in parts["A"].items()}
        folded = {name: Product(A, parts["folded_B"][name]) for name, A in parts["folded_A"].items()}
        return Saved(
            facts["round"],
            Global(AdapterState(factors, parts["tensor"], frozenset(facts.get("statistics", ()))), folded),
            facts["record"],
            parts["optimizer"],
            facts["best_round"],
            facts["best"],
            facts["since_best"],
            facts["void"],
            facts["clients"],
        )
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or not the journal of a federation ({error!r})") from None
