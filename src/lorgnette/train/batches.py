"""Batches as a pure function of (seed, step): nothing to save, nothing to restore, any number of workers."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import util
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from lorgnette.common.parts import Parts


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


class BatchStream(Protocol):
    """What `fit` draws from."""

    def starting_at(self, step: int, rank: int = 0, processes: int = 1) -> Iterator[Any]:
        """Batches number `step`, `step + 1`, ... without end."""
        ...


class Batches(BatchStream, Protocol):
    """Training batches as a room loads them: of items that can be counted and dealt out to several holders."""

    def __len__(self) -> int:
        """How many items there are."""
        ...

    @property
    def samples(self) -> int:
        """How many samples these items are: what a holder's share counts in a federation."""
        ...

    @property
    def labels(self) -> Sequence[int] | None:
        """The class of each item, for a split by classes; None where there are none."""
        ...

    @property
    def folders(self) -> Mapping[str, Sequence[int]] | None:
        """Which items are from which folder, by a short name; None where there is one folder, or none."""
        ...

    @property
    def parts(self) -> Parts | None:
        """Which items are learnt from, held out, and left out; None where that cannot change from run to run."""
        ...

    def part(self, indices: Sequence[int] | NDArray[np.int64], seed: int) -> Batches:
        """Batches of these items alone, in an order of their own."""
        ...


StreamT = TypeVar("StreamT", bound=BatchStream)


class HeldOut(Sequence[Any]):
    """Held-out batches as a room loads them; a room that reads them as they are needed derives from it.

    Args:
        batches: at hand.
    """

    def __init__(self, batches: Sequence[Any] = ()):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.batches[index]

    @property
    def samples(self) -> int:
        """How many samples are in them: one in each, where a room does not say otherwise."""
        return len(self)

    @property
    def pictures(self) -> int:
        """How many pictures these are: as many as samples, where a room does not score one several times."""
        return self.samples


def as_batches(batches: StreamT | Sequence[Any], batch_size: int = 1) -> StreamT | ListedBatches:
    """Batches at hand, such as those of a room's miniature, like those that a room loads."""
    return ListedBatches(batches, batch_size) if isinstance(batches, Sequence) else batches


class DrawnBatches:
    """Training batches from a data set whose `__getitem__` takes a `Draw`.

    Samples come in a new random order every epoch; the order is a function of `seed` alone.

    Args:
        dataset: has `__len__` (its items) and `__getitem__(draw) -> sample`; `labels`, the class of each, where it has
            classes; `collate(samples) -> batch` where samples are no tensors of one size.
        batch_size: samples a step and process.
        seed: of the order and of the draws.
        workers: loading processes; the batches are the same for any number.
        parts: see `Batches`.
        folders: see `Batches`.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        parts: Parts | None = None,
        folders: Mapping[str, Sequence[int]] | None = None,
    ):
        if len(dataset) == 0:
            raise ValueError("the training data is empty")
        self.parts, self.folders = parts, folders
        self.dataset, self.batch_size, self.seed, self.workers = dataset, batch_size, seed, workers

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def samples(self) -> int:
        return len(self.dataset)

    @property
    def labels(self) -> Sequence[int] | None:
        return getattr(self.dataset, "labels", None)

    def part(self, indices: Sequence[int] | NDArray[np.int64], seed: int) -> DrawnBatches:
        """See `Batches`."""
        return DrawnBatches(_Part(self.dataset, indices), self.batch_size, seed, self.workers)

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
            collate_fn=_collate(self.dataset),
            multiprocessing_context="spawn" if self.workers else None,
            worker_init_fn=_end_without_unwinding if self.workers else None,
        )
        with _children_ignore_interrupts():
            return iter(loader)


class ListedBatches:
    """Batches at hand, taken in turn for ever; each is one item.

    Args:
        batches: what is taken.
        batch_size: samples in each.
    """

    labels: Sequence[int] | None = None
    folders: Mapping[str, Sequence[int]] | None = None
    parts: Parts | None = None

    def __init__(self, batches: Sequence[Any], batch_size: int = 1):
        if len(batches) == 0:
            raise ValueError("the training data is empty")
        self.batches, self.batch_size = batches, batch_size

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def samples(self) -> int:
        return len(self.batches) * self.batch_size

    def part(self, indices: Sequence[int] | NDArray[np.int64], seed: int) -> ListedBatches:
        """See `Batches`; they are taken in the given order, whatever the seed."""
        return ListedBatches([self.batches[int(index)] for index in indices], self.batch_size)

    def starting_at(self, step: int, rank: int = 0, processes: int = 1) -> Iterator[Any]:
        """Batches number `step`, `step + 1`, ...; processes take turns."""
        while True:
            yield self.batches[(step * processes + rank) % len(self.batches)]
            step += 1


class _Part:
    """Some items of a data set whose `__getitem__` takes a `Draw`."""

    def __init__(self, dataset: Any, indices: Sequence[int] | NDArray[np.int64]):
        self.dataset, self.indices = dataset, np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, draw: Draw) -> Any:
        return self.dataset[replace(draw, index=int(self.indices[draw.index]))]


def _collate(dataset: Any) -> Any:
    """How its samples become a batch; None: as PyTorch does it."""
    return _collate(dataset.dataset) if isinstance(dataset, _Part) else getattr(dataset, "collate", None)


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


def _end_without_unwinding(worker: int) -> None:
    """Lets a worker process end at once, without Python's own tidying up.

    A stream has no end, so its workers are always stopped while they send. Python's tidying up would unwind the sending
    thread, inside C++ code of PyTorch that cannot be unwound: now and then the process aborts, and the loader raises.
    """
    util.Finalize(None, _leave, exitpriority=-1000)  # after all others


def _leave() -> None:
    if sys.exc_info()[0] is None:  # an error is still to be printed
        util._flush_std_streams()  # pyright: ignore[reportAttributeAccessIssue]
        os._exit(0)


class _EndlessDraws:
    def __init__(self, batches: DrawnBatches, step: int, rank: int, processes: int):
        self.batches, self.step, self.rank, self.processes = batches, step, rank, processes

    def __iter__(self) -> Iterator[list[Draw]]:
        step = self.step
        while True:
            yield self.batches.draws(step, self.rank, self.processes)
            step += 1
