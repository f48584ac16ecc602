"""A federation of any room: its folder, its server and its clients, from a recipe and the settings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from lorgnette.checkpoint import load_recipe, recipe_text, save
from lorgnette.common import parts
from lorgnette.common.files import make_folder, read_json, write_text
from lorgnette.federate.aggregation.aggregate import Global
from lorgnette.federate.rounds.client import LocalClient, Place, Places
from lorgnette.federate.rounds.client_store import FolderStore
from lorgnette.federate.rounds.loop import Outcome, Rounds
from lorgnette.federate.rounds.round_events import RoundListener
from lorgnette.federate.rounds.round_journal import RoundJournal
from lorgnette.federate.rounds.round_report import RoundReport
from lorgnette.federate.rounds.split import Indices, by_folder, read_manifest, split, write_manifest
from lorgnette.federate.rounds.transport import InProcess
from lorgnette.federate.settings import FederateConfig, Settings
from lorgnette.recipe import build, recipe_to_dict
from lorgnette.settings import from_mapping, make_recipe, read_yaml
from lorgnette.systems.protocol import RoomRecipe
from lorgnette.train.batches import Batches, as_batches, derived_seed
from lorgnette.train.loop import evaluate

CONFIG_FILE, RECIPE_FILE, SPLIT_FILE = "federation.yaml", "recipe.yaml", "split.json"

Loaded = tuple[Batches | Sequence[Any], Sequence[Any]]
"""Training batches and held-out batches, as a room's `loaders` or `tiny` give them."""


class FederationFolder:
    """Where things of one federation are: recipe, settings, split, journal, what clients keep, adapter, report."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.adapter = self.path / "adapter"
        self.report = self.path / "report.html"
        self.split = self.path / SPLIT_FILE
        self.data = self.path / parts.FILE
        self.journal = RoundJournal(self.path)

    @property
    def started(self) -> bool:
        """Whether a federation lives here."""
        return (self.path / CONFIG_FILE).exists()

    @property
    def is_tiny(self) -> bool:
        """Whether it runs on the room's miniature."""
        return bool(read_json(self.split, 2**30).get("tiny")) if self.split.is_file() else False

    def start(self, recipe: RoomRecipe, config: FederateConfig) -> None:
        """Write down how it runs; from here on it can go on."""
        make_folder(self.path)
        write_text(self.path / RECIPE_FILE, recipe_text(recipe))
        write_text(self.path / CONFIG_FILE, config_text(config))

    def settings(self) -> tuple[Any, FederateConfig]:
        """The recipe and the settings that were written down.

        Raises:
            FileNotFoundError: no federation lives here.
        """
        recipe = load_recipe(self.path)
        path = self.path / CONFIG_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{self.path} has no {CONFIG_FILE}: it is not the folder of a federation")
        given = from_mapping(Settings, {"federate": read_yaml(path)}, str(path))
        return recipe, make_recipe(Settings, given).federate

    def store(self, client: str) -> FolderStore:
        """What a client of this process keeps."""
        return FolderStore(self.path / "clients" / client)


class Server:
    """The side that aggregates: a task to evaluate with, the rounds, and the adapter they end in.

    Args:
        recipe: of the room; the same as the clients'.
        config: how the federation runs.
        folder: where it is kept.
        test: held-out batches; may be empty.
        listeners: called with each event.
    """

    def __init__(
        self,
        recipe: RoomRecipe,
        config: FederateConfig,
        folder: FederationFolder,
        test: Sequence[Any] = (),
        listeners: Iterable[RoundListener] = (),
    ):
        if recipe.lora is None:
            raise ValueError("lora: null trains the whole network; a federation needs an adapter")
        self.recipe, self.config, self.folder, self.test = recipe, config, folder, test
        place = Place(build(recipe).to(_device(recipe.train.device)))
        self.task, self.adapter, self.made = place.task, place.adapter, place.made
        self.at_home = self.made.matching(config.personal)
        self.rounds = Rounds(
            config,
            Global(self.made.without(self.at_home)),
            self.adapter.base,
            folder.journal,
            self.evaluate if len(test) and not config.personal else None,
            self.task.objective if len(test) else None,
            self.task.min_delta,
            [*listeners, RoundReport(folder.path)],
        )

    def evaluate(self, state: Global) -> Mapping[str, float]:
        """Metrics of what the server has."""
        self.adapter.write(self.made.updated(state.adapter), state.folded)
        return evaluate(self.task, self.test, self.recipe.train.precision)

    def keep(self, outcome: Outcome, client: LocalClient | None = None) -> Path:
        """Write the best adapter as an ordinary adapter folder, whatever the scheme.

        What was folded into the base becomes a part of the adapter, whose rank grows by it. With a client, its own
        layers come in, and it goes into a folder of `adapters`.
        """
        own = self.made if client is None else client.at_home(self.made)
        self.adapter.write(own.updated(outcome.best.whole()))
        folder = self.folder.adapter if client is None else self.folder.path / "adapters" / client.name
        saved = outcome.saved
        learnt = {"rounds": saved.round, "best_round": saved.best_round, "clients": len(saved.clients)}
        return save(self.task, self.recipe, folder, {**learnt, "after": dict(saved.best)})

    @contextlib.contextmanager
    def keeping(self, clients: Iterable[LocalClient] = ()) -> Iterator[None]:
        """Within the block, whatever ends it: what the rounds have come to is kept, and a ValueError says where.

        Args:
            clients: with layers of their own, each to be kept as well.
        """
        try:
            yield
        except BaseException as error:
            reached = self.rounds.reached()
            if reached is None:
                raise
            try:
                folder = self.keep(reached)
                for client in clients:
                    self.keep(reached, client)
            except (ValueError, OSError):  # a full disk, say: what ended the rounds is told
                raise error from None
            if isinstance(error, ValueError):
                raise ValueError(f"{error}; the adapter after round {reached.saved.round} is in {folder}") from None
            raise


