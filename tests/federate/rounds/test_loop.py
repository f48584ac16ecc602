"""The round loop with clients that only do arithmetic: deadline, quorum, hostile clients, going on after any stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lorgnette.federate.aggregation.adapter_state import AdapterState
from lorgnette.federate.aggregation.aggregate import Global
from lorgnette.federate.aggregation.factors import Product
from lorgnette.federate.rounds import round_events as events
from lorgnette.federate.rounds.client_store import FolderStore, MemoryStore, Store
from lorgnette.federate.rounds.loop import Outcome, Rounds, chosen_clients, lr_factor
from lorgnette.federate.rounds.round_journal import RoundJournal
from lorgnette.federate.rounds.transport import Client, InProcess, Reply
from lorgnette.federate.settings import FederateConfig
from lorgnette.federate.wire.feedback import rounded_update
from lorgnette.federate.wire.messages import Local, decode_work, encode_work

BASE = "base"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the many small files here none has to outlive a power cut."""
    monkeypatch.setattr("lorgnette.common.files._flush_to_disk", lambda path: None)


def start() -> AdapterState:
    generator = torch.Generator().manual_seed(0)
    factors = {
        name: Product(torch.randn(3, n, generator=generator), torch.zeros(m, 3))
        for name, m, n in (("a", 5, 6), ("b", 4, 9))
    }
    return AdapterState(factors, {"head": torch.zeros(2)})


class Walker:
    """A client whose training is a random walk, the same for the same round and message."""

    def __init__(self, name: str, store: Store | None = None, samples: int = 10):
        self.name, self.store, self.samples = name, MemoryStore() if store is None else store, samples
        self.asked: list[int] = []

    def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
        self.asked.append(round)
        given = decode_work(work, start(), BASE)
        generator = torch.Generator().manual_seed(sum(map(ord, self.name)) * 1000 + round)

        def step(value: torch.Tensor) -> torch.Tensor:
            return value + 0.1 * torch.randn(value.shape, generator=generator)

        factors = {
            name: Product(step(p.A) if "A" in given.trained else p.A, step(p.B) if "B" in given.trained else p.B)
            for name, p in given.state.factors.items()
        }
        trained = AdapterState(factors, {"head": step(given.state.tensors["head"])})
        data, errors = rounded_update(given, BASE, trained, self.store.before(round), self.samples, 0.5, {})
        self.store.keep(round, errors)
        return data


def distance_from_ones(state: Global) -> dict[str, float]:
    whole = state.whole().factors["a"]
    return {"closeness": -float((whole.dense() - 1).norm())}


def rounds(
    config: FederateConfig,
    journal: RoundJournal | None = None,
    listen: Callable[[Any], None] | None = None,
    **kwargs: Any,
) -> Rounds:
    listeners = [listen] if listen else []
    return Rounds(config, Global(start()), BASE, journal, listeners=listeners, **kwargs)


def scored(config: FederateConfig, journal: RoundJournal | None = None, listen: Any = None) -> Rounds:
    return rounds(config, journal, listen, evaluate=distance_from_ones, objective=lambda m: m["closeness"])


def tensors(outcome: Outcome) -> dict[str, torch.Tensor]:
    state = outcome.last
    found = {f"{n}.{k}": getattr(p, k) for n, p in state.adapter.factors.items() for k in "AB"}
    found |= {f"{n}.folded.{k}": getattr(p, k) for n, p in state.folded.items() for k in "AB"}
    found |= {f"best.{n}.{k}": getattr(p, k) for n, p in outcome.best.adapter.factors.items() for k in "AB"}
    return found | dict(state.adapter.tensors) | dict(outcome.saved.optimizer)


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# ---------------------------------------------------------------------------------------------------- going on


class Stop(BaseException):
    """As sudden as a kill: nothing catches it."""


