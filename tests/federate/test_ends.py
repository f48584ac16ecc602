"""Federations that end otherwise than planned, and clients that learn nothing: in one process and at a server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.federate.studies import make_study, own_data

from lorgnette import build, load
from lorgnette.federate.aggregation.adapter_state import Adapter
from lorgnette.federate.deploy.board import Board
from lorgnette.federate.deploy.data_holder import open_site
from lorgnette.federate.deploy.serving import keep_reached, run_rounds
from lorgnette.federate.flower import launch
from lorgnette.federate.rounds.client import LocalClient, Place, Places
from lorgnette.federate.rounds.transport import InProcess, Reply
from lorgnette.federate.run import FederationFolder, deal, federate
from lorgnette.federate.settings import FederateConfig
from lorgnette.federate.wire.messages import Local, encode_work
from lorgnette.systems import room

CONFIG = FederateConfig(clients=2, rounds=6, local_steps=2, deadline=None)
TRAIN = LocalClient.train


def miniature() -> tuple[Any, tuple[list[Any], list[Any]]]:
    recipe, batches, _ = room("superres").tiny()
    return recipe, (list(batches), [])  # nothing is held out: the last good round is the best


def ending(after: int, how: Callable[[], BaseException]) -> Callable[..., bytes]:
    def train(self: Any, round: int, work: bytes, cancelled: threading.Event | None = None) -> bytes:
        if round > after:
            raise how()
        return TRAIN(self, round, work, cancelled)

    return train


def factors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: product.B for name, product in Adapter(load(folder).model).read().factors.items()}


WAYS: dict[str, Callable[[], BaseException]] = {
    "sites gone for good": lambda: OSError("site unreachable"),
    "data that does not do": lambda: ValueError("its data is gone"),
    "a mistake of ours": lambda: AssertionError("ours"),
    "out of memory": lambda: MemoryError(),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_adapter_of_the_good_rounds_is_kept(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe, loaded = miniature()
    monkeypatch.setattr(LocalClient, "train", ending(2, WAYS[way]))
    with pytest.raises((ValueError, AssertionError, MemoryError)) as end:
        federate(recipe, CONFIG, tmp_path / "run", loaded)
    if isinstance(end.value, ValueError):
        assert f"is in {tmp_path / 'run' / 'adapter'}" in str(end.value)
    assert (tmp_path / "run" / "report.html").is_file()
    journal = FederationFolder(tmp_path / "run").journal.latest()
    assert journal is not None
    kept = factors(tmp_path / "run" / "adapter")
    for name, product in journal.state.adapter.factors.items():
        assert torch.allclose(kept[name], product.B, atol=1e-6), name
        assert product.B.abs().max() > 0
    monkeypatch.setattr(LocalClient, "train", TRAIN)  # and it can go on
    outcome, _ = federate(recipe, CONFIG, tmp_path / "run", loaded)
    assert outcome.saved.round == 6
    assert not torch.equal(factors(tmp_path / "run" / "adapter")[name], kept[name])


def test_sites_too_slow_for_the_deadline_end_it_with_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe, loaded = miniature()

    class Slow(InProcess):
        def ask(self, round: int, work: Mapping[str, bytes], deadline: float | None) -> Iterator[Reply]:
            return super().ask(round, work, deadline) if round < 3 else iter(())

    monkeypatch.setattr("lorgnette.federate.run.InProcess", Slow)
    with pytest.raises(ValueError, match=r"a longer deadline may help; the adapter after round 4 is in"):
        federate(recipe, CONFIG, tmp_path / "run", loaded)
    load(tmp_path / "run" / "adapter")


def test_where_nothing_was_learnt_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe, loaded = miniature()
    monkeypatch.setattr(LocalClient, "train", ending(0, WAYS["sites gone for good"]))
    with pytest.raises(ValueError, match="site unreachable") as end:
        federate(recipe, CONFIG, tmp_path / "run", loaded)
    assert "adapter" not in str(end.value)
    assert not (tmp_path / "run" / "adapter").exists()


def test_layers_of_the_clients_own_are_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe, loaded = miniature()
    monkeypatch.setattr(LocalClient, "train", ending(1, WAYS["sites gone for good"]))
    with pytest.raises(ValueError, match="quorum"):
        federate(recipe, replace(CONFIG, personal=("imnet",)), tmp_path / "run", loaded)
    for name in ("adapter", "adapters/client-1", "adapters/client-2"):
        load(tmp_path / "run" / name)


# ---------------------------------------------------------------------------------------------- nothing learnt


@pytest.mark.parametrize(("local_steps", "bad"), [(3, 3), (12, 12), (3, 1)])
def test_a_client_that_learns_nothing_does_not_count(local_steps: int, bad: int, tmp_path: Path):
    """With as many samples as the others; where some of its steps did something it counts, and that is written down."""
    recipe, (batches, _) = miniature()
    count = len(batches) // 2 * 2
    batches = [dict(batch) for batch in batches[:count]]
    config = FederateConfig(clients=2, rounds=1, local_steps=local_steps, split="iid", quorum=0.5)
    mine = deal(batches, config)["client-2"].tolist()
    for position, index in enumerate(mine):
        if bad == local_steps or position % local_steps == 0:
            batches[index] = {**batches[index], "gt": batches[index]["gt"] * float("nan")}
    outcome, _ = federate(recipe, config, tmp_path, (batches, []))
    record = outcome.saved.record
    if bad < local_steps:
        assert record["clients"]["client-2"]["skipped"] == 1
        assert record["clients"]["client-2"]["loss"] is not None
        return
    assert "client-2" not in record["clients"]
    assert "finite" in record["refused"]["client-2"]
    assert "finite" in (tmp_path / "report.html").read_text()


def test_a_client_without_samples_or_steps_says_so():
    recipe, (batches, _) = miniature()
    place = Place(build(recipe))
    for samples, steps in ((0, 2), (8, 0)):
        client = LocalClient("a", Places(lambda: build(recipe)), batches, samples, recipe.train)
        work = encode_work(1, "svd", "fp32", None, Local(steps=steps), place.adapter.base, place.made, {})
        with pytest.raises(ValueError, match=f"learnt nothing: {steps} steps on {samples} samples"):
            client.train(1, work)


# --------------------------------------------------------------------------------------------------- at a server


class Sites(InProcess):
    """The sites of a study in this process, as a network on which they can be greeted."""

    def __init__(self, folder: Path, names: list[str]):
        self.holders = {name: open_site(folder / "sites" / name, own_data(folder, name)) for name in names}
        super().__init__({name: holder.client for name, holder in self.holders.items()})

    def connected(self) -> list[str]:
        return self.clients()

    def greet(self, names: Any, seconds: float) -> Iterator[Reply]:
        return (Reply(name, self.holders[name].answer("greet", 0, b"")) for name in names)


@pytest.mark.parametrize(("how", "shown"), [("sites gone for good", "failed: quorum"), ("interrupted", "")])
def test_a_server_keeps_what_its_good_rounds_came_to(how: str, shown: str, tmp_path: Path, monkeypatch):
    study = make_study(tmp_path / "study", rounds=9)
    error = WAYS.get(how, KeyboardInterrupt)
    monkeypatch.setattr(LocalClient, "train", ending(1, error))
    with pytest.raises((ValueError, KeyboardInterrupt)):
        run_rounds(study, lambda names, *_: Sites(study, list(names)))
    load(study / "run" / "adapter")
    if shown:
        assert Board.read(study / "run" / "board.json").phase.startswith(shown)
    assert keep_reached(study) == ""  # nothing is left to write
    for file in (study / "run" / "adapter").rglob("*"):
        if file.is_file():
            file.unlink()
    said: list[str] = []  # as after a kill, by whoever started the server
    with pytest.raises(KeyboardInterrupt), launch._keeping(study, said.append):
        raise KeyboardInterrupt
    assert "the adapter after round" in said[0]
    load(study / "run" / "adapter")