def federate(
    recipe: RoomRecipe,
    config: FederateConfig,
    folder: str | os.PathLike[str],
    loaded: Loaded,
    listeners: Iterable[RoundListener] = (),
    tiny: bool = False,
) -> tuple[Outcome, Server]:
    """Run a federation in this process, or go on with the one in `folder`.

    Args:
        recipe: of any room.
        config: settings of the rounds.
        folder: for its files; where they are already, it goes on after the last round that was kept.
        loaded: training and held-out batches.
        listeners: called with each event of `lorgnette.federate.rounds.round_events`.
        tiny: remembered with the split: the data is the room's miniature.

    Returns:
        The outcome, and the server; the adapter has been written.

    Raises:
        ValueError: too few clients answered in several rounds in a row. If a round had counted before, the adapter of
            the rounds so far has been written all the same; so it is whatever else ends them.
    """
    home = FederationFolder(folder)
    if home.started and home.settings() != (recipe, config):
        raise ValueError(f"{home.path} holds a federation with other settings; another folder works")
    batches, test = as_batches(loaded[0], recipe.train.batch_size), loaded[1]
    count = len(batches)
    if home.started:
        _check_same(home, batches.parts)
    shares = read_manifest(home.split, count) if home.started else deal(batches, config)
    server = Server(recipe, config, home, test, listeners)
    if not home.started:
        write_manifest(home.split, shares, count, tiny)
        if batches.parts is not None:
            batches.parts.write(home.data)
        home.start(recipe, config)
    clients = local_clients(recipe, config, home, shares, (batches, test))
    own = clients.values() if config.personal else ()
    with server.keeping(own):
        outcome = server.rounds.run(InProcess(clients))
    server.keep(outcome)
    for client in own:
        server.keep(outcome, client)
    return outcome, server


def _check_same(home: FederationFolder, now: parts.Parts | None) -> None:
    """Refuse to go on with other samples under the same numbers."""
    before = parts.Parts.read(home.data)
    if before is None or now is None:
        return
    pairs = zip(before.training.items(), now.training.items(), strict=False)
    if len(before.training) != len(now.training) or any(a != b and c != d for (a, c), (b, d) in pairs):
        raise ValueError(
            f"{home.path} began with other images to learn from than there are now ({len(before.training)} then,"
            f" {len(now.training)} now): put them back, or begin another federation"
        )


def local_clients(
    recipe: RoomRecipe, config: FederateConfig, home: FederationFolder, shares: Mapping[str, Indices], loaded: Loaded
) -> dict[str, LocalClient]:
    """Clients of this process, each with its part of the training batches; they share their tasks.

    Args:
        recipe: of the room.
        config: how the federation runs.
        home: where they keep what they keep from round to round.
        shares: who has which samples, as `deal` says.
        loaded: training and held-out batches.
    """
    batches, test = as_batches(loaded[0], recipe.train.batch_size), loaded[1]
    places = Places(lambda: build(recipe))
    clients = {}
    for number, (name, indices) in enumerate(sorted(shares.items())):
        own = batches.part(indices, derived_seed(config.seed, number))
        store = home.store(name)
        clients[name] = LocalClient(name, places, own, own.samples, recipe.train, store, test, config.personal)
    return clients


def deal(batches: Batches | Sequence[Any], config: FederateConfig) -> dict[str, Indices]:
    """Who gets which items, by name.

    Raises:
        ValueError: there are too few items, or the folders they are from do not suit the settings.
    """
    batches = as_batches(batches)
    if config.split == "folders" or (config.split == "auto" and batches.folders is not None):
        return by_folder(batches.folders or {}, config.clients, config.min_size)
    shares = split(
        config.split,
        len(batches),
        batches.labels,
        config.clients,
        config.concentration,
        config.min_size,
        config.seed,
    )
    digits = len(str(config.clients))
    return {f"client-{number:0{digits}d}": indices for number, indices in enumerate(shares, start=1)}


def _device(name: str) -> torch.device:
    """Where a room's training with this setting runs."""
    if name != "auto":
        return torch.device(name)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def config_text(config: FederateConfig) -> str:
    """The settings as YAML."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    return yaml.safe_dump(plain, sort_keys=False)


def differences(before: tuple[Any, Any], after: tuple[Any, Any]) -> list[str]:
    """`rounds 60 -> 50` for each setting of the recipe and the rounds that is another one."""
    was, now = ({**_flat(recipe_to_dict(recipe)), **_flat(asdict(config))} for recipe, config in (before, after))
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    return [f"{name} {was.get(name)} -> {now.get(name)}" for name in names]


def _flat(tree: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{start}{name}.") if isinstance(value, dict) else {f"{start}{name}": value}
    return flat
