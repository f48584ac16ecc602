"""The server of a federation: it waits for the sites, runs the rounds, keeps the journal and the adapter.

Whoever carries the bytes calls `run_rounds`, and after a kill once more: the journal says where to go on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from lorgnette.checkpoint import load_data
from lorgnette.common.files import make_folder, take_lock
from lorgnette.common.parts import FILE
from lorgnette.federate.deploy.board import Board
from lorgnette.federate.deploy.deployment import SETTINGS_FILE, Deployment, read_deployment
from lorgnette.federate.rounds.transport import Reply, Transport
from lorgnette.federate.run import FederationFolder, Server, deal, differences
from lorgnette.federate.wire.messages import facts_of
from lorgnette.systems.protocol import RoomRecipe

SERVING = "LORGNETTE_SERVING"  # environment: an identifier of this start of the server
SIMULATED = "LORGNETTE_SIMULATED"  # environment: set where all clients are on this machine
CLOCK_SECONDS = 60.0  # with a larger difference messages expire before they are read
GREETING_SECONDS = 60.0
SIMULATION_SECONDS = 600.0  # for Ray's processes to start
LOCK_SECONDS = 60.0


class Network(Transport, Protocol):
    """A transport on which clients can be greeted."""

    def connected(self) -> Sequence[str]:
        """Names of the clients that are connected now."""
        ...

    def greet(self, names: Sequence[str], seconds: float) -> Iterator[Reply]:
        """Ask clients who they are: each gives a line of JSON, see `lorgnette.federate.deploy.data_holder`."""
        ...


def run_rounds(folder: Path, connect: Callable[..., Network]) -> None:
    """Run the rounds of a federation's folder that are left, and keep the adapter in `run/adapter`.

    Args:
        folder: of the federation.
        connect: (names, name_of, quorum, gather) -> network; `name_of` tells the client a node speaks for.
    """
    run = make_folder(folder / "run")
    log = logging.getLogger("lorgnette.federate")
    handler = logging.FileHandler(run / "server.log")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        deployment = read_deployment(folder)
        if SIMULATED in os.environ:
            names = simulated_clients(deployment, run)
            deployment = replace(deployment, gather=0.0)  # a refused client will not come back with other data
        else:
            names = sorted(public_keys(folder).values())
        with _alone(run / "lock"):
            board = Board.of(run / "board.json", deployment.config.rounds, names, os.environ.get(SERVING, ""))
            _reported(board, lambda: _run(folder, deployment, names, board, connect))
    except Exception:
        log.exception("the rounds stopped")
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


def _reported(board: Board, work: Callable[[], None]) -> None:
    """Do the work; if it fails, tell the operator why."""
    try:
        work()
    except Exception as error:
        board.finish(f"failed: {' '.join(str(error).split()) or type(error).__name__}")
        raise


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold a lock that ends with this process; processes of a killed server may need a moment to end."""
    until = time.monotonic() + LOCK_SECONDS
    with file.open("w") as handle:
        while not take_lock(handle):
            if time.monotonic() > until:
                raise ValueError("another server runs the rounds of this folder: stop it first")
            time.sleep(0.2)
        yield


def public_keys(folder: Path) -> dict[bytes, str]:
    """The sites' names by their public keys."""
    from lorgnette.federate.deploy.keys import public_key_pem

    files = sorted((folder / "server" / "sites").glob("*.pub"))
    if not files:
        raise FileNotFoundError(f"no public key of a site in {folder / 'server' / 'sites'}: `lorgnette federate keys`")
    return {public_key_pem(file): file.stem for file in files}


def _run(
    folder: Path, deployment: Deployment, names: Sequence[str], board: Board, connect: Callable[..., Network]
) -> None:
    recipe, config, home = deployment.recipe, deployment.config, FederationFolder(folder / "run")
    if not home.started:
        home.start(recipe, config)
    elif home.settings() != (recipe, config):
        changed = ", ".join(differences(home.settings(), (recipe, config)))
        raise ValueError(f"{SETTINGS_FILE} changed since the rounds began ({changed}): put it back, or move run/ away")
    test = []
    if deployment.evaluate:
        test = held_out(recipe, True, home.path) if SIMULATED in os.environ else held_out(recipe)
    server = Server(recipe, config, home, test, [board])
    if SIMULATED in os.environ:
        name_of = simulated_names(connect([], lambda node: str(node.node_id)), len(names), SIMULATION_SECONDS).get
        network = connect(names, lambda node: name_of(str(node.node_id)))
    else:
        keys = public_keys(folder)
        network = connect(names, lambda node: keys.get(node.public_key), config.quorum, deployment.gather)
    saved = home.journal.latest()
    with server.keeping():
        if saved is None or saved.round < config.rounds:  # else all are done and only the adapter is left to write
            gather(network, deployment, facts_of(server.adapter, server.made, deployment.config.personal), board)
        outcome = server.rounds.run(network)
        if outcome.reason == "interrupted":
            raise KeyboardInterrupt
    server.keep(outcome)
    board.finish("finished" if outcome.reason == "done" else outcome.reason)


