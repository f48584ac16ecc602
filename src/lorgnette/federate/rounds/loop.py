"""The round loop. It knows no network, room or file: bytes go to a transport, and the answers are checked here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lorgnette.federate.aggregation.aggregate import ClientUpdate, Global, aggregate
from lorgnette.federate.aggregation.schemes import SCHEMES
from lorgnette.federate.aggregation.server_optimizer import ServerOptimizer
from lorgnette.federate.rounds.inbox import Counted, Inbox
from lorgnette.federate.rounds.round_events import (
    RoundDone,
    RoundEvent,
    RoundListener,
    RoundsEnded,
    RoundsStarted,
    RoundStarted,
)
from lorgnette.federate.rounds.round_journal import RoundJournal, Saved
from lorgnette.federate.rounds.transport import Reply, Transport
from lorgnette.federate.settings import FederateConfig
from lorgnette.federate.wire.messages import Local, Work, decode_work, encode_work
from lorgnette.train.batches import derived_seed

MOST_VOID = 3
"""Rounds in a row without a quorum after which the loop gives up."""


class Outcome(NamedTuple):
    """The end of the rounds."""

    last: Global
    best: Global
    """That of the best round; the last one where nothing was held out."""
    saved: Saved
    reason: str
    """"done", "stopped early", "interrupted" or "failed"."""


class Rounds:
    """Rounds of asking, checking, aggregating and saving.

    Args:
        config: settings of the rounds.
        start: what the server starts from, without what stays at the clients.
        base: digest of the base that every client must have, as `aggregation.adapter_state.Adapter` has it.
        journal: saves every round; None saves nothing.
        evaluate: the metrics of what the server has; None where nothing is held out.
        objective: the one figure of metrics that decides which round is best: higher is better.
        min_delta: a smaller rise is not counted as progress.
        listeners: called with each event.
    """

    def __init__(
        self,
        config: FederateConfig,
        start: Global,
        base: str,
        journal: RoundJournal | None = None,
        evaluate: Callable[[Global], Mapping[str, float]] | None = None,
        objective: Callable[[Mapping[str, float]], float] | None = None,
        min_delta: float = 0.0,
        listeners: Iterable[RoundListener] = (),
    ):
        self.config, self.start, self.base, self.journal = config, start, base, journal
        self.evaluate, self.objective, self.min_delta = evaluate, objective, min_delta
        self.listeners = list(listeners)
        self.optimizer: ServerOptimizer | None = None
        if config.server_optimizer != "none":
            self.optimizer = ServerOptimizer(config.server_optimizer, config.server_lr, config.server_momentum)
        self._best: Global = start
        self._saved: Saved | None = None

    def run(self, transport: Transport) -> Outcome:
        """Run all rounds that are left. Ctrl-C ends it after the last saved round.

        Raises:
            ValueError: too few clients answered in several rounds in a row; one line says what the last ones said.
        """
        saved = self.journal.latest() if self.journal else None
        if saved is None:
            saved = self._first()
        elif self.optimizer is not None:
            self.optimizer.restore(saved.optimizer)
        self._best = (self.journal.best() if self.journal else None) or saved.state
        self._saved = saved
        clients = sorted(transport.clients())
        self._emit(RoundsStarted(saved.round, self.config.rounds, clients, saved.record))
        reason = "done"
        try:
            while saved.round < self.config.rounds:
                if self.config.patience and saved.since_best >= self.config.patience:
                    reason = "stopped early"
                    break
                self._saved = saved = self._round(transport, saved)
        except KeyboardInterrupt:
            reason = "interrupted"
        except Exception:
            self._emit(RoundsEnded(saved.round, "failed", saved.best_round, saved.best))
            raise
        self._emit(RoundsEnded(saved.round, reason, saved.best_round, saved.best))
        return Outcome(saved.state, self._best if saved.best else saved.state, saved, reason)

    def reached(self) -> Outcome | None:
        """What the rounds have come to, now or according to the journal; None where none has counted yet."""
        saved, best = self._saved, self._best
        if saved is None and self.journal is not None and (saved := self.journal.latest()) is not None:
            best = self.journal.best() or saved.state
        if saved is None or saved.round == saved.void:
            return None
        return Outcome(saved.state, best if saved.best else saved.state, saved, "failed")

    def _first(self) -> Saved:
        metrics = dict(self.evaluate(self.start)) if self.evaluate else {}
        record = {"round": 0, "metrics": _finite(metrics), "is_best": bool(metrics)}
        saved = Saved(0, self.start, record, best=_finite(metrics))
        if self.journal:
            self.journal.commit(saved)
        return saved

    def _round(self, transport: Transport, saved: Saved) -> Saved:
        started = time.perf_counter()
        config, number = self.config, saved.round + 1
        here = sorted(transport.clients())
        saved = replace(saved, clients=[*saved.clients, *(name for name in here if name not in saved.clients)])
        asked = chosen_clients(here, config, number)
        self._emit(RoundStarted(number, asked))
        # A client keeps its rank, whoever else comes and goes.
        ranks = {name: config.rank_of(saved.clients.index(name)) for name in asked}
        messages = self._work(saved.state, number, ranks)
        inbox = Inbox(number, {name: work for name, (_, work) in messages.items()}, self.base, self._emit)
        counted, refused = self._answers(transport, inbox, {name: data for name, (data, _) in messages.items()})
        enough = math.ceil(config.quorum * len(asked) - 1e-9)
        record: dict[str, Any] = {
            "round": number,
            "asked": asked,
            "answered": sorted(counted),
            "refused": dict(sorted(refused.items())),
            "missing": [name for name in asked if name not in counted and name not in refused],
            "counted": len(counted) >= enough and bool(counted),
            "bytes_down": sum(len(data) for data, _ in messages.values()),
            "bytes_up": sum(one.size for one in counted.values()),
        }
        after = saved
        if record["counted"]:
            updates = [ClientUpdate(name, self._weight(one), one.received.state) for name, one in counted.items()]
            result = aggregate(config.scheme, saved.state, updates, number, config.seed, self.optimizer)
            after = replace(saved, state=result.after, void=0)
            record["aggregation_error"] = result.error
        elif saved.void + 1 >= MOST_VOID:
            said = next(iter(refused.items()), None)
            because = f"; {said[0]}: {said[1]}" if said else "; a longer deadline may help"
            raise ValueError(
                f"quorum: {len(counted)} of {len(asked)} clients gave a usable update in round {number}, {enough} are"
                f" needed, for {MOST_VOID} rounds in a row{because}"
            )
        else:
            after = replace(saved, void=saved.void + 1)
        metrics = self._metrics(after, counted, saved.record.get("metrics") or {})
        is_best, best = self._judge(metrics, after)
        record |= {"metrics": metrics, "is_best": is_best}
        record["clients"] = {
            name: {
                "samples": one.received.samples,
                "loss": one.received.loss if math.isfinite(one.received.loss) else None,
                "update_norm": one.norm,
                "bytes_up": one.size,
                "bytes_down": len(messages[name][0]),
                "metrics": one.received.metrics,
                **({"skipped": one.received.skipped} if one.received.skipped else {}),
            }
            for name, one in sorted(counted.items())
        }
        optimizer = self.optimizer.state if self.optimizer else {}
        after = replace(best, round=number, record=record, optimizer=optimizer)
        if is_best:
            after, self._best = replace(after, best_round=number), after.state
        seconds = time.perf_counter() - started
        if self.journal:
            self.journal.commit(after, seconds)
        self._emit(RoundDone(number, {**record, "seconds": round(seconds, 3)}))
        return after

    def _work(self, state: Global, number: int, ranks: Mapping[str, int | None]) -> dict[str, tuple[bytes, Work]]:
        """Each client's message, and the work it decodes to; clients of one rank get the same message."""
        config, made = self.config, {}
        local = Local(
            config.local_steps,
            lr_factor(number, config),
            config.proximal,
            config.clip,
            config.noise,
            config.seed,
            config.client_metrics or bool(config.personal),
        )
        scheme = SCHEMES[config.scheme]
        for rank in set(ranks.values()):
            own = state.adapter.best_at(rank) if scheme.moves_axes and not scheme.restarts else state.adapter.at(rank)
            args = (config.scheme, config.precision, rank, local, self.base, own, state.folded)
            data = encode_work(number, *args)
            made[rank] = (data, decode_work(data, own, self.base))
        return {name: made[rank] for name, rank in ranks.items()}

    def _answers(
        self, transport: Transport, inbox: Inbox, messages: Mapping[str, bytes]
    ) -> tuple[dict[str, Counted], dict[str, str]]:
        """The updates that are used, and why others are not."""
        if self.journal:
            for name, data in self.journal.kept_replies(inbox.round, messages).items():
                inbox.take(Reply(name, data))
        rest = {name: data for name, data in messages.items() if name not in inbox.counted}
        for reply in transport.ask(inbox.round, rest, self.config.deadline) if rest else ():
            if inbox.take(reply) and self.journal:
                self.journal.keep_reply(inbox.round, reply.client, reply.data)
        inbox.close()
        return inbox.counted, inbox.refused

    def _weight(self, one: Counted) -> float:
        return float(one.received.samples) if self.config.weights == "samples" else 1.0

    def _metrics(
        self, after: Saved, counted: Mapping[str, Counted], last: Mapping[str, float | None]
    ) -> dict[str, float | None]:
        """Of what the server has; where layers stay at home, the mean of what each client's own whole has."""
        if self.config.personal:
            own = [(self._weight(one), one.received.metrics) for one in counted.values() if one.received.metrics]
            names = dict.fromkeys(name for _, metrics in own for name in metrics)
            pairs = {name: [(w, m[name]) for w, m in own if name in m] for name in names}
            return {name: sum(w * v for w, v in p) / sum(w for w, _ in p) for name, p in pairs.items()} or dict(last)
        return _finite(self.evaluate(after.state)) if self.evaluate else {}

    def _judge(self, metrics: Mapping[str, float | None], saved: Saved) -> tuple[bool, Saved]:
        if not metrics or self.objective is None:
            return False, saved
        value, best = (self._objective(m) for m in (metrics, saved.best))
        is_best = value > best + self.min_delta or (math.isnan(best) and not math.isnan(value))
        if is_best:
            return True, replace(saved, best=dict(metrics), since_best=0)
        return False, replace(saved, since_best=saved.since_best + 1)

    def _objective(self, metrics: Mapping[str, float | None]) -> float:
        numbers = {name: math.nan if value is None else value for name, value in metrics.items()}
        return self.objective(numbers) if numbers and self.objective else math.nan

    def _emit(self, event: RoundEvent) -> None:
        for listener in self.listeners:
            listener(event)


def chosen_clients(names: Sequence[str], config: FederateConfig, round: int) -> list[str]:
    """Who is asked in a round: a function of the names, the seed and the round."""
    count = max(1, math.ceil(config.fraction * len(names) - 1e-9)) if names else 0
    order = np.random.default_rng(derived_seed(config.seed, round, 0xC11)).permutation(len(names))
    return sorted(names[int(i)] for i in order[:count])


def lr_factor(round: int, config: FederateConfig) -> float:
    """The learning rate of a round (from 1) as a share of its peak; never zero."""
    if config.schedule == "constant":
        return 1.0
    progress = (round - 1) / max(1, config.rounds)
    return config.final_lr_ratio + (1 - config.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
