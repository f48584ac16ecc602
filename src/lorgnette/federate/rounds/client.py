"""A client that trains a task of any room with `lorgnette.train.loop.fit` on its own part of the data."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lorgnette.federate.aggregation.adapter_state import Adapter, AdapterState
from lorgnette.federate.aggregation.factors import Product
from lorgnette.federate.rounds.client_store import MemoryStore, Store
from lorgnette.federate.rounds.transport import Cancelled
from lorgnette.federate.wire.feedback import rounded_update
from lorgnette.federate.wire.messages import Local, decode_work
from lorgnette.federate.wire.privacy import privatised
from lorgnette.train.batches import BatchStream, as_batches, derived_seed
from lorgnette.train.config import TrainConfig
from lorgnette.train.events import Event, Stepped
from lorgnette.train.loop import evaluate, fit
from lorgnette.train.task import Task

_LAST = 2**31  # no round comes later
_HOME, _ERRORS = "home:", "lost:"  # of what a client keeps: its own layers, its rounding errors


class Place:
    """A task and its adapter, lent to one client after another."""

    def __init__(self, task: Task):
        self.task, self.adapter = task, Adapter(task.model)
        self.made = self.adapter.read()


class Places:
    """Tasks of one recipe; clients that train one after another share a task.

    Args:
        make: builds a task; always the same one.
    """

    def __init__(self, make: Callable[[], Task]):
        self._make = make
        self._free: list[Place] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lent(self) -> Iterator[Place]:
        """A task for exclusive use; its adapter is as the last user left it."""
        with self._lock:
            place = self._free.pop() if self._free else None
        place = place or Place(self._make())
        try:
            yield place
        finally:
            with self._lock:
                self._free.append(place)


class LocalClient:
    """Trains on one part of the data.

    Args:
        name: of the client; its random numbers depend on it.
        places: where to train.
        batches: its training data.
        samples: how many it has.
        config: how to train; the server sets the steps and the learning rate schedule.
        store: what it keeps from round to round.
        test: held-out batches to score on, where the server asks for that.
        personal: layers that stay at home, as in `FederateConfig.personal`.
        noise_seed: seed of the noise on its updates, known to nobody else; None takes the server's seed, and the
            server could then subtract the noise.
    """

    def __init__(
        self,
        name: str,
        places: Places,
        batches: BatchStream | Sequence[Any],
        samples: int,
        config: TrainConfig,
        store: Store | None = None,
        test: Sequence[Any] | None = None,
        personal: Sequence[str] = (),
        noise_seed: int | None = None,
    ):
        self.name, self.places, self.samples, self.config = name, places, samples, config
        self.batches = as_batches(batches)
        self.store = MemoryStore() if store is None else store
        self.test, self.personal, self.noise_seed = test, list(personal), noise_seed
        self._number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")

    def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
        """See `lorgnette.federate.rounds.transport.Client`."""
        with self.places.lent() as place:
            return self._train(place, round, work, cancelled)

    def at_home(self, made: AdapterState) -> AdapterState:
        """The adapter `made` with this client's personal layers."""
        return made.updated(_with_tensors(made.only(made.matching(self.personal)), self.store.before(_LAST)))

    def _train(self, place: Place, round: int, data: bytes, cancelled: threading.Event | None) -> bytes:
        adapter, made = place.adapter, place.made
        at_home = made.matching(self.personal)
        work = decode_work(data, made.without(at_home), adapter.base)
        if work.round != round:
            raise ValueError(f"work of round {work.round} came in round {round}")
        kept = self.store.before(round)
        own = _with_tensors(made.only(at_home), kept)
        adapter.write(made.updated(own).updated(work.state), work.folded)
        adapter.freeze(work.trained)
        loss, skipped = self._fit(place.task, work.local, round, cancelled)
        trained = adapter.read()
        metrics: dict[str, float] = {}
        if self.test and work.local.metrics:
            metrics = evaluate(place.task, self.test, self.config.precision)
        seed = derived_seed(work.local.seed if self.noise_seed is None else self.noise_seed, round, self._number)
        shared = privatised(trained.without(at_home), work.state, work.trained, work.local, seed)
        errors = {name.removeprefix(_ERRORS): t for name, t in kept.items() if name.startswith(_ERRORS)}
        message, lost = rounded_update(work, adapter.base, shared, errors, self.samples, loss, metrics, skipped)
        self.store.keep(round, _named(trained.only(at_home)) | {f"{_ERRORS}{name}": t for name, t in lost.items()})
        return message

    def _fit(self, task: Task, local: Local, round: int, cancelled: threading.Event | None) -> tuple[float, int]:
        """Train, and give the mean loss and how many steps were skipped.

        Raises:
            ValueError: all were, or there was none: who learnt nothing must not count as if it had learnt to stay.
        """
        if self.samples < 1 or local.steps < 1:
            raise ValueError(f"it learnt nothing: {local.steps} steps on {self.samples} samples")
        config = replace(
            self.config,
            steps=local.steps,
            lr=self.config.lr * local.lr_factor,
            base_lr=None if self.config.base_lr is None else self.config.base_lr * local.lr_factor,
            schedule="constant",
            warmup_steps=0,
            patience=0,
            ema_decay=0.0,
            seed=derived_seed(local.seed, round, self._number),
        )
        losses: list[float] = []

        def listen(event: Event) -> None:
            if isinstance(event, Stepped):
                losses.extend([event.losses["loss"]] * event.applied)
                if cancelled is not None and cancelled.is_set():
                    raise Cancelled

        task = Proximal(task, local.proximal) if local.proximal else task
        end = fit(task, _Later(self.batches, (round - 1) * local.steps * config.accumulate), config, [listen])
        if end.reason == "interrupted":
            raise KeyboardInterrupt
        if not losses:
            raise ValueError(
                f"it learnt nothing: in all {end.step} steps the loss or its gradients were no finite numbers"
            )
        return sum(losses) / len(losses), end.step - len(losses)


