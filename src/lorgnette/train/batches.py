"""Batches as a pure function of (seed, step): nothing to save, nothing to restore, any number of workers."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset


def derived_seed(*parts: int) -> int:
    """A 63-bit seed which is a fixed function of the given non-negative whole numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class Draw:
    """Which sample to make: everything random about it may depend only on these."""

    seed: int
    step: int  # common to the whole batch
    slot: int  # position in the batch, over all processes
    index: int  # which of the data set's items

    def rng(self) -> np.random.Generator:
        """A generator of this sample's own."""
        return np.random.default_rng((self.seed, self.step, self.slot, 1))

    def batch_rng(self) -> np.random.Generator:
        """A generator that every sample of the batch shares (for a common scale, say)."""
        return np.random.default_rng((self.seed, self.step, 2))


class Batches(Protocol):
    """What `fit` draws from: batch number `step`, then the next, without end."""

    def starting_at(self, step: int, rank: int = 0, processes: int = 1) -> Iterator[Any]: ...


class DrawnBatches:
    """Training batches from a data set whose `__getitem__` takes a `Draw`.

    Samples come in a new random order every epoch; the order is a function of `seed` alone.

    Args:
        dataset: has `__len__` (its items) and `__getitem__(draw) -> sample`.
        batch_size: samples a step and process.
        seed: of the order and of the draws.
        workers: loading processes; the batches are the same for any number.
    """

    def __init__(self, dataset: Any, batch_size: int, seed: int = 0, workers: int = 0):
        if len(dataset) == 0:
            raise ValueError("the training data is empty")
        self.dataset, self.batch_size, self.seed, self.workers = dataset, batch_size, seed, workers

    def draws(self, step: int, rank: int = 0, processes: int = 1) -> list[Draw]:
        """The samples of one batch of one process."""
        slots = range(rank * self.batch_size, (rank + 1) * self.batch_size)
        first = step * self.batch_size * processes
        return [Draw(self.seed, step, slot, self._index(first + slot)) for slot in slots]

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.dataset))
        return int(_order(self.seed, epoch, len(self.dataset))[place])

    def starting_at(self, step: int, rank: int = 0, processes: int = 1) -> Iterator[Any]:
        """Batches number `step`, `step + 1`, ... without end."""
        sampler = _EndlessDraws(self, step, rank, processes)
        loader = DataLoader(
            _ByDraw(self.dataset),
            batch_sampler=sampler,  # pyright: ignore[reportArgumentType]  draws instead of indices
            num_workers=self.workers,
            multiprocessing_context="spawn" if self.workers else None,
        )
        with _children_ignore_interrupts():
            return iter(loader)


class ListedBatches:
    """Batches at hand, taken in turn for ever."""

    def __init__(self, batches: Sequence[Any]):
        if len(batches) == 0:
            raise ValueError("the training data is empty")
        self.batches = batches

    def starting_at(self, step: int, rank: int = 0, processes: int = 1) -> Iterator[Any]:
        """Batches number `step`, `step + 1`, ...; processes take turns."""
        while True:
            yield self.batches[(step * processes + rank) % len(self.batches)]
            step += 1


@lru_cache(maxsize=2)  # a batch can span two epochs
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 0)).permutation(n)


class _ByDraw(Dataset):
    """A data set as DataLoader wants it; pickled to the workers."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __getitem__(self, draw: Draw) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.dataset[draw]


@contextlib.contextmanager
def _children_ignore_interrupts() -> Iterator[None]:
    """Processes started inside leave Ctrl-C, which reaches all of them, to this one: it still needs their batches."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is ignored stays so in a new process
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class _EndlessDraws:
    def __init__(self, batches: DrawnBatches, step: int, rank: int, processes: int):
        self.batches, self.step, self.rank, self.processes = batches, step, rank, processes

    def __iter__(self) -> Iterator[list[Draw]]:
        step = self.step
        while True:
            yield self.batches.draws(step, self.rank, self.processes)
            step += 1
