"""Federation: clients train one adapter on data that stays with them. Only adapters travel.

Settings import no torch; the rest is imported when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lorgnette.federate.settings import FederateConfig

if TYPE_CHECKING:
    from lorgnette.federate.aggregate import Aggregated, Global, Update
    from lorgnette.federate.client import LocalClient, Places
    from lorgnette.federate.codec import Refused
    from lorgnette.federate.journal import Journal
    from lorgnette.federate.rounds import Outcome, Rounds
    from lorgnette.federate.schemes import SCHEMES
    from lorgnette.federate.state import Adapter, AdapterState
    from lorgnette.federate.transport import Client, InProcess, Reply, Transport

_HOME = {
    "SCHEMES": "schemes",
    "Adapter": "state",
    "AdapterState": "state",
    "Aggregated": "aggregate",
    "Client": "transport",
    "Global": "aggregate",
    "InProcess": "transport",
    "Journal": "journal",
    "LocalClient": "client",
    "Outcome": "rounds",
    "Places": "client",
    "Refused": "codec",
    "Reply": "transport",
    "Rounds": "rounds",
    "Transport": "transport",
    "Update": "aggregate",
}

__all__ = [
    "SCHEMES",
    "Adapter",
    "AdapterState",
    "Aggregated",
    "Client",
    "FederateConfig",
    "Global",
    "InProcess",
    "Journal",
    "LocalClient",
    "Outcome",
    "Places",
    "Refused",
    "Reply",
    "Rounds",
    "Transport",
    "Update",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