WAYS = {
    "svd": {"scheme": "svd", "precision": "int8", "server_optimizer": "momentum", "ranks": (1, 3)},
    "fedavg": {"scheme": "fedavg", "precision": "bf16", "server_optimizer": "adam", "fraction": 0.6},
    "ffa": {"scheme": "ffa", "precision": "int8", "server_optimizer": "adam"},
    "stack": {"scheme": "stack", "precision": "int8"},
    "residual": {"scheme": "residual", "precision": "fp16", "server_optimizer": "momentum"},
    "alternating": {"scheme": "alternating", "precision": "int8", "server_optimizer": "adam"},
}


def stops() -> list[tuple[str, int]]:
    kinds = ("RoundStarted", "Answered", "RoundDone", "commit", "line")
    return [(kind, round) for kind in kinds for round in (1, 4)]


@pytest.mark.parametrize("way", WAYS)
def test_stopped_anywhere_and_resumed_ends_with_the_same_bits(way: str, tmp_path: Path, monkeypatch):
    """The whole of the state: adapter, what is folded, the best round, the server's optimiser, clients' errors."""
    config = FederateConfig(clients=3, rounds=4, seed=1, **WAYS[way])

    def run(folder: Path, stop: tuple[str, int] | None) -> Outcome:
        seen: dict[str, int] = {}

        def listen(event: Any) -> None:
            kind = type(event).__name__
            if kind == "Answered":  # the second of the round
                seen[f"{kind}{event.round}"] = seen.get(f"{kind}{event.round}", 0) + 1
                if seen[f"{kind}{event.round}"] < 2:
                    return
            if (kind, getattr(event, "round", 0)) == stop:
                raise Stop

        journal = RoundJournal(folder)
        if stop and stop[0] == "commit":  # the tensors of the best are there, those of the round are not
            monkeypatch.setattr("lorgnette.federate.rounds.round_journal.save_file", stopping(stop[1]))
        if stop and stop[0] == "line":  # the tensors are there, the line is not
            monkeypatch.setattr(journal, "_write_lines", lambda lines, own=journal._write_lines: late(lines, own, stop))
        clients = {f"c{i}": Walker(f"c{i}", FolderStore(folder / "clients" / f"c{i}"), 5 + i) for i in range(3)}
        try:
            return scored(config, journal, listen).run(InProcess(clients))
        finally:
            monkeypatch.setattr("lorgnette.federate.rounds.round_journal.save_file", save_file)

    whole = run(tmp_path / "whole", None)
    for number, stop in enumerate(stops()):
        folder = tmp_path / str(number)
        with pytest.raises(Stop):
            run(folder, stop)
        resumed = run(folder, None)
        assert same(tensors(resumed), tensors(whole)), stop
        lines = [{**line, "seconds": 0} for line in RoundJournal(folder).lines()]
        wanted = [{**line, "seconds": 0} for line in RoundJournal(tmp_path / "whole").lines()]
        assert lines == wanted, stop
        assert not list((folder / "replies").glob("*"))


