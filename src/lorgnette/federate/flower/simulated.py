"""Clients of a simulation: Flower's actors hold them, one set for each process; what they keep lies in files."""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path

from lorgnette.checkpoint import load_data
from lorgnette.federate.deploy.deployment import read_deployment
from lorgnette.federate.run import FederationFolder, deal, local_clients
from lorgnette.federate.wire.messages import facts_of


def answer(folder: Path, index: int, kind: str, round: int, data: bytes) -> bytes:
    """What the client number `index`, from 0, answers to a request; see `lorgnette.federate.deploy.data_holder`."""
    clients = _clients(folder)
    client = clients[sorted(clients)[index]]
    if kind == "train":
        return client.train(round, data)
    with client.places.lent() as place:
        facts = facts_of(place.adapter, place.made, read_deployment(folder).config.personal)
    said = {"name": client.name, "samples": client.samples, "clock": time.time(), **facts}
    return json.dumps(said).encode()


@lru_cache(maxsize=1)
def _clients(folder: Path):
    deployment = read_deployment(folder)
    recipe, config = deployment.recipe, deployment.config
    batches, test = load_data(recipe, folder / "run")
    return local_clients(recipe, config, FederationFolder(folder / "run"), deal(batches, config), (batches, test))
