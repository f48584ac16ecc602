"""A site's worker program: `python -m lorgnette.federate.deploy.data_holder FOLDER SETTINGS FD` holds model and data.

It answers the node over the connected socket with the number FD and ends when its standard input does, with the process
that started it. Its log is the site's own; only refusals without file names leave it.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorgnette.common.files import make_folder
from lorgnette.common.parts import FILE, Parts
from lorgnette.federate.deploy.deployment import Deployment, read_deployment, with_own_settings
from lorgnette.federate.deploy.keys import write_private
from lorgnette.federate.deploy.programs import end_group_with_input
from lorgnette.federate.deploy.worker import serve_requests, unpacked
from lorgnette.federate.rounds.client import LocalClient, Places
from lorgnette.federate.rounds.client_store import FolderStore
from lorgnette.federate.wire.messages import facts_of
from lorgnette.recipe import build
from lorgnette.systems import room_of
from lorgnette.systems.protocol import RoomRecipe
from lorgnette.train.batches import Batches, HeldOut
from lorgnette.version import __version__


class DataHolder:
    """One holder of data.

    Args:
        name: of the site.
        federation: what all agree on.
        recipe: with this site's own data.
        store: folder for what it keeps from round to round.

    Raises:
        ValueError, FileNotFoundError: the data or the base model cannot be read.
    """

    def __init__(self, name: str, deployment: Deployment, recipe: RoomRecipe, store: Path):
        batches, test = _loaded(recipe, store / FILE)
        places = Places(lambda: build(recipe))
        with places.lent() as place:  # built now, so that the first round need not wait for it
            self.facts = facts_of(place.adapter, place.made, deployment.config.personal)
        self.samples = batches.samples
        personal = deployment.config.personal
        kept, secret = FolderStore(store), noise_seed(store / "noise.key")
        self.client = LocalClient(
            name, places, batches, self.samples, recipe.train, kept, test or None, personal, secret
        )

    def answer(self, kind: str, round: int, data: bytes, hung_up: threading.Event | None = None) -> bytes:
        """Answer a request of the server: `greet` (a line of JSON) or `train` (an update)."""
        if kind == "greet":
            facts = {"version": __version__, "samples": self.samples, "clock": time.time(), **self.facts}
            return json.dumps(facts).encode()
        return self.client.train(round, data, hung_up)


def _loaded(recipe: RoomRecipe, file: Path) -> tuple[Batches, HeldOut]:
    """A site's data. What it once held out stays so; new images are learnt from, as a site goes on for months."""
    before, loaders = Parts.read(file), room_of(recipe).loaders
    more: list[Any] = [] if before is None else [replace(before, grows=True)]
    batches, test = loaders(recipe.data, recipe.train, *more)
    if batches.parts is not None:
        make_folder(file.parent)
        batches.parts.write(file)
    return batches, test


def noise_seed(file: Path) -> int:
    """This site's own seed of the noise on its updates: made once, so that a round asked again gets the same answer."""
    if not file.exists():
        write_private(file, secrets.token_hex(16).encode())
    return int(file.read_text(), 16)


def open_site(folder: Path, given: Mapping[str, Any]) -> DataHolder:
    """The site of a folder, with its own settings by flat name."""
    deployment = read_deployment(folder)
    return DataHolder(folder.resolve().name, deployment, with_own_settings(deployment, given), folder / "run" / "kept")


def main(folder: Path, given: Mapping[str, Any], connection: socket.socket) -> None:
    """Answer the node's requests until it hangs up."""
    end_group_with_input()
    run = make_folder(folder / "run")
    logging.basicConfig(filename=run / "worker.log", level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    log = logging.getLogger("lorgnette.federate.deploy.data_holder")
    site = open_site(folder, given)

    def answer(request: bytes, hung_up: threading.Event) -> bytes:
        kind, round, data = unpacked(request)
        started = time.monotonic()
        try:
            reply = site.answer(kind, round, data, hung_up)
        except BaseException:
            log.exception("%s of round %d", kind, round)  # whole, with file names: this log stays here
            raise
        log.info("%s of round %d: %d bytes in %.2f s", kind, round, len(reply), time.monotonic() - started)
        return reply

    print("ready", flush=True)
    serve_requests(answer, connection)
    os._exit(0)  # threads that still run have nobody to work for


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), socket.socket(fileno=int(sys.argv[3])))