def stopping(round: int) -> Callable[..., None]:
    def save(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
        if f'"round": {round}, ' in metadata["lorgnette"] and "state" in Path(path).name:
            raise Stop
        save_file(tensors, path, metadata)

    return save


def late(lines: Any, write: Callable[[Any], None], stop: tuple[str, int]) -> None:
    lines = list(lines)
    if lines[-1]["round"] == stop[1]:
        raise Stop
    write(lines)


def test_answers_that_came_in_are_not_asked_for_again(tmp_path: Path):
    config = FederateConfig(clients=3, rounds=2)
    clients = {name: Walker(name, FolderStore(tmp_path / name)) for name in "abc"}

    def stop_at_the_second(event: Any) -> None:
        if isinstance(event, events.Answered) and event.client == "b" and event.round == 2:
            raise Stop

    with pytest.raises(Stop):
        rounds(config, RoundJournal(tmp_path), stop_at_the_second).run(InProcess(clients))
    rounds(config, RoundJournal(tmp_path)).run(InProcess(clients))
    assert clients["a"].asked == [1, 2]
    assert clients["b"].asked == [1, 2, 2]  # its answer was not on disk yet
    assert clients["c"].asked == [1, 2]


def test_a_damaged_journal_is_one_line(tmp_path: Path):
    journal = RoundJournal(tmp_path)
    rounds(FederateConfig(clients=1, rounds=1), journal).run(InProcess({"a": Walker("a")}))
    good = (tmp_path / "state.safetensors").read_bytes()
    for bad in (b"", good[:100], good.replace(b"format_version", b"format_versiom"), good.replace(b"A a", b"Q a")):
        (tmp_path / "state.safetensors").write_bytes(bad)
        with pytest.raises(ValueError, match=r"state\.safetensors") as refusal:
            journal.latest()
        assert "\n" not in str(refusal.value)


def test_a_client_s_name_never_becomes_a_path(tmp_path: Path):
    name = "../../up"
    journal = RoundJournal(tmp_path / "in" / "journal")
    journal.keep_reply(1, name, b"x")
    assert journal.kept_replies(1, [name, "other"]) == {name: b"x"}
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


# ------------------------------------------------------------------------------------------- deadline and quorum


class Silent:
    """Never answers, and does not care that nobody waits."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked = 0

    def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
        self.asked += 1
        self.release.wait(60)
        return b""


def test_a_client_that_never_answers_does_not_hold_the_round_up():
    silent = Silent()
    clients: dict[str, Client] = {"a": Walker("a"), "b": silent, "c": Walker("c")}
    config = FederateConfig(clients=3, rounds=3, deadline=0.3)
    began = time.monotonic()
    outcome = rounds(config).run(InProcess(clients))
    silent.release.set()
    assert time.monotonic() - began < 10
    assert outcome.saved.round == 3
    record = outcome.saved.record
    assert record["counted"]
    assert record["answered"] == ["a", "c"]
    assert record["missing"] == ["b"]
    assert silent.asked == 1  # it still has not come back


def test_the_clients_that_answered_count_as_if_the_others_were_not_there():
    silent = Silent()
    with_silent = rounds(FederateConfig(clients=3, rounds=2, deadline=0.3)).run(
        InProcess({"a": Walker("a"), "b": silent, "c": Walker("c")})
    )
    silent.release.set()
    alone = rounds(FederateConfig(clients=2, rounds=2)).run(InProcess({"a": Walker("a"), "c": Walker("c")}))
    assert same(tensors(with_silent), tensors(alone))


def test_without_a_quorum_nothing_changes_and_then_it_gives_up():
    class Broken:
        def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
            raise ValueError("the disk\nis full")

    clients: dict[str, Client] = {"a": Walker("a"), "b": Broken(), "c": Broken()}
    seen: list[Any] = []
    config = FederateConfig(clients=3, rounds=9, quorum=0.5)
    with pytest.raises(ValueError, match=r"quorum: 1 of 3 .* 2 are needed.* 3 rounds in a row; b: the disk is full"):
        rounds(config, listen=seen.append).run(InProcess(clients))
    done = [event.record for event in seen if isinstance(event, events.RoundDone)]
    assert [record["counted"] for record in done] == [False, False]
    few = rounds(replace(config, quorum=1 / 3, rounds=2)).run(InProcess(clients))
    assert few.saved.record["counted"]
    assert few.saved.record["refused"] == {"b": "the disk is full", "c": "the disk is full"}


def test_a_mistake_of_ours_is_not_taken_for_a_client_s():
    class Wrong:
        def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
            raise AssertionError("ours")

    for deadline in (None, 5.0):
        with pytest.raises(AssertionError, match="ours"):
            rounds(FederateConfig(clients=1, rounds=1, deadline=deadline)).run(InProcess({"a": Wrong()}))


# ----------------------------------------------------------------------------------------------------- hostile


class Scaled(Walker):
    """Sends what it was given, times 1e9."""

    def __init__(self, name: str, factor: float):
        super().__init__(name)
        self.factor = factor

    def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
        given = decode_work(work, start(), BASE)
        factors = {name: Product(p.A * self.factor, p.B + self.factor) for name, p in given.state.factors.items()}
        trained = AdapterState(factors, given.state.tensors)
        return rounded_update(given, BASE, trained, {}, 10, 0.5, {})[0]


@pytest.mark.parametrize(("share", "counted"), [(0.999, True), (1.001, False)])
def test_a_change_counts_up_to_a_thousand_times_one_and_what_was_sent(share: float, counted: bool):
    class Far(Walker):
        def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
            given = decode_work(work, start(), BASE)
            sent = sum(float(p.A.square().sum() + p.B.square().sum()) for p in given.state.factors.values()) ** 0.5
            head = torch.tensor([share * 1e3 * (1 + sent), 0.0])  # it was zero
            return rounded_update(given, BASE, AdapterState(given.state.factors, {"head": head}), {}, 10, 0.5, {})[0]

    seen: list[Any] = []
    run = rounds(FederateConfig(clients=2, rounds=1, quorum=0.5), listen=seen.append)
    run.run(InProcess({"a": Walker("a"), "far": Far("far")}))
    assert [event.client for event in seen if isinstance(event, events.NotUsed)] == ([] if counted else ["far"])


class Saying:
    """Sends these bytes."""

    def __init__(self, data: bytes):
        self.data = data

    def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
        return self.data


def test_hostile_clients_are_named_and_the_round_goes_on():
    clients: dict[str, Client] = {
        "a": Walker("a"),
        "b": Walker("b"),
        "c": Walker("c"),
        "bomb": Scaled("bomb", 1e9),
        "firework": Scaled("firework", 30.0),
        "echo": Saying(b"\xff" * 64),
        "mute": Saying(b""),
    }
    seen: list[Any] = []
    outcome = rounds(FederateConfig(clients=7, rounds=2, quorum=0.4), listen=seen.append).run(InProcess(clients))
    refused = outcome.saved.record["refused"]
    assert refused.keys() == {"bomb", "firework", "echo", "mute"}
    assert "norm" in refused["bomb"]
    assert "times as large as the median" in refused["firework"]
    assert "header claims" in refused["echo"]
    assert {e.client for e in seen if isinstance(e, events.NotUsed)} == set(refused)
    honest = rounds(FederateConfig(clients=3, rounds=2)).run(InProcess({n: Walker(n) for n in "abc"}))
    assert same(tensors(outcome), tensors(honest))


def test_an_answer_nobody_asked_for_is_refused():
    class Intruding(InProcess):
        def ask(self, round: int, work: Mapping[str, bytes], deadline: float | None) -> Iterator[Reply]:
            replies = list(super().ask(round, work, deadline))
            yield Reply("nobody", replies[0].data)
            yield replies[0]
            yield replies[0]  # a second time: its weight must not double
            yield from replies[1:]

    seen: list[Any] = []
    config = FederateConfig(clients=2, rounds=1)
    walkers = {n: Walker(n) for n in "ab"}
    outcome = rounds(config, listen=seen.append).run(Intruding(walkers))
    plain = rounds(config).run(InProcess({n: Walker(n) for n in "ab"}))
    assert same(tensors(outcome), tensors(plain))
    assert [e.client for e in seen if isinstance(e, events.NotUsed)] == ["nobody", "a"]
    assert outcome.saved.record["answered"] == ["a", "b"]


# ------------------------------------------------------------------------------------------------------ the rest


def test_clients_are_chosen_by_seed_and_round():
    names = [f"c{i:02d}" for i in range(20)]
    config = FederateConfig(fraction=0.25, seed=3)
    chosen = [chosen_clients(names, config, round) for round in range(1, 9)]
    assert all(len(set(who)) == 5 and set(who) <= set(names) for who in chosen)
    assert chosen == [chosen_clients(names, config, round) for round in range(1, 9)]
    assert len({tuple(who) for who in chosen}) > 4
    assert len({name for who in chosen for name in who}) > 12


def test_the_learning_rate_falls_and_is_never_zero():
    config = FederateConfig(rounds=10, final_lr_ratio=0.0)
    factors = [lr_factor(round, config) for round in range(1, 11)]
    assert factors[0] == 1
    assert all(b < a for a, b in pairwise(factors))
    assert factors[-1] > 0
    assert lr_factor(9, replace(config, schedule="constant")) == 1


def test_it_stops_early_and_keeps_the_best():
    """Walkers leave in all directions: no round is better than the start by far."""
    config = FederateConfig(clients=2, rounds=50, patience=3)
    best = rounds(
        config,
        evaluate=lambda state: {"score": -float(state.adapter.factors["a"].dense().norm())},
        objective=lambda metrics: metrics["score"],
    ).run(InProcess({n: Walker(n) for n in "ab"}))
    assert best.reason == "stopped early"
    assert best.saved.round == 3
    assert best.saved.best_round == 0
    assert torch.equal(best.best.adapter.factors["a"].B, start().factors["a"].B)


def scripted(config: FederateConfig, scores: list[float], min_delta: float = 0.0, journal: Any = None) -> Outcome:
    """A run whose rounds are scored so, one after another; the first score is that of the start."""
    left = iter(scores)
    run = rounds(config, journal, evaluate=lambda _: {"s": next(left)}, objective=lambda m: m["s"], min_delta=min_delta)
    return run.run(InProcess({n: Walker(n) for n in "ab"}))


@pytest.mark.parametrize(
    ("scores", "min_delta", "ends", "best"),
    [
        ([0, 1, 0, 0, 2, 1, 1, 1, 9], 0.0, 7, 4),  # two without a better one, a better one, then three
        ([0, 1, 2, 3, 4, 5, 6], 0.0, 6, 6),
        ([5, 1, 1, 1, 9], 0.0, 3, 0),
        ([0, 1, 1.4, 1.4, 1.4, 9], 0.5, 4, 1),  # a rise of 0.4 is none
        ([0, 0.4, 0.8, 1.2, 9], 0.5, 4, 4),  # 0.8 is one: it is reckoned from the best, not from the last
        ([0, 1, 1, 1, 1, 9], 0.0, 4, 1),  # as good is not better
    ],
)
def test_patience_counts_rounds_without_a_better_one(scores, min_delta, ends, best, tmp_path: Path):
    config = FederateConfig(clients=2, rounds=len(scores) - 1, patience=3)
    outcome = scripted(config, scores, min_delta, RoundJournal(tmp_path))
    assert (outcome.saved.round, outcome.saved.best_round) == (ends, best)
    assert outcome.reason == ("stopped early" if ends < len(scores) - 1 else "done")
    saved = RoundJournal(tmp_path).latest()
    assert saved is not None
    assert (saved.best_round, saved.since_best) == (best, outcome.saved.since_best)


class Absent(Walker):
    """Does not answer in some rounds."""

    def __init__(self, name: str, away: set[int]):
        super().__init__(name)
        self.away = away

    def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
        if round in self.away:
            raise OSError("unreachable")
        return super().train(round, work, cancelled)


def test_rounds_without_a_quorum_are_counted_in_a_row():
    away = {1, 2, 4, 5, 7, 8}  # never three in a row
    clients = {n: Absent(n, away) for n in "ab"}
    outcome = rounds(FederateConfig(clients=2, rounds=9)).run(InProcess(clients))
    assert (outcome.saved.round, outcome.saved.void) == (9, 0)
    assert outcome.saved.record["counted"]


@pytest.mark.parametrize("resumed", [False, True])
def test_what_the_good_rounds_came_to_is_known_however_the_rounds_end(resumed: bool, tmp_path: Path):
    clients = {n: Absent(n, {3, 4, 5, 6}) for n in "ab"}
    config = FederateConfig(clients=2, rounds=9)
    good = rounds(replace(config, rounds=2, schedule="constant")).run(InProcess({n: Walker(n) for n in "ab"}))
    seen: list[Any] = []
    run = rounds(replace(config, schedule="constant"), RoundJournal(tmp_path), seen.append)
    with pytest.raises(ValueError, match="quorum"):
        run.run(InProcess(clients))
    assert isinstance(seen[-1], events.RoundsEnded)
    assert seen[-1].reason == "failed"
    if resumed:  # one that has not begun knows by the journal
        run = rounds(replace(config, schedule="constant"), RoundJournal(tmp_path))
    reached = run.reached()
    assert reached is not None
    assert reached.saved.round == 4
    assert torch.equal(reached.best.adapter.factors["a"].B, good.last.adapter.factors["a"].B)


def test_where_no_round_counted_nothing_was_reached(tmp_path: Path):
    run = rounds(FederateConfig(clients=1, rounds=9), RoundJournal(tmp_path))
    assert run.reached() is None
    with pytest.raises(ValueError, match="quorum"):
        run.run(InProcess({"a": Absent("a", set(range(99)))}))
    assert run.reached() is None


def test_steps_that_were_skipped_stand_in_the_journal():
    class Skipping(Walker):
        def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
            given = decode_work(work, start(), BASE)
            return rounded_update(given, BASE, given.state, {}, 10, 0.5, {}, skipped=2)[0]

    record = (
        rounds(FederateConfig(clients=2, rounds=1)).run(InProcess({"a": Walker("a"), "b": Skipping("b")})).saved.record
    )
    assert record["clients"]["b"]["skipped"] == 2
    assert "skipped" not in record["clients"]["a"]


def test_each_rank_gets_its_own_truncation_and_ranks_may_differ():
    config = FederateConfig(clients=3, rounds=2, ranks=(1, 2, 3))
    sent: dict[str, int] = {}

    class Listening(Walker):
        def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
            sent[self.name] = decode_work(work, start(), BASE).state.factors["a"].rank
            return super().train(round, work, cancelled)

    outcome = rounds(config).run(InProcess({n: Listening(n) for n in "abc"}))
    assert sent == {"a": 1, "b": 2, "c": 3}
    assert outcome.last.adapter.factors["a"].rank == 3
    assert outcome.saved.record["clients"]["a"]["bytes_up"] < outcome.saved.record["clients"]["c"]["bytes_up"]


def test_weights_are_samples_or_equal():
    clients = {"a": Walker("a", samples=1), "b": Walker("b", samples=99)}
    by_samples = rounds(FederateConfig(clients=2, rounds=1)).run(InProcess(clients))
    equal = rounds(FederateConfig(clients=2, rounds=1, weights="equal")).run(InProcess(clients))
    alone = rounds(FederateConfig(clients=1, rounds=1)).run(InProcess({"b": Walker("b")}))

    def head(outcome: Outcome) -> torch.Tensor:
        return outcome.last.adapter.tensors["head"]

    assert (head(by_samples) - head(alone)).norm() < 0.05 * (head(equal) - head(alone)).norm()


def test_a_client_keeps_its_rank_when_others_leave(tmp_path: Path):
    """Ranks go by the order in which clients were first seen, also after a new start."""
    sent: dict[str, int] = {}

    class Listening(Walker):
        def train(self, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
            sent[self.name] = decode_work(work, start(), BASE).state.factors["a"].rank
            return super().train(round, work, cancelled)

    config = FederateConfig(clients=3, rounds=1, ranks=(1, 2, 3), precision="int8")
    stores = {name: MemoryStore() for name in "abcd"}
    rounds(config, RoundJournal(tmp_path)).run(InProcess({n: Listening(n, stores[n]) for n in "bcd"}))
    assert sent == {"b": 1, "c": 2, "d": 3}
    rounds(replace(config, rounds=2), RoundJournal(tmp_path)).run(
        InProcess({n: Listening(n, stores[n]) for n in "acd"})
    )
    assert sent == {"b": 1, "c": 2, "d": 3, "a": 1}


def test_an_error_of_another_rank_is_left_behind():
    given = decode_work(encode_work(1, "fedavg", "int8", 2, Local(), BASE, start().at(2), {}), start(), BASE)
    errors = {"error:a.lora_A": torch.ones(3, 6), "error:head": torch.ones(2)}
    _, lost = rounded_update(given, BASE, given.state, errors, 1, 0.0, {})
    assert lost["error:a.lora_A"].shape == (2, 6)
    assert lost["error:head"].abs().max() < 0.01