def keep_reached(folder: Path) -> str:
    """Write `run/adapter` from the journal, where the rounds were cut short before they could do it themselves.

    Returns:
        What was written, in words; empty where nothing is left to write.
    """
    home = FederationFolder(folder / "run")
    if not home.started or not home.journal.is_later_than(home.adapter):
        return ""
    with _alone(home.path / "lock"):
        server = Server(*home.settings(), home)
        reached = server.rounds.reached()
        if reached is None:
            return ""
        return f"the adapter after round {reached.saved.round} is in {server.keep(reached)}"


def held_out(recipe: RoomRecipe, dealt_out: bool = False, run: Path | None = None) -> Sequence[Any]:
    """The batches that the server scores rounds with: all images of its own folder, since it trains on none.

    Args:
        recipe: with the server's data.
        dealt_out: whether the folder is also what clients of a simulation train on; then a part is held out.
        run: the folder of a simulation, which says which part.

    Raises:
        ValueError, FileNotFoundError: no data is set, or it is not there.
    """
    own = None if dealt_out else recipe.data.all_held_out()
    return load_data(replace(recipe, data=own or recipe.data), run)[1]


def simulated_clients(deployment: Deployment, run: Path) -> list[str]:
    """The names of the clients among which the data is dealt out; which it is, is written down in `run`."""
    batches, _ = load_data(deployment.recipe, run)
    if batches.parts is not None and not (run / FILE).exists():
        batches.parts.write(run / FILE)
    return sorted(deal(batches, deployment.config))


def simulated_names(network: Network, count: int, seconds: float) -> dict[str, str]:
    """The client that each node of a simulation plays, by the node's number."""
    until = time.monotonic() + seconds
    while len(nodes := network.connected()) < count and time.monotonic() < until:
        time.sleep(0.2)
    replies = list(network.greet(nodes, seconds))
    if errors := [reply.error for reply in replies if reply.error]:
        raise ValueError(f"a simulated client did not start ({errors[0]})")
    return {reply.client: json.loads(reply.data)["name"] for reply in replies}


def gather(network: Network, deployment: Deployment, facts: Mapping[str, str], board: Board) -> None:
    """Greet all sites until each is ready, or until the time for it is over.

    Raises:
        ValueError: then fewer than the quorum are ready.
    """
    names, until = network.clients(), time.monotonic() + deployment.gather
    missing = set(names)
    while missing:
        for reply in network.greet(sorted(missing), GREETING_SECONDS):
            problem, samples = judge(reply, deployment, facts)
            if problem:
                board.failed(reply.client, problem, "not yet seen" if reply.error else "refused")
            else:
                board.seen(reply.client, samples)
                missing.discard(reply.client)
        if time.monotonic() > until:
            break
        time.sleep(0.5 if missing else 0)
    ready = len(names) - len(missing)
    if ready < math.ceil(deployment.config.quorum * len(names) - 1e-9) or not ready:
        because = "; ".join(f"{name}: {board.sites[name].problem or 'not seen'}" for name in sorted(missing)[:3])
        raise ValueError(f"only {ready} of {len(names)} sites are ready ({because}): start them, then serve again")


def judge(reply: Reply, deployment: Deployment, facts: Mapping[str, str]) -> tuple[str, int | None]:
    """What is wrong with a greeted site ('' if nothing), and how many samples it has."""
    if reply.error:
        return reply.error, None
    try:
        said = json.loads(reply.data[:4096])
        samples, clock = int(said["samples"]), float(said["clock"])
        base, schema = str(said["base"]), str(said["schema"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "its answer to a greeting is not in the format of this version", None
    late = abs(time.time() - clock) - reply.seconds
    if late > CLOCK_SECONDS:
        return f"its clock is {late:.0f} s off; up to {CLOCK_SECONDS:.0f} s work", samples
    if base != facts["base"]:
        return "it has another base model, or other settings of it", samples
    if schema != facts["schema"]:
        return "its adapter has other layers, ranks or sizes", samples
    if samples < deployment.min_samples:
        return f"it has {samples} samples; {deployment.min_samples} are needed", samples
    return "", samples