class Proximal(Task):
    """A task whose loss penalises the distance from where it started (FedProx, Li et al., arXiv 1812.06127).

    Args:
        task: the task.
        strength: half of it times the squared distance, over all that is trained, is added to the loss.
    """

    def __init__(self, task: Task, strength: float):
        super().__init__()
        self.task, self.strength = task, strength
        self._start = {name: p.detach().clone() for name, p in task.named_parameters() if p.requires_grad}

    def forward(self, batch: Any) -> dict[str, Tensor]:
        losses = self.task(batch)
        here = dict(self.task.named_parameters())
        squares = [(here[name] - start.to(here[name].device)).square().sum() for name, start in self._start.items()]
        penalty = self.strength / 2 * torch.stack(squares).sum()
        return {**losses, "loss": losses["loss"] + penalty, "proximal": penalty}


class _Later:
    """Batches, starting at a later one."""

    def __init__(self, batches: BatchStream, start: int):
        self.batches, self.start = batches, start

    def starting_at(self, step: int, rank: int = 0, processes: int = 1) -> Iterator[Any]:
        return self.batches.starting_at(self.start + step, rank, processes)


def _named(state: AdapterState) -> dict[str, Tensor]:
    named = {f"{_HOME}{name}": tensor for name, tensor in state.tensors.items()}
    for name, product in state.factors.items():
        named |= {f"{_HOME}{name}.lora_A": product.A, f"{_HOME}{name}.lora_B": product.B}
    return named


def _with_tensors(state: AdapterState, kept: Mapping[str, Tensor]) -> AdapterState:
    """The state with what was kept of it."""
    named = {name.removeprefix(_HOME): tensor for name, tensor in kept.items() if name.startswith(_HOME)}
    factors = {
        name: Product(named.get(f"{name}.lora_A", product.A), named.get(f"{name}.lora_B", product.B))
        for name, product in state.factors.items()
    }
    return replace(state, factors=factors, tensors={n: named.get(n, tensor) for n, tensor in state.tensors.items()})
